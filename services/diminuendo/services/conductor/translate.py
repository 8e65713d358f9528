"""From records to the wire."""

from __future__ import annotations

from collections import OrderedDict

from diminuendo.v1 import coordinator_service_pb2, fleet_pb2, job_pb2

from diminuendo.services.conductor.jobs import timestamp, timestamp_or_none
from diminuendo.services.conductor.records import Fleet, Job, Lease


def to_job(job: Job) -> job_pb2.Job:
    """The resource as clients see it."""
    return job_pb2.Job(
        name=job.name,
        spec=job.spec,
        state=job.state.wire,
        progress=job.progress,
        result=job.result,
        failure=job.failure,
        labels=job.labels,
        create_time=timestamp(job.create_time),
        start_time=timestamp_or_none(job.start_time),
        end_time=timestamp_or_none(job.end_time),
        update_time=timestamp(job.update_time),
        etag=job.etag,
        last_sequence=job.last_sequence,
        epoch=job.epoch,
        priority=job.priority,
        retry_of=job.retry_of,
        deadline=timestamp_or_none(job.deadline),
        fleet=job.fleet,
        model=job.model,
        trace_parent=job.trace_parent,
    )


def to_fleet(fleet: Fleet) -> fleet_pb2.Fleet:
    """The resource as clients see it."""
    states = [fleet_pb2.StateCount(state=state.wire, jobs=jobs) for state, jobs in sorted(fleet.counts.states.items())]
    return fleet_pb2.Fleet(
        name=fleet.name,
        labels=fleet.labels,
        create_time=timestamp(fleet.create_time),
        update_time=timestamp(fleet.update_time),
        counts=fleet_pb2.FleetCounts(models=fleet.counts.models, states=states, inside_delta=fleet.counts.inside_delta),
    )


class Shown:
    """Resources of the jobs shown last. The store gives the same record as long as nothing has changed."""

    def __init__(self, most: int = 2048) -> None:
        """Remember so many."""
        self._most = most
        self._resources: OrderedDict[str, tuple[Job, job_pb2.Job]] = OrderedDict()

    def of(self, job: Job) -> job_pb2.Job:
        """The resource as clients see it; it must not be changed."""
        shown = self._resources.get(job.name)
        if shown is None or shown[0] is not job:
            shown = self._resources[job.name] = job, to_job(job)
            if len(self._resources) > self._most:
                self._resources.popitem(last=False)
        return shown[1]


def to_lease(lease: Lease, weight: float) -> coordinator_service_pb2.Lease:
    """The lease as its coordinator sees it, with its project's weight."""
    job = lease.job
    return coordinator_service_pb2.Lease(
        job=to_job(job),
        epoch=job.epoch,
        expire_time=timestamp(job.lease_expire_time or 0),
        session_state=lease.session_state,
        next_step=job.next_step,
        weight=weight,
    )
