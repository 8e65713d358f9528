"""ClusterService: what computes, as the coordinators tell it."""

# ruff: noqa: N802 - the methods are named by the protos
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diminuendo.v1 import cluster_service_pb2 as v1
from diminuendo.v1 import cluster_service_pb2_grpc, job_pb2
from grpc.aio import ServicerContext

from diminuendo.services.conductor import validate_cluster as validate
from diminuendo.services.conductor.jobs import timestamp
from diminuendo.services.conductor.records import StoredCoordinator
from diminuendo.services.conductor.store.base import Clock, Store

HEARD_US = 15_000_000
"""A coordinator that has told nothing for longer is taken to be gone; each tells something every 5 s."""
_Context = ServicerContext[Any, Any]


class ClusterService(cluster_service_pb2_grpc.ClusterServiceServicer):
    """Serves what coordinators told any conductor of this database."""

    def __init__(self, store: Store, clock: Clock) -> None:
        """Read from this store."""
        self._store, self._clock = store, clock

    async def GetCluster(self, request: v1.GetClusterRequest, context: _Context) -> v1.Cluster:
        """Everything that computes, or what works on one job."""
        job = validate.asked_job(request)
        cluster = to_cluster(await self._store.list_coordinators(since=self._clock() - HEARD_US), job)
        validate.answer_size(cluster)
        return cluster


def to_cluster(stored: Sequence[StoredCoordinator], job: str = "") -> v1.Cluster:
    """What was told, as clients see it.

    Args:
        stored: What each coordinator told last.
        job: Only evaluators that work on this job, or were lost with a work of it; empty: all.
    """
    cluster = v1.Cluster()
    for one in stored:
        coordinator = v1.Coordinator.FromString(one.body)
        if job:
            working = [evaluator for evaluator in coordinator.evaluators if _works_on(evaluator, job)]
            if not working:
                continue
            del coordinator.evaluators[:]
            coordinator.evaluators.extend(working)
            coordinator.jobs[:] = [name for name in coordinator.jobs if name == job]  # others are not the asker's
        coordinator.update_time.CopyFrom(timestamp(one.update_time))
        cluster.coordinators.append(coordinator)
    return cluster


def _works_on(evaluator: job_pb2.EvaluatorStatus, job: str) -> bool:
    return evaluator.job == job and evaluator.state != job_pb2.EVALUATOR_STATE_IDLE
