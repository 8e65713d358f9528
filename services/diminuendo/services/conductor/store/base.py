"""The contract of a store: typed, transactional, asynchronous. One contract suite runs over every backend.

Every method is one transaction: it happens wholly or not at all, and once it returns it survives the loss of the
process and of the machine's power. A cancelled call may still have happened.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from diminuendo.services.conductor.records import (
    Changes,
    CommittedStep,
    EventPage,
    Job,
    Lease,
    NewJob,
    Outcome,
    Report,
    RequestId,
    State,
)

Clock = Callable[[], int]
"""Microseconds since the epoch, UTC."""


class Store(Protocol):
    """Where jobs, events, steps and evaluations live.

    Every method may raise StoreUnavailableError: try again later. Nothing happened, unless the database was lost at
    the very commit; the same call again, with its request id, finds what did. Those that take a job's name
    raise JobNotFoundError; those that take an epoch raise StaleEpochError when the lease is over.
    """

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

    async def list_jobs(
        self,
        *,
        project: str | None = None,
        states: Collection[State] = (),
        before_id: int | None = None,
        limit: int = 50,
    ) -> Sequence[Job]:
        """Jobs, newest first.

        Args:
            project: Only this project's; None: all.
            states: Only jobs in these states; empty: all.
            before_id: Only jobs older than the one of this id.
            limit: At most so many.
        """
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

    async def read_events(self, name: str, *, after: int = 0, limit: int = 500) -> EventPage:
        """Events with a sequence number above `after`, in order."""
        ...

    async def lease_job(self, *, coordinator: str, request_id: str = "", lease_us: int) -> Lease | None:
        """Give the next job to a coordinator, or None when there is none.

        The order: the lease given under the same request_id, if it still holds; a running job of this coordinator
        or of one whose lease has ended; the oldest queued one. CANCELLING jobs whose coordinator is gone end here.
        """
        ...

    async def next_lease_end(self, states: Collection[State] = (State.RUNNING, State.CANCELLING)) -> int | None:
        """When the first of the leases of jobs in these states ends, if nobody extends it; None without any."""
        ...

    async def end_lapsed(self) -> int:
        """End CANCELLING jobs whose lease has ended, and say how many."""
        ...

    async def heartbeat(self, name: str, *, epoch: int, lease_us: int) -> Job:
        """Extend the lease."""
        ...

    async def get_evaluations(self, keys: Collection[str]) -> Mapping[str, bytes]:
        """Outcomes of the keys that are known."""
        ...

    async def report_evaluation(self, name: str, *, epoch: int, report: Report) -> bool:
        """Store an outcome under its key and note it in the job's log; False when the log had it already."""
        ...

    async def commit_step(self, name: str, *, epoch: int, step: CommittedStep) -> bool:
        """Store a step; False when it was the last one again.

        Raises:
            StepOutOfOrderError: Neither the next step nor the last one again.
        """
        ...

    async def release_job(self, name: str, *, epoch: int, outcome: Outcome | None) -> Job:
        """End the lease, and with an outcome the job; see `leases.release`."""
        ...

    async def ping(self) -> None:
        """Return when the store can be read, and written as far as is known."""
        ...

    async def close(self) -> None:
        """Finish what was begun and let go of everything."""
        ...
