"""The contract of a store: typed, transactional, asynchronous. One contract suite runs over every backend.

Every method is one transaction: it happens wholly or not at all, and once it returns it survives the loss of the
process and of the machine's power. A cancelled call may still have happened.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from diminuendo.v1 import job_pb2

from diminuendo.services.conductor.figures import Figures, FleetFigures, FleetResult
from diminuendo.services.conductor.records import (
    Changes,
    CommittedStep,
    EventPage,
    Fleet,
    Job,
    Lease,
    Listing,
    ModelOutcome,
    NewFleet,
    NewJob,
    Outcome,
    Report,
    RequestId,
    SortedArtifacts,
    State,
    StoredCoordinator,
    Update,
    WantedModel,
)

Clock = Callable[[], int]
"""Microseconds since the epoch, UTC."""

EVERY_JOB = Listing()
HELD = tuple(state for state in State if state.held)
PARTING = tuple(state for state in State if state.parting)


class FleetStore(Protocol):
    """Fleets, whose jobs are the store's. Errors as of `Store`; what takes a fleet's name raises FleetNotFoundError.

    What concerns many jobs is several transactions of a few jobs each, so that others have not to wait for all of it.
    The same call again does what is left.
    """

    async def create(self, new: NewFleet, *, allow_existing: bool = False) -> Fleet:
        """Store a fleet without models.

        Raises:
            FleetExistsError: The name is taken, and not to be taken for this fleet's.
        """
        ...

    async def get(self, name: str) -> Fleet:
        """One fleet."""
        ...

    async def page(self, project: str | None = None, *, after: int | None = None, limit: int = 50) -> Sequence[Fleet]:
        """Fleets of a project, or of all, the newest first; only those behind the one of an id."""
        ...

    async def delete(self, name: str, *, allow_missing: bool = False) -> None:
        """Forget a fleet whose jobs have all ended, and them.

        Raises:
            FleetActiveError: A job has not ended. Of one that began to run meanwhile, older jobs may be gone.
        """
        ...

    async def create_jobs(
        self, name: str, wanted: Sequence[WantedModel], *, replace_changed: bool = False
    ) -> Sequence[ModelOutcome]:
        """Create a job for each of some models that is to get one, see `fleets.wants_job`; what came of each.

        Args:
            wanted: Each model once.
        """
        ...

    async def retry(self, name: str, models: Sequence[str] = ()) -> Sequence[ModelOutcome]:
        """Try models again, see `retry_job`; what came of each.

        Args:
            models: Each once; none: all whose newest job failed.
        """
        ...

    async def cancel(self, name: str) -> Fleet:
        """Ask for the end of every newest job that has not ended."""
        ...

    async def models_after(self, name: str, model: str = "", *, limit: int) -> Sequence[Job]:
        """The newest job of each model, in the order of their names, behind a model. Of no fleet there are none."""
        ...

    async def newest(self, name: str, models: Collection[str]) -> Mapping[str, Job]:
        """The newest job of each of these models that has any."""
        ...


class Store(Protocol):
    """Where jobs, events, steps and evaluations live.

    Every method may raise StoreUnavailableError: try again later. Nothing happened, unless the database was lost at
    the very commit; the same call again, with its request id, finds what did. Those that take a job's name
    raise JobNotFoundError; those that take an epoch raise StaleEpochError when the lease is over.
    """

    @property
    def fleets(self) -> FleetStore:
        """Fleets of these jobs."""
        ...

    def subscribe(self, listener: Callable[[Changes], None]) -> None:
        """Call the listener after every commit that changed a job, from any thread. It must not block.

        Commits through other stores on the same database count, where the database can tell of them.
        """
        ...

    async def create_job(self, new: NewJob, request: RequestId | None = None) -> Job:
        """Store a job, queued. The same request again returns the job that it made, as it is by now.

        Raises:
            JobExistsError: The name is taken.
            RequestReusedError: The request's id came before with another content.
        """
        ...

    async def get_job(self, name: str) -> Job:
        """One job."""
        ...

    async def list_jobs(self, listing: Listing = EVERY_JOB) -> Sequence[Job]:
        """Jobs in the order asked for."""
        ...

    async def count_jobs(self) -> Mapping[State, int]:
        """Number of jobs in each state that has any."""
        ...

    async def cancel_job(self, name: str, request: RequestId | None = None) -> Job:
        """Ask for the job's end; see `jobs.cancel`.

        Raises:
            JobEndedError: It succeeded or failed.
            RequestReusedError: The request's id came before with another content.
        """
        ...

    async def pause_job(self, name: str, request: RequestId | None = None) -> Job:
        """Ask that nobody works on the job for a while; see `jobs.pause`.

        Raises:
            JobCancellingError: It is being cancelled.
            JobEndedError: It has ended.
            RequestReusedError: The request's id came before with another content.
        """
        ...

    async def resume_job(self, name: str, request: RequestId | None = None) -> Job:
        """Ask to go on with the job; see `jobs.resume`, and `pause_job` for the errors."""
        ...

    async def update_job(self, name: str, wanted: Update, request: RequestId | None = None) -> Job:
        """Set some of labels, priority and deadline.

        Raises:
            EtagMismatchError: The job has changed since the caller looked.
            JobEndedError: It has ended, and its priority or deadline was to be set.
            RequestReusedError: The request's id came before with another content.
        """
        ...

    async def retry_job(self, name: str, new_name: str, request: RequestId | None = None) -> Job:
        """Store another try of a job that failed or was cancelled, queued.

        Raises:
            JobNotRetriedError: It did neither.
            JobExistsError: The new name is taken.
            RequestReusedError: The request's id came before with another content.
        """
        ...

    async def delete_job(self, name: str, *, etag: str = "", allow_missing: bool = False) -> None:
        """Forget a job that has ended, with its events, steps, state and requests. Outcomes by key stay.

        Raises:
            EtagMismatchError: The job has changed since the caller looked.
            JobActiveError: It has not ended.
        """
        ...

    async def count_active(self) -> Mapping[str, int]:
        """Number of jobs, by project, that are queued or in a coordinator's hands."""
        ...

    async def read_events(self, name: str, *, after: int = 0, limit: int = 500) -> EventPage:
        """Events with a sequence number above `after`, in order."""
        ...

    async def lease_job(
        self,
        *,
        coordinator: str,
        request_id: str = "",
        lease_us: int,
        holding: Collection[str] = (),
        weights: Mapping[str, float] | None = None,
        project: str = "",
    ) -> Lease | None:
        """Give the next job to a coordinator, or None when there is none; of one project where one is given.

        The order: the lease given under the same request_id, if it still holds; a running job of this coordinator, but
        for those that it says it is holding, or of one whose lease has ended; a queued job. Of those comes first the
        project that has fewest jobs in coordinators' hands for its weight (1 where none is given), in it the highest
        priority, then the oldest. Jobs that a coordinator which is gone was to let go of are taken from it here.
        """
        ...

    async def next_lease_end(self, states: Collection[State] = HELD) -> int | None:
        """When the first of the leases of jobs in these states ends, if nobody extends it; None without any."""
        ...

    async def end_lapsed(self) -> int:
        """Take jobs that are to be let go of from coordinators whose lease has ended, and say how many."""
        ...

    async def heartbeat(self, name: str, *, epoch: int, lease_us: int) -> Job:
        """Extend the lease."""
        ...

    async def get_evaluations(self, keys: Collection[str]) -> Mapping[str, bytes]:
        """Outcomes of the keys that are known. Those that no job has reported any more count as used now."""
        ...

    async def report_evaluation(self, name: str, *, epoch: int, report: Report) -> bool:
        """Store an outcome under its key and note it in the job's log; False when the log had it already."""
        ...

    async def report_attempt(self, name: str, *, epoch: int, attempt: job_pb2.AttemptLost) -> bool:
        """Note an attempt that came to nothing in the job's log; False when the log had it already."""
        ...

    async def commit_step(self, name: str, *, epoch: int, step: CommittedStep) -> bool:
        """Store a step; False when it was the last one again.

        Raises:
            StepOutOfOrderError: Neither the next step nor the last one again.
        """
        ...

    async def release_job(self, name: str, *, epoch: int, outcome: Outcome | None, reason: str = "") -> Job:
        """End the lease, and with an outcome the job; see `leases.release`. Without one a reason is told."""
        ...

    async def age_evaluations(self, *, unused_before: int, dry_run: bool = False) -> int:
        """Forget outcomes that no job has reported, found so at or before a time, and say how many.

        Those that are found so for the first time wait from now on. Not one transaction but many small ones.
        """
        ...

    async def sort_artifacts(
        self, sha256s: Collection[str], *, unused_before: int, dry_run: bool = False
    ) -> SortedArtifacts:
        """Say which of some content jobs refer to, and which they do not: found so at or before a time, it is due.

        What is found so for the first time waits from now on. What is due is to be removed from the artifact store,
        and `removed_artifacts` called with it; until then `want_artifact` does not count on it.
        """
        ...

    async def removed_artifacts(self, sha256s: Collection[str]) -> None:
        """Content that was due has left the artifact store, or has to wait for another full time."""
        ...

    async def forget_overdue_artifacts(self, *, due_before: int) -> None:
        """Take off the list what has been on its way out for so long that it must be gone: a round broke off then.

        Args:
            due_before: No job was found to refer to it at or before this time.
        """
        ...

    async def want_artifact(self, sha256: str) -> bool:
        """Have content that no job refers to wait for a full time from now; False when it is being removed."""
        ...

    async def report_coordinator(self, name: str, body: bytes) -> None:
        """Store what a coordinator tells of itself, in the place of what it told before."""
        ...

    async def forget_coordinator(self, name: str) -> None:
        """Forget a coordinator, if it is known."""
        ...

    async def list_coordinators(self, *, since: int) -> Sequence[StoredCoordinator]:
        """What coordinators told last, of those that told it at or after a time; by name."""
        ...

    async def read_figures(self, *, coordinators_since: int) -> Figures:
        """Where jobs stand; of coordinators what was told at or after a time."""
        ...

    async def read_fleet_figures(
        self, known: Mapping[int, FleetResult]
    ) -> tuple[tuple[FleetFigures, ...], dict[int, FleetResult]]:
        """The newest fleets, and the results that they have by their jobs' ids: give them the next time as `known`."""
        ...

    async def ping(self) -> None:
        """Return when the store can be read, and written as far as is known."""
        ...

    async def close(self) -> None:
        """Finish what was begun and let go of everything."""
        ...
