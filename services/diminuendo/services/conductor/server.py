"""The conductor's gRPC server: services, health, reflection, limits."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Mapping
from typing import Any

import grpc
from diminuendo.v1 import (
    artifact_service_pb2,
    artifact_service_pb2_grpc,
    cluster_service_pb2,
    cluster_service_pb2_grpc,
    coordinator_service_pb2,
    coordinator_service_pb2_grpc,
    fleet_service_pb2,
    fleet_service_pb2_grpc,
    job_service_pb2,
    job_service_pb2_grpc,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from diminuendo.engine.store import SharedStore
from diminuendo.services.common.errors import StartError
from diminuendo.services.conductor.authenticate import Authenticator
from diminuendo.services.conductor.bundles import Bundles
from diminuendo.services.conductor.garbage import Collector
from diminuendo.services.conductor.interceptor import CallInterceptor
from diminuendo.services.conductor.metrics import Metrics
from diminuendo.services.conductor.notify import Notifier
from diminuendo.services.conductor.servicers.artifact_service import ArtifactService
from diminuendo.services.conductor.servicers.cluster_service import ClusterService
from diminuendo.services.conductor.servicers.coordinator_service import CoordinatorService
from diminuendo.services.conductor.servicers.fleet_service import FleetService
from diminuendo.services.conductor.servicers.job_service import JobService
from diminuendo.services.conductor.store.base import Clock, Store
from diminuendo.services.conductor.uploads import Uploads
from diminuendo.services.conductor.versions import VersionInterceptor

MAX_MESSAGE = 4 * 1024 * 1024
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    # Two processes that share a port would each get half of the calls: a port in use is an error.
    ("grpc.so_reuseport", 0),
    # A client whose machine is gone sends no goodbye: find out, and let go of its streams.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)
LOCAL = "127.0.0.1"
QUIET_S, REFUSE_S, LAST_S = 0.05, 1.0, 0.5
SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (job_service_pb2, "JobService"),
        (fleet_service_pb2, "FleetService"),
        (coordinator_service_pb2, "CoordinatorService"),
        (artifact_service_pb2, "ArtifactService"),
        (cluster_service_pb2, "ClusterService"),
    )
)


class GrpcServer:
    """The server with everything registered. Belongs to one event loop."""

    def __init__(
        self,
        store: Store,
        notifier: Notifier,
        metrics: Metrics,
        artifacts: SharedStore,
        clock: Clock,
        *,
        lease_us: int,
        weights: Mapping[str, float],
        uploads: Uploads,
        collector: Collector,
        max_artifact_bytes: int,
        max_bundle_bytes: int,
        authenticator: Authenticator | None = None,
    ) -> None:
        """Register the services; nothing listens yet. Without an authenticator calls need no token."""
        self._notifier = notifier
        self._calls = CallInterceptor(metrics)
        checks = () if authenticator is None else (authenticator,)
        # From the outside in: errors of the authenticator are sent and counted by the one around it.
        self._server = grpc.aio.server(interceptors=[VersionInterceptor(), self._calls, *checks], options=OPTIONS)
        self._health: Any = health_aio.HealthServicer()
        bundles = Bundles(artifacts, max_bundle_bytes)
        job_service_pb2_grpc.add_JobServiceServicer_to_server(JobService(store, notifier, clock, bundles), self._server)
        fleet_service_pb2_grpc.add_FleetServiceServicer_to_server(FleetService(store, notifier, bundles), self._server)
        coordinator_service_pb2_grpc.add_CoordinatorServiceServicer_to_server(
            CoordinatorService(store, notifier, clock, lease_us=lease_us, weights=weights), self._server
        )
        artifact_service_pb2_grpc.add_ArtifactServiceServicer_to_server(
            ArtifactService(store, artifacts, uploads, collector, metrics, clock, max_bytes=max_artifact_bytes),
            self._server,
        )
        cluster_service_pb2_grpc.add_ClusterServiceServicer_to_server(ClusterService(store, clock), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def start(
        self, host: str, port: int, credentials: grpc.ServerCredentials | None = None, *, local_port: int | None = None
    ) -> tuple[int, int | None]:
        """Listen, by TLS where there are credentials, say that all is well, and return the ports.

        Args:
            local_port: Of 127.0.0.1, without TLS; None: there is no such port.
        """
        try:
            if credentials is None:
                bound = self._server.add_insecure_port(address(host, port))
            else:
                bound = self._server.add_secure_port(address(host, port), credentials)
        except RuntimeError:
            raise port_in_use("--port", host, port) from None
        local = None
        if local_port is not None:
            try:
                local = self._server.add_insecure_port(address(LOCAL, local_port))
            except RuntimeError:
                raise port_in_use("--local-port", LOCAL, local_port) from None
        await self._server.start()
        await self.tell(True)
        return bound, local

    async def tell(self, ready: bool) -> None:
        """Say in the health of each service whether it can be used; the empty name stands for being alive."""
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in SERVICES:
            await self._health.set(name, status)

    async def refuse(self) -> None:
        """Say that nothing more is served, end what would never end by itself, answer calls with UNAVAILABLE."""
        await self._health.enter_graceful_shutdown()
        self._notifier.close()
        await self._calls.refuse(quiet_s=QUIET_S, at_most_s=REFUSE_S)

    async def stop(self, drain_s: float) -> None:
        """Take no new call, let the present ones go on for so long, then end them."""
        await self._calls.drained(drain_s)
        await self._server.stop(LAST_S)


def listen(option: str, host: str, port: int) -> socket.socket:
    """A bound, listening socket.

    Raises:
        StartError: The port is in use, or the host is not one of this machine's.
    """
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror as error:
        raise StartError(f"--host {host!r} is not an address ({error.strerror}); give one of this machine's") from None
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise port_in_use(option, host, port) from None
        raise StartError(
            f"{option} {port} on --host {host!r} cannot be listened on ({error.strerror}); choose another"
        ) from None
    return listener


def probe(option: str, host: str, port: int) -> None:
    """StartError when the port cannot be had; asked before gRPC tries, which would say so in its own words."""
    listen(option, host, port).close()


def port_in_use(option: str, host: str, port: int) -> StartError:
    """The error of a port that another process has."""
    return StartError(f"{option} {port} on {host} is in use; stop what listens there, or choose another ({option} 0)")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there. Nothing is looked up."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def address(host: str, port: int) -> str:
    """HOST:PORT, with IPv6 hosts in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
