"""What the store keeps, as frozen records.

What a record only carries from one side to the other (a spec, a result, an event) is the wire's own message:
written once, never changed in place. Times are microseconds since the epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import cast

from diminuendo.v1 import coordinator_service_pb2, job_pb2

from diminuendo.services.common.errors import DiminuendoError

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
    PAUSING = job_pb2.JOB_STATE_PAUSING
    PAUSED = job_pb2.JOB_STATE_PAUSED

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
        return self is State.RUNNING or self.parting

    @property
    def parting(self) -> bool:
        """Whether its coordinator is to let go of the job."""
        return self in (State.CANCELLING, State.PAUSING)


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
        priority: Higher ones are leased first.
        retry_of: Name of the job that this one is another try of; empty when it is none.
        deadline: When it is to end with its best model; None: it has no deadline.
        fleet: Name of the fleet that it belongs to; empty when it belongs to none.
        model: Which model of the fleet it is of.
        trace_parent: W3C traceparent of the call that created it; empty when that was not traced.
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
    priority: int = 0
    retry_of: str = ""
    deadline: int | None = None
    fleet: str = ""
    model: str = ""
    trace_parent: str = ""

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
    priority: int = 0
    retry_of: str = ""
    deadline: int | None = None
    fleet: str = ""
    model: str = ""
    trace_parent: str = ""


class OrderName(StrEnum):
    """What jobs are listed by."""

    CREATE_TIME = "create_time"
    UPDATE_TIME = "update_time"
    PRIORITY = "priority"


@dataclass(frozen=True, slots=True)
class Order:
    """How jobs are listed; the ones that are alike in it, by creation."""

    by: OrderName = OrderName.CREATE_TIME
    descending: bool = True


@dataclass(frozen=True, slots=True)
class Place:
    """Where a listing goes on: after the job of this id, which had this value of what is listed by."""

    value: int
    id: int


@dataclass(frozen=True, slots=True)
class Listing:
    """Which jobs to list, and how.

    Attributes:
        project: Only this project's; None: all.
        states: Only jobs in these states; empty: all.
        labels: Only jobs that have all of these.
        after: Only those behind this place; None: from the first.
        limit: At most so many.
        fleet: Only jobs of the fleet of this name; empty: all.
        newest_of_model: Of a fleet's jobs only the newest one of each model.
    """

    project: str | None = None
    states: frozenset[State] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)
    order: Order = Order()
    after: Place | None = None
    limit: int = 50
    fleet: str = ""
    newest_of_model: bool = False


@dataclass(frozen=True, slots=True)
class FleetCounts:
    """Models of a fleet by where their newest jobs stand.

    Attributes:
        states: Number of models whose newest job is in each state; states without any are left out.
        inside_delta: Of the models whose job SUCCEEDED, those whose result keeps what was asked for.
    """

    states: Mapping[State, int] = field(default_factory=dict)
    inside_delta: int = 0

    @property
    def models(self) -> int:
        """Models with a job."""
        return sum(self.states.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFleet:
    """A fleet to be created."""

    name: str
    project: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """A fleet, and where its models stand.

    Attributes:
        id: Rises with creation.
        name: ``projects/{project}/fleets/{fleet}``.
        update_time: When it or one of its jobs changed last.
    """

    id: int
    name: str
    project: str
    labels: Mapping[str, str]
    create_time: int
    update_time: int
    counts: FleetCounts = FleetCounts()


@dataclass(frozen=True, slots=True)
class WantedModel:
    """A model that a fleet is to have a job of.

    Attributes:
        new: The job, should one be created; its name is the store's to choose.
        refusal: Why it could not be created; a job that is there already is not touched by that.
    """

    new: NewJob
    refusal: DiminuendoError | None = None


@dataclass(frozen=True, slots=True)
class ModelOutcome:
    """What came of a model that was to get a job.

    Attributes:
        error: Why it did not get what was asked for; None when it did.
        job: The model's newest job, if there is one.
        created: Whether the job is new.
    """

    model: str
    error: DiminuendoError | None = None
    job: Job | None = None
    created: bool = False


UPDATED = ("labels", "priority", "deadline")
"""What an owner may set of a job."""


@dataclass(frozen=True, slots=True)
class Update:
    """What an owner sets of a job; None leaves it as it is, a deadline of 0 takes the deadline away."""

    labels: Mapping[str, str] | None = None
    priority: int | None = None
    deadline: int | None = None
    etag: str = ""

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of what is set."""
        return tuple(name for name in UPDATED if getattr(self, name) is not None)


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
    """One evaluation that came back.

    Attributes:
        outcome: Empty when there is nothing to store under its key.
        artifacts: sha256s of the content that the outcome names.
    """

    evaluation: job_pb2.EvaluationFinished
    outcome: bytes = b""
    artifacts: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class StoredCoordinator:
    """What a coordinator last told of itself.

    Attributes:
        name: Unique among those alive.
        update_time: When it told it, in microseconds.
        body: A serialized Coordinator message.
    """

    name: str
    update_time: int
    body: bytes


@dataclass(frozen=True, slots=True)
class SortedArtifacts:
    """Content by what becomes of it, as sha256s.

    Attributes:
        held: A job refers to it.
        waiting: No job does, and it is kept for now.
        due: No job has referred to it for long.
    """

    held: frozenset[str] = frozenset()
    waiting: frozenset[str] = frozenset()
    due: frozenset[str] = frozenset()


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
class Noted:
    """New events of a job's log.

    Attributes:
        job: As it is after them; without an id when they are its first ones.
    """

    job: Job
    events: tuple[job_pb2.JobEvent, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """What a commit changed, for those who wait.

    Attributes:
        jobs: Names of jobs with new events.
        models: (fleet, model) of those jobs that belong to fleets.
        queue: Whether a job may have become free to be leased.
        parting: Whether a job has come to wait for its coordinator to let go.
        everything: Changes may have been missed: whoever waits for any is to look.
        noted: The new events of these jobs, where this process stored them: each is in one process's changes, once.
    """

    jobs: frozenset[str] = frozenset()
    queue: bool = False
    parting: bool = False
    everything: bool = False
    models: frozenset[tuple[str, str]] = frozenset()
    noted: tuple[Noted, ...] = field(default=(), compare=False)
