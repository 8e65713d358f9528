"""The Ray cluster that evaluators run on: a local one of our own, or an existing one by address."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray

from diminuendo.engine.bundle.cache import VARIABLE as BUNDLES
from diminuendo.services.common.errors import StartError
from diminuendo.services.coordinator.environment import is_isolated
from diminuendo.services.coordinator.scratch import scratch_folder

NAMESPACE = "diminuendo"
_OBJECT_STORE = 100 * 2**20
"""Bytes. Works and answers are small and travel inside messages; Ray's least is 75 MiB."""

_MOST_DEAD = 20
"""Nodes that are gone which are told of: a cluster that grows and shrinks has many."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one evaluator takes of the cluster."""

    cpus: float
    gpus: float


@dataclass(frozen=True, slots=True)
class Cluster:
    """A connected cluster.

    Attributes:
        evaluators: How many it is to have.
        share: What each of them takes.
    """

    evaluators: int
    share: Share


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster.

    Attributes:
        name: Host name.
        alive: Whether Ray counts on it.
        memory_bytes: Of the host, that Ray gives to what asks for memory.
    """

    name: str
    alive: bool
    cpus: float
    gpus: float
    memory_bytes: float


def nodes() -> tuple[Node, ...]:
    """The nodes of the connected cluster in the order of their names; of dead ones that are gone for good, a few."""
    found = [
        Node(
            name=str(node["NodeManagerHostname"] or node["NodeManagerAddress"]),
            alive=bool(node["Alive"]),
            cpus=float(node["Resources"].get("CPU", 0.0)),
            gpus=float(node["Resources"].get("GPU", 0.0)),
            memory_bytes=float(node["Resources"].get("memory", 0.0)),
        )
        for node in ray.nodes()  # type: ignore[no-untyped-call]
    ]
    alive = [node for node in found if node.alive]
    there = {node.name for node in alive}
    dead = [node for node in found if not node.alive and node.name not in there][-_MOST_DEAD:]
    return tuple(sorted([*alive, *dead], key=lambda node: node.name))


def cluster_address() -> str:
    """HOST:PORT of the connected cluster."""
    return str(ray.get_runtime_context().gcs_address)


@contextmanager
def connected(*, address: str | None, evaluators: int | None, gpus: float | None = None) -> Iterator[Cluster]:
    """Start a local Ray, or connect to the one at an address; leave it at the end.

    Call it from the main thread: the kernel ends the local Ray's processes when the thread that started them ends.

    Args:
        address: ``HOST:PORT`` or ``auto``; None starts a local Ray.
        evaluators: None: one for each GPU, or for each CPU core where there is no GPU.
        gpus: That one evaluator takes, 0 for one CPU, whether nodes are there for so many or are to come; None: what
            is there is divided.

    Raises:
        StartError: There is no such cluster, or it has no room.
    """
    with _local(evaluators) if address is None else _remote(address):
        yield _divide(evaluators, gpus)


@contextmanager
def _local(evaluators: int | None) -> Iterator[None]:
    if not is_isolated():
        raise RuntimeError("call diminuendo.services.coordinator.environment.isolate() before importing ray")
    with scratch_folder() as folder, _unpacking_in(folder / "bundles"):
        ray.init(
            address="local",
            num_cpus=evaluators or _cores(),
            object_store_memory=_OBJECT_STORE,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            namespace=NAMESPACE,
            _node_ip_address="127.0.0.1",
            _temp_dir=str(folder / "r"),  # one deeper: Ray opens its folder to everybody on the machine
        )
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _unpacking_in(folder: Path) -> Iterator[None]:
    """Have evaluators unpack bundles there: they are ended without a word, and what they leave goes with the folder."""
    before = os.environ.get(BUNDLES)
    os.environ[BUNDLES] = before or str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[BUNDLES]


@contextmanager
def _remote(address: str) -> Iterator[None]:
    if "://" in address:
        raise StartError(
            f"ray-address={address!r} is not usable: Ray Client is not supported; give HOST:PORT, auto, "
            "or the http:// URL of the cluster's dashboard"
        )
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, namespace=NAMESPACE)
    except (ConnectionError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())
        raise StartError(
            f"ray-address={address!r}: no Ray cluster there ({said}); start one, or leave it out"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _divide(evaluators: int | None, gpus_each: float | None) -> Cluster:
    if evaluators is not None and gpus_each is not None:
        return Cluster(evaluators, Share(0.0, gpus_each) if gpus_each else Share(1.0, 0.0))
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    count = evaluators or gpus or cpus
    if count < 1 or (not gpus and count > cpus):
        raise StartError(f"evaluators={count}, but the cluster has {cpus} CPU slots and no GPU; ask for fewer")
    # Several evaluators on one GPU share it evenly.
    return Cluster(count, Share(0.0, 1 / math.ceil(count / gpus)) if gpus else Share(1.0, 0.0))


def _cores() -> int:
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
