"""A whole conductor: folder, database, gRPC and HTTP, from start to a clean stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass

from diminuendo.engine.stores import LocationError, open_store
from diminuendo.services.common import logs
from diminuendo.services.common.errors import StartError
from diminuendo.services.conductor.authenticate import Authenticator
from diminuendo.services.conductor.clusters.base import Provider
from diminuendo.services.conductor.clusters.providing import prepared, provider_for, providing
from diminuendo.services.conductor.garbage import Collector, collect_now_and_then
from diminuendo.services.conductor.http import application, serving
from diminuendo.services.conductor.lock import data_folder
from diminuendo.services.conductor.metrics import Host, Metrics
from diminuendo.services.conductor.notify import Notifier
from diminuendo.services.conductor.readiness import watch_store
from diminuendo.services.conductor.server import LOCAL, GrpcServer, address, is_loopback, listen, probe
from diminuendo.services.conductor.settings import ConductorSettings
from diminuendo.services.conductor.store.base import Clock, Store
from diminuendo.services.conductor.store.sql import SqlStore, wall_clock
from diminuendo.services.conductor.tls import Certificate
from diminuendo.services.conductor.tokens import Tokens
from diminuendo.services.conductor.uploads import Uploads
from diminuendo.services.conductor.waiting import end_lapsed

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Running:
    """A conductor that serves.

    Attributes:
        grpc: HOST:PORT of gRPC.
        http: HOST:PORT of the pages.
        store: Its store.
        notifier: Who waits for what.
        sweeper: Ends abandoned jobs; it ends only when the conductor stops, or by a defect.
        local: HOST:PORT of the gRPC on this machine that is not encrypted; empty: there is none.
        provider: Of the clusters that jobs are computed on; None: others see to them.
    """

    grpc: str
    http: str
    store: Store
    notifier: Notifier
    sweeper: asyncio.Task[None]
    local: str = ""
    provider: Provider | None = None


@dataclass(frozen=True, slots=True)
class _Guard:
    """What stands before the calls, as the settings ask for it.

    Attributes:
        authenticator: Checks tokens; None: calls need none.
        certificate: Of TLS; None: gRPC is not encrypted.
    """

    authenticator: Authenticator | None
    certificate: Certificate | None


@asynccontextmanager
async def conducting(settings: ConductorSettings, *, clock: Clock = wall_clock) -> AsyncIterator[Running]:
    """Serve inside; on the way out refuse, drain, stop, in this order.

    Raises:
        StartError: A port, the folder or the database cannot be used. The ports are tried first, so that one in
            use leaves no folder behind.
    """
    settings = prepared(settings)
    guard = _guard(settings, clock)
    host = Host(settings.data_dir, settings.uploads_dir, settings.tls_cert_file)
    probe("--port", settings.host, settings.port)
    with (
        closing(listen("--http-port", settings.host, settings.http_port)) as listener,
        data_folder(settings.data_dir),
    ):
        http = address(settings.host, listener.getsockname()[1])
        notifier, metrics = Notifier(), Metrics(clock, host)
        async with _store(settings, clock, metrics) as store:
            store.subscribe(metrics.committed)
            store.subscribe(notifier.publish)
            async with (
                _sweeping(store, notifier, clock) as sweeper,
                serving(application(store, notifier, metrics), listener, drain_s=settings.drain_s),
                _grpc(settings, store, notifier, metrics, clock, guard) as (grpc, local),
            ):
                provider = await asyncio.to_thread(provider_for, settings, store, notifier, clock, grpc=local or grpc)
                async with providing(provider):
                    yield Running(grpc, http, store, notifier, sweeper, local, provider)


def _guard(settings: ConductorSettings, clock: Clock) -> _Guard:
    """Read what it needs, and say what an owner may not have meant.

    Raises:
        StartError: A file cannot be used.
    """
    authenticator = certificate = None
    if settings.tls_cert_file is not None and settings.tls_key_file is not None:
        certificate = Certificate(settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file)
    if settings.checks_tokens:
        own = settings.coordinator_token.get_secret_value()
        authenticator = Authenticator(Tokens(settings.tokens_file, clock, coordinator_token=own))
    beyond = not is_loopback(settings.host)
    if beyond and authenticator is None:
        _log.warning("open_to_everybody", host=settings.host, remedy="give --tokens-file, or listen on 127.0.0.1")
    if beyond and authenticator is not None and certificate is None:
        _log.warning("tokens_not_encrypted", host=settings.host, remedy="give --tls-cert-file and --tls-key-file")
    return _Guard(authenticator, certificate)


@asynccontextmanager
async def _store(settings: ConductorSettings, clock: Clock, metrics: Metrics) -> AsyncIterator[Store]:
    store = await asyncio.to_thread(SqlStore.open, settings.url, clock=clock, timed=metrics.time_store)
    try:
        yield store
    finally:
        await metrics.settle()
        await store.close()


@asynccontextmanager
async def _sweeping(store: Store, notifier: Notifier, clock: Clock) -> AsyncIterator[asyncio.Task[None]]:
    sweeper = asyncio.create_task(end_lapsed(store, notifier, clock), name="sweeper")
    try:
        yield sweeper
    finally:
        sweeper.cancel()
        await asyncio.wait({sweeper})


@asynccontextmanager
async def _grpc(
    settings: ConductorSettings, store: Store, notifier: Notifier, metrics: Metrics, clock: Clock, guard: _Guard
) -> AsyncIterator[tuple[str, str]]:
    try:
        artifacts = open_store(settings.artifacts_location)
    except LocationError as error:
        raise StartError(f"artifacts: {error}") from None
    uploads = Uploads(settings.uploads_dir, artifacts)
    collector = Collector(store, artifacts, uploads, metrics, clock, keep_s=settings.keep_s)
    lease_us = round(settings.lease_s * 1_000_000)
    server = GrpcServer(
        store,
        notifier,
        metrics,
        artifacts,
        clock,
        lease_us=lease_us,
        weights=settings.weights,
        uploads=uploads,
        collector=collector,
        max_artifact_bytes=settings.max_artifact_bytes,
        max_bundle_bytes=settings.max_bundle_bytes,
        authenticator=guard.authenticator,
    )
    beside: set[asyncio.Task[None]] = set()
    try:
        credentials = None if guard.certificate is None else guard.certificate.credentials()
        bound, local = await server.start(settings.host, settings.port, credentials, local_port=settings.local_port)
        if guard.authenticator is not None:
            beside.add(asyncio.create_task(guard.authenticator.watch(), name="tokens"))
        beside.add(asyncio.create_task(watch_store(store, server.tell), name="readiness"))
        beside.add(asyncio.create_task(collect_now_and_then(collector, settings.collect_every_s), name="garbage"))
        yield address(settings.host, bound), "" if local is None else address(LOCAL, local)
    finally:
        for task in beside:
            task.cancel()
        if beside:
            await asyncio.wait(beside)
        await server.refuse()
        await server.stop(settings.drain_s)
