"""Chooses the provider that the settings name, and runs it beside the conductor."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from diminuendo.engine.stores import resolved
from diminuendo.services.common import logs
from diminuendo.services.conductor.clusters import manifest
from diminuendo.services.conductor.clusters.backoff import Backoff
from diminuendo.services.conductor.clusters.base import Provider
from diminuendo.services.conductor.clusters.demand import Queue
from diminuendo.services.conductor.clusters.kube import KubeApi
from diminuendo.services.conductor.clusters.kuberay import KubeRayProvider
from diminuendo.services.conductor.clusters.leader import leader_for
from diminuendo.services.conductor.clusters.local import LocalProvider
from diminuendo.services.conductor.clusters.planner import Policy
from diminuendo.services.conductor.clusters.ray import RayProvider
from diminuendo.services.conductor.notify import Notifier
from diminuendo.services.conductor.store.base import Clock, Store

if TYPE_CHECKING:
    from diminuendo.services.conductor.settings import ConductorSettings

log = logs.get(__name__)

_FIRST_DELAY_S, _LAST_DELAY_S = 1.0, 30.0


def prepared(settings: ConductorSettings) -> ConductorSettings:
    """The settings with what a coordinator on this machine needs to be let in: a token, and a line without TLS."""
    if settings.cluster != "local":
        return settings
    more: dict[str, object] = {}
    if settings.checks_tokens and not settings.coordinator_token.get_secret_value():
        more["coordinator_token"] = SecretStr(secrets.token_urlsafe(32))
    if settings.tls_cert_file is not None and settings.local_port is None:
        more["local_port"] = 0
    return settings.model_copy(update=more)


def provider_for(
    settings: ConductorSettings, store: Store, notifier: Notifier, clock: Clock, *, grpc: str
) -> Provider | None:
    """The provider that the settings name; None for none.

    Args:
        clock: The store's.
        grpc: HOST:PORT of this conductor's gRPC for processes on this machine.

    Raises:
        StartError: The template or the configuration of the Kubernetes cluster cannot be used.
    """
    if settings.cluster == "local":
        return _local(settings, grpc)
    if settings.cluster == "ray":
        return _ray(settings)
    if settings.cluster == "kuberay":
        return _kuberay(settings, Queue(store, notifier, clock))
    return None


def _local(settings: ConductorSettings, grpc: str) -> Provider:
    # The same after a restart, so that it gets its jobs back, and another one for each conductor of one database.
    place = f"{socket.gethostname()}:{settings.data_dir.absolute()}"
    name = f"local-{hashlib.sha256(place.encode()).hexdigest()[:8]}"
    flags = _flags(settings, name, conductor=grpc, ray_address="")
    token = settings.coordinator_token.get_secret_value()
    return LocalProvider(name, flags, settings.data_dir / "coordinator.log", token=token)


def _ray(settings: ConductorSettings) -> Provider:
    name = settings.cluster_instance
    leader = leader_for(settings.url, name)
    return RayProvider(
        name, _flags(settings, name), settings.cluster_address, leader, settle_s=settings.cluster_settle_s
    )


def _kuberay(settings: ConductorSettings, queue: Queue) -> Provider:
    policy = Policy(
        idle_s=settings.cluster_idle_s,
        keep_s=settings.cluster_keep_s,
        settle_s=settings.cluster_settle_s,
        evaluators_per_job=settings.cluster_evaluators_per_job,
    )
    return KubeRayProvider(
        KubeApi(settings.cluster_namespace),
        manifest.load(settings.cluster_template or Path()),
        queue,
        leader_for(settings.url, settings.cluster_instance),
        lambda name, project: _flags(settings, name, project=project),
        policy,
        instance=settings.cluster_instance,
        per_project=settings.cluster_scope == "project",
        dashboard=settings.cluster_dashboard,
    )


def _flags(
    settings: ConductorSettings, name: str, *, conductor: str = "", ray_address: str = "auto", project: str = ""
) -> Sequence[str]:
    """A coordinator's flags. What it is to know besides, a token or TLS, it finds in its environment."""
    flags = ["--conductor", conductor or settings.cluster_conductor, "--name", name]
    flags += ["--artifacts", resolved(settings.artifacts_location), "--jobs", str(settings.cluster_jobs)]
    flags += ["--log-level", settings.log_level]
    flags += ["--ray-address", ray_address] if ray_address else []
    flags += ["--project", project] if project else []
    return flags


@asynccontextmanager
async def providing(provider: Provider | None) -> AsyncIterator[None]:
    """Run it inside; on the way out, wait for its end."""
    if provider is None:
        yield
        return
    task = asyncio.create_task(_kept(provider), name="provider")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _kept(provider: Provider) -> None:
    """Run it, and again: whatever happens to clusters is not the end of the conductor."""
    backoff = Backoff(_FIRST_DELAY_S, _LAST_DELAY_S)
    while True:
        try:
            await provider.run()
        except Exception:
            delay = backoff.next()
            log.exception("provider_failed", again_in_s=round(delay, 2))
            await asyncio.sleep(delay)
