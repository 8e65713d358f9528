"""What the store keeps, as frozen records.

What a record only carries from one side to the other (a spec, a result, an event) is the wire's own message:
written once, never changed in place. Times are microseconds since the epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import cast

from diminuendo.v1 import coordinator_service_pb2, job_pb2

Outcome = job_pb2.JobResult | job_pb2.JobFailure | coordinator_service_pb2.Cancelled
"""How a coordinator may end a job."""


class State(IntEnum):
    """States of a job; the numbers are the wire's."""

    QUEUED = job_pb2.JOB_STATE_QUEUED
    RUNNING = job_pb2.JOB_STATE_RUNNING
    CANCELLING = job_pb2.JOB_STATE_CANCELLING
    CANCELLED = job_pb2.JOB_STATE_CANCELLED
    SUCCEEDED = job_pb2.JOB_STATE_SUCCEEDED
    FAILED = job_pb2.JOB_STATE_FAILED

    @property
    def wire(self) -> job_pb2.JobState.ValueType:
        """The number, as the wire's type."""
        return cast("job_pb2.JobState.ValueType", int(self))

    @property
    def final(self) -> bool:
        """Whether the job has ended."""
        return self in (State.CANCELLED, State.SUCCEEDED, State.FAILED)

    @property
    def held(self) -> bool:
        """Whether a coordinator has the job."""
        return self in (State.RUNNING, State.CANCELLING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as it is stored.

    Attributes:
        id: Rises with creation; 0 until it is stored.
        name: ``projects/{project}/jobs/{job}``.
        last_sequence: Number of its newest event; every change of a job is an event.
        epoch: Number of leases that it has had.
        next_step: Number that the next committed step must have.
        coordinator: Who holds it; empty when nobody does.
        lease_request: The request_id under which the lease was given.
        lease_expire_time: When the lease ends; None when nobody holds it.
        released: Digest of the last release, so that its retry is known.
    """

    name: str
    project: str
    spec: job_pb2.JobSpec
    labels: Mapping[str, str]
    create_time: int
    update_time: int
    id: int = 0
    state: State = State.QUEUED
    progress: job_pb2.JobProgress | None = None
    result: job_pb2.JobResult | None = None
    failure: job_pb2.JobFailure | None = None
    start_time: int | None = None
    end_time: int | None = None
    last_sequence: int = 0
    epoch: int = 0
    next_step: int = 0
    coordinator: str = ""
    lease_request: str = ""
    lease_expire_time: int | None = None
    released: str = ""

    @property
    def etag(self) -> str:
        """Changes with every change of the job."""
        return f"{self.id}-{self.last_sequence}"

    def lease_ended(self, now: int) -> bool:
        """Whether the job's coordinator has not been heard of for a whole lease."""
        return self.state.held and (self.lease_expire_time is None or self.lease_expire_time <= now)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job to be created."""

    name: str
    project: str
    spec: job_pb2.JobSpec
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RequestId:
    """A request that may come again.

    Attributes:
        scope: Within which the id is unique: a project's name.
        digest: sha256 of the request's content, its method included.
    """

    scope: str
    id: str
    digest: str


@dataclass(frozen=True, slots=True)
class Lease:
    """A job in a coordinator's hands, and what it needs to go on."""

    job: Job
    session_state: bytes


@dataclass(frozen=True, slots=True)
class Report:
    """One evaluation that came back; `outcome` is empty when there is nothing to store under its key."""

    evaluation: job_pb2.EvaluationFinished
    outcome: bytes = b""


@dataclass(frozen=True, slots=True)
class CommittedStep:
    """One step of the search; `session_state` is empty when the state before it still serves."""

    step: job_pb2.StepCommitted
    session_state: bytes = b""
    warnings: tuple[job_pb2.Warning, ...] = ()


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events in order, without gaps, after the sequence number asked for.

    Attributes:
        job: The job at the moment of reading.
    """

    job: Job
    events: tuple[job_pb2.JobEvent, ...]

    @property
    def complete(self) -> bool:
        """Whether no event follows these, now or ever."""
        return self.job.state.final and (not self.events or self.events[-1].sequence == self.job.last_sequence)


@dataclass(frozen=True, slots=True)
class Changes:
    """What a commit changed, for those who wait.

    Attributes:
        jobs: Names of jobs with new events.
        queue: Whether a job may have become free to be leased.
        cancelling: Whether a job has come to wait for its coordinator to let go.
        everything: Changes may have been missed: whoever waits for any is to look.
    """

    jobs: frozenset[str] = frozenset()
    queue: bool = False
    cancelling: bool = False
    everything: bool = False
