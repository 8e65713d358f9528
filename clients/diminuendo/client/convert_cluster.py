"""Turns what a server tells of its clusters into the client's types."""

from __future__ import annotations

from diminuendo.v1 import cluster_service_pb2, job_pb2

from diminuendo.client.cluster import Cluster, ClusterNode, Coordinator, Evaluator, EvaluatorState
from diminuendo.client.convert import time_in

_STATES = {
    job_pb2.EvaluatorState.Value(f"EVALUATOR_STATE_{state.value}"): state
    for state in EvaluatorState
    if state is not EvaluatorState.UNKNOWN
}


def cluster(message: cluster_service_pb2.Cluster) -> Cluster:
    """The cluster as dataclasses."""
    return Cluster(tuple(map(_coordinator, message.coordinators)))


def _coordinator(message: cluster_service_pb2.Coordinator) -> Coordinator:
    return Coordinator(
        name=message.name,
        version=message.version,
        ray_address=message.ray_address,
        start_time=time_in(message, "start_time"),
        update_time=time_in(message, "update_time"),
        evaluators=tuple(map(_evaluator, message.evaluators)),
        nodes=tuple(ClusterNode(n.name, n.alive, n.cpus, n.gpus, n.memory_bytes) for n in message.nodes),
        works_waiting=message.works_waiting,
        jobs=tuple(message.jobs),
    )


def _evaluator(message: job_pb2.EvaluatorStatus) -> Evaluator:
    return Evaluator(
        name=message.evaluator,
        state=_STATES.get(message.state, EvaluatorState.UNKNOWN),
        job=message.job,
        kind=message.kind,
        index=message.index,
        subject=message.work,
        attempt=message.attempt,
        since=time_in(message, "since"),
        node=message.node,
        cpus=message.cpus,
        gpus=message.gpus,
    )
