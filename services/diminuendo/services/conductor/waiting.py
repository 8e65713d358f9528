"""What takes time: following a job's log, waiting for its end or for a job to lease, taking those that nobody
lets go of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping

from diminuendo.v1 import job_pb2

from diminuendo.services.common import logs
from diminuendo.services.common.errors import InvalidFieldError, StoreUnavailableError, Violation
from diminuendo.services.conductor.notify import PARTING, QUEUE, Notifier, wait
from diminuendo.services.conductor.records import Job, Lease
from diminuendo.services.conductor.store.base import PARTING as PARTING_STATES
from diminuendo.services.conductor.store.base import Clock, Store

PAGE = 500
RETRY_S = 1.0
SECOND_US = 1_000_000
_log = logs.get(__name__)


async def follow(
    store: Store, notifier: Notifier, name: str, *, after: int = 0, page: int = PAGE
) -> AsyncIterator[job_pb2.JobEvent]:
    """A job's events after a sequence number: the stored ones, then new ones, to the one that ends the job.

    Raises:
        InvalidFieldError: There is no event of that number yet.
        StoppingError: The server stops.
    """
    with notifier.listen(name) as changed:
        first = True
        while True:
            changed.clear()
            notifier.check_open()
            seen = await store.read_events(name, after=after, limit=page)
            if first and after > seen.job.last_sequence:
                raise InvalidFieldError([_beyond(after, seen.job.last_sequence)])
            first = False
            for event in seen.events:
                yield event
                after = event.sequence
            if seen.complete:
                return
            if len(seen.events) < page:
                await changed.wait()


def _beyond(after: int, newest: int) -> Violation:
    return Violation(
        "after_sequence", f"{after} is past the job's newest event, {newest}; give a number that was seen, or 0"
    )


async def ended_within(store: Store, notifier: Notifier, clock: Clock, name: str, *, wait_us: int) -> Job:
    """The job once it has ended, or as it is when the time is over.

    Raises:
        StoppingError: The server stops.
    """
    deadline = clock() + wait_us
    with notifier.listen(name) as changed:
        while True:
            changed.clear()
            notifier.check_open()
            job = await store.get_job(name)
            if job.state.final or clock() >= deadline:
                return job
            await wait(changed, (deadline - clock()) / SECOND_US)


async def lease_within(
    store: Store,
    notifier: Notifier,
    clock: Clock,
    *,
    coordinator: str,
    request_id: str,
    lease_us: int,
    wait_us: int,
    holding: Collection[str] = (),
    weights: Mapping[str, float] | None = None,
    project: str = "",
) -> Lease | None:
    """The next job for a coordinator; None when none comes within the time.

    Raises:
        StoppingError: The server stops.
    """
    deadline = clock() + wait_us
    with notifier.listen(QUEUE) as changed:
        while True:
            changed.clear()
            notifier.check_open()
            lease = await store.lease_job(
                coordinator=coordinator,
                request_id=request_id,
                lease_us=lease_us,
                holding=holding,
                weights=weights,
                project=project,
            )
            if lease is not None or clock() >= deadline:
                return lease
            ends = await store.next_lease_end()
            until = deadline if ends is None else min(deadline, ends)
            await wait(changed, max(0.0, (until - clock()) / SECOND_US))


async def end_lapsed(store: Store, notifier: Notifier, clock: Clock) -> None:
    """For as long as the server runs: take parting jobs from coordinators whose lease is over."""
    with notifier.listen(PARTING) as changed:
        while True:
            changed.clear()
            try:
                ended = await store.end_lapsed()
                ends = await store.next_lease_end(PARTING_STATES)
            except StoreUnavailableError as error:
                _log.warning("sweep_failed", error=str(error), retry_s=RETRY_S)
                await wait(changed, RETRY_S)
                continue
            if ended:
                _log.info("lapsed_jobs_taken", jobs=ended)
            await wait(changed, None if ends is None else max(0.0, (ends - clock()) / SECOND_US))
