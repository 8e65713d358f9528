"""What coordinators may tell of their clusters, and what may be asked of it."""

from __future__ import annotations

from diminuendo.v1 import cluster_service_pb2, coordinator_service_pb2

from diminuendo.services.conductor.validate import Problems, job_name

MIB = 1024 * 1024
MAX_REPORT = 3 * MIB
MAX_ANSWER = 3 * MIB


def report(request: coordinator_service_pb2.ReportClusterRequest) -> str:
    """Name of the coordinator that tells."""
    problems, told = Problems(), request.coordinator
    if not 1 <= len(told.name) <= 255:
        problems.add("coordinator.name", f"{told.name!r} is no name; give 1 to 255 characters")
    if (size := told.ByteSize()) > MAX_REPORT:
        problems.add(
            "coordinator", f"{size} bytes are too many; give at most {MAX_REPORT}: run several coordinators instead"
        )
    problems.check()
    return told.name


def asked_job(request: cluster_service_pb2.GetClusterRequest) -> str:
    """The job that is asked about; empty: all."""
    if request.job:
        problems = Problems()
        job_name(problems, "job", request.job)
        problems.check()
    return request.job


def answer_size(cluster: cluster_service_pb2.Cluster) -> None:
    """Refuse an answer that no message holds, instead of failing to send it."""
    if (size := cluster.ByteSize()) > MAX_ANSWER:
        problems = Problems()
        problems.add("job", f"what all evaluators do is {size} bytes, over {MAX_ANSWER}; ask about one job at a time")
        problems.check()
