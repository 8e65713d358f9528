"""The thread that tells the conductor what this coordinator's cluster is made of and what each evaluator does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from types import TracebackType
from typing import Self

import grpc
from diminuendo.v1 import cluster_service_pb2 as v1
from diminuendo.v1 import coordinator_service_pb2, job_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from diminuendo.services.common import logs
from diminuendo.services.coordinator.cluster import Node, Share, cluster_address, nodes
from diminuendo.services.coordinator.executor import RayExecutor
from diminuendo.services.coordinator.rpc import Conductor, code_of
from diminuendo.services.coordinator.standing import Standing, StandingState
from diminuendo.services.coordinator.translate import job_of

log = logs.get(__name__)

SPACING_S = 0.5
"""Least time between two reports: short works change what evaluators do many times a second."""

EVERY_S = 5.0
"""Most time between two reports; a conductor forgets a coordinator after three times as long."""

_ATTEMPT_S, _PARTING_S = 5.0, 1.0
_MAX_SUBJECT = 200
_STATES: dict[StandingState, job_pb2.EvaluatorState.ValueType] = {
    "starting": job_pb2.EVALUATOR_STATE_STARTING,
    "idle": job_pb2.EVALUATOR_STATE_IDLE,
    "busy": job_pb2.EVALUATOR_STATE_BUSY,
    "lost": job_pb2.EVALUATOR_STATE_LOST,
}


class ClusterReport:
    """Reports while inside: `with ClusterReport(...):`. At the end it says that the coordinator leaves."""

    def __init__(
        self,
        conductor: Conductor,
        executor: RayExecutor,
        *,
        name: str,
        local: bool,
        holding: Callable[[], Sequence[str]],
    ) -> None:
        """Tell of an executor.

        Args:
            conductor: Who is told; while it is away, or knows no such report, it is told later.
            executor: Whose evaluators are told of.
            name: Of the coordinator.
            local: Whether its Ray is its own.
            holding: Names of the jobs that it works on.
        """
        self._conductor, self._executor, self._holding = conductor, executor, holding
        self._own = v1.Coordinator(name=name, version=version("diminuendo"), start_time=_timestamp(time.time()))
        self._own.ray_address = "local" if local else cluster_address()
        self._nodes: tuple[Node, ...] = ()
        self._looked = 0.0
        self._answered = True
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cluster-report", daemon=True)

    def __enter__(self) -> Self:
        """Start."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Say goodbye, after a report that is under way."""
        self._over.set()
        self._executor.changed.set()
        self._thread.join(_ATTEMPT_S)
        leaving = coordinator_service_pb2.ReportClusterRequest(coordinator=self._own, leaving=True)
        self._send(leaving, timeout_s=_PARTING_S)

    def _run(self) -> None:
        while not self._over.is_set():
            self._executor.changed.clear()
            self._send(coordinator_service_pb2.ReportClusterRequest(coordinator=self._told()), timeout_s=_ATTEMPT_S)
            self._over.wait(SPACING_S)
            self._executor.changed.wait(EVERY_S - SPACING_S)

    def _send(self, request: coordinator_service_pb2.ReportClusterRequest, *, timeout_s: float) -> None:
        try:
            self._conductor.stub.ReportCluster(request, timeout=timeout_s)
        except (grpc.RpcError, ValueError) as error:  # ValueError: the connection was closed
            if self._answered:
                code = str(code_of(error)) if isinstance(error, grpc.RpcError) else ""
                log.warning("cluster_not_told", code=code, detail=str(error), again_in_s=EVERY_S)
            self._answered = False
        else:
            self._answered = True

    def _told(self) -> v1.Coordinator:
        told = v1.Coordinator(works_waiting=self._executor.works_waiting, jobs=self._holding())
        told.MergeFrom(self._own)
        share = self._executor.share
        told.evaluators.extend(to_status(one, share) for one in self._executor.standings)
        told.nodes.extend(_to_node(node) for node in self._known_nodes())
        return told

    def _known_nodes(self) -> tuple[Node, ...]:
        """The nodes, asked for not more often than it takes: evaluators change faster than nodes."""
        now = time.monotonic()
        if not self._nodes or now - self._looked >= EVERY_S - SPACING_S:
            try:
                self._nodes, self._looked = nodes(), now
            except Exception as error:  # noqa: BLE001 - Ray raises whatever it meets; whoever needs it notices, too
                log.warning("nodes_not_told", detail=str(error))
        return self._nodes


def to_status(standing: Standing, share: Share) -> job_pb2.EvaluatorStatus:
    """What an evaluator does, and what Ray has given to it, as the conductor is told."""
    return job_pb2.EvaluatorStatus(
        evaluator=standing.evaluator,
        work=standing.subject[:_MAX_SUBJECT],
        state=_STATES[standing.state],
        job=job_of(standing.claim),
        kind=standing.kind,
        index=standing.index,
        attempt=standing.attempt,
        since=_timestamp(standing.since),
        node=standing.node,
        cpus=share.cpus,
        gpus=share.gpus,
    )


def _to_node(node: Node) -> v1.ClusterNode:
    return v1.ClusterNode(
        name=node.name, alive=node.alive, cpus=node.cpus, gpus=node.gpus, memory_bytes=node.memory_bytes
    )


def _timestamp(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(round(seconds * 1e6))
    return stamp
