"""The store's contract: jobs, requests, the event log."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest
from diminuendo.v1 import job_pb2

from diminuendo.services.common.errors import (
    JobEndedError,
    JobExistsError,
    JobNotFoundError,
    RequestReusedError,
    StoreUnavailableError,
)
from diminuendo.services.conductor.records import (
    Changes,
    CommittedStep,
    Listing,
    NewJob,
    OrderName,
    RequestId,
    State,
)
from diminuendo.services.conductor.store.base import Store
from diminuendo.services.conductor.store.listing import place_of

Open = Callable[[], Awaitable[Store]]
NewJobs = Callable[..., NewJob]
LEASE = 30_000_000


async def states(store: Store, name: str) -> list[str]:
    """The states that a job's log tells of."""
    page = await store.read_events(name)
    return [State(e.state_changed.state).name for e in page.events if e.HasField("state_changed")]


async def test_a_job_comes_back_as_it_was_given(store: Store, new_job: NewJobs, now: list[int]) -> None:
    made = await store.create_job(new_job("a"))
    read = await store.get_job("projects/p/jobs/a")
    assert read == made
    assert (read.state, read.epoch, read.next_step, read.last_sequence) == (State.QUEUED, 0, 0, 1)
    assert read.spec == job_pb2.JobSpec(zoo="digits", delta=1.0, seed=3)
    assert read.labels == {"team": "vision"}
    assert read.create_time == read.update_time == now[0]
    assert read.start_time is read.end_time is None


async def test_an_unknown_job_is_not_found(store: Store) -> None:
    for call in (
        store.get_job("projects/p/jobs/no"),
        store.cancel_job("projects/p/jobs/no"),
        store.read_events("projects/p/jobs/no"),
        store.heartbeat("projects/p/jobs/no", epoch=1, lease_us=LEASE),
        store.release_job("projects/p/jobs/no", epoch=1, outcome=None),
    ):
        with pytest.raises(JobNotFoundError, match=r"no job 'projects/p/jobs/no'"):
            await call


async def test_a_taken_name_is_refused_and_leaves_no_trace(store: Store, new_job: NewJobs) -> None:
    await store.create_job(new_job("a"))
    with pytest.raises(JobExistsError, match="job_id 'a' is taken"):
        await store.create_job(new_job("a"), RequestId("p", "r", "d"))
    assert len(await store.list_jobs()) == 1
    assert (await store.create_job(new_job("b"), RequestId("p", "r", "d"))).name == "projects/p/jobs/b"


async def test_the_same_request_makes_one_job(store: Store, new_job: NewJobs) -> None:
    request = RequestId("p", "r1", "digest")
    first = await store.create_job(new_job("a"), request)
    await store.cancel_job(first.name)
    again = await store.create_job(new_job("other"), request)
    assert again.name == first.name
    assert again.state is State.CANCELLED, "a retry is told how the job stands by now"
    assert len(await store.list_jobs()) == 1


async def test_the_same_request_id_with_another_content_is_refused(store: Store, new_job: NewJobs) -> None:
    await store.create_job(new_job("a"), RequestId("p", "r1", "digest"))
    with pytest.raises(RequestReusedError, match="request_id 'r1' came before"):
        await store.create_job(new_job("b"), RequestId("p", "r1", "another"))
    with pytest.raises(RequestReusedError):
        await store.cancel_job("projects/p/jobs/a", RequestId("p", "r1", "another"))
    assert (await store.get_job("projects/p/jobs/a")).state is State.QUEUED
    await store.create_job(new_job("b", "q"), RequestId("q", "r1", "another"))


async def test_concurrent_retries_make_one_job(store: Store, new_job: NewJobs) -> None:
    request = RequestId("p", "r1", "digest")
    jobs = await asyncio.gather(*(store.create_job(new_job(f"a{i}"), request) for i in range(40)))
    assert len({job.name for job in jobs}) == 1
    assert len(await store.list_jobs()) == 1


async def test_threads_with_loops_of_their_own_can_share_a_store(store: Store, new_job: NewJobs) -> None:
    failures: list[BaseException] = []

    async def many(k: int) -> None:
        for i in range(20):
            await store.create_job(new_job(f"t{k}-{i}"), RequestId("p", f"{k}-{i}", "d"))
            await store.get_job(f"projects/p/jobs/t{k}-{i}")

    def run(k: int) -> None:
        try:
            asyncio.run(many(k))
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=run, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert not failures
    listed = await store.list_jobs(Listing(limit=1000))
    assert len(listed) == 120
    assert len({job.id for job in listed}) == 120


async def test_listing_is_newest_first_filtered_and_paged(store: Store, new_job: NewJobs) -> None:
    for i in range(7):
        await store.create_job(new_job(f"a{i}"))
    await store.create_job(new_job("b", "q"))
    await store.cancel_job("projects/p/jobs/a2")
    mine = [job.name.rpartition("/")[2] for job in await store.list_jobs(Listing("p"))]
    assert mine == ["a6", "a5", "a4", "a3", "a2", "a1", "a0"]
    assert [job.name for job in await store.list_jobs(Listing(limit=1))] == ["projects/q/jobs/b"]
    cancelled = await store.list_jobs(Listing(states=frozenset({State.CANCELLED})))
    assert [job.name for job in cancelled] == ["projects/p/jobs/a2"]
    page = await store.list_jobs(Listing("p", limit=3))
    await store.create_job(new_job("late"))
    rest = await store.list_jobs(Listing("p", after=place_of(page[-1], OrderName.CREATE_TIME), limit=10))
    assert [job.name.rpartition("/")[2] for job in rest] == ["a3", "a2", "a1", "a0"]


async def test_counts_are_by_state(store: Store, new_job: NewJobs) -> None:
    assert await store.count_jobs() == {}
    for i in range(3):
        await store.create_job(new_job(f"a{i}"))
    await store.cancel_job("projects/p/jobs/a0")
    assert await store.count_jobs() == {State.QUEUED: 2, State.CANCELLED: 1}


async def test_a_queued_job_is_cancelled_at_once_and_only_once(store: Store, new_job: NewJobs, now: list[int]) -> None:
    job = await store.create_job(new_job("a"))
    now[0] += 5
    cancelled = await store.cancel_job(job.name)
    assert (cancelled.state, cancelled.end_time, cancelled.update_time) == (State.CANCELLED, now[0], now[0])
    assert cancelled.etag != job.etag
    assert await store.cancel_job(job.name) == cancelled
    assert await states(store, job.name) == ["QUEUED", "CANCELLED"]


async def test_a_job_that_succeeded_cannot_be_cancelled(store: Store, new_job: NewJobs) -> None:
    job = await store.create_job(new_job("a"))
    await store.lease_job(coordinator="c", lease_us=LEASE)
    await store.release_job(job.name, epoch=1, outcome=job_pb2.JobResult(drop=0.5))
    with pytest.raises(JobEndedError, match="SUCCEEDED"):
        await store.cancel_job(job.name)
    assert await states(store, job.name) == ["QUEUED", "RUNNING", "SUCCEEDED"]


async def test_events_have_no_gaps_under_concurrent_writers(
    store: Store, new_job: NewJobs, new_step: Callable[..., CommittedStep], new_report: Callable[..., object]
) -> None:
    names = [(await store.create_job(new_job(f"a{i}"))).name for i in range(4)]
    for i in range(4):
        await store.lease_job(coordinator=f"c{i}", lease_us=LEASE)

    async def steps(name: str) -> None:
        for number in range(25):
            await store.commit_step(name, epoch=1, step=new_step(number, warnings=number % 3))

    async def reports(name: str, k: int) -> None:
        for i in range(10):
            await store.report_evaluation(name, epoch=1, report=new_report(10 * k + i, f"{k}-{i}", b"x"))  # type: ignore[arg-type]

    work = [steps(name) for name in names] + [reports(name, k) for name in names for k in range(4)]
    await asyncio.gather(*work)
    for name in names:
        page = await store.read_events(name, limit=1000)
        assert [event.sequence for event in page.events] == list(range(1, page.job.last_sequence + 1))
        # queued, running, leased; 25 steps with 0+1+2+... warnings; 40 evaluations
        assert len(page.events) == 3 + 25 + (8 * 3 + 0) + 40
        order = [event.step_committed.step for event in page.events if event.HasField("step_committed")]
        assert order == list(range(25))


async def test_events_can_be_read_from_any_number(store: Store, new_job: NewJobs) -> None:
    job = await store.create_job(new_job("a"))
    await store.lease_job(coordinator="c", lease_us=LEASE)
    await store.cancel_job(job.name)
    await store.release_job(job.name, epoch=1, outcome=None)
    whole = await store.read_events(job.name)
    assert [event.WhichOneof("kind") for event in whole.events] == [
        "state_changed",
        "state_changed",
        "leased",
        "state_changed",
        "state_changed",
    ]
    assert whole.complete
    for after in range(6):
        page = await store.read_events(job.name, after=after, limit=2)
        assert page.events == whole.events[after : after + 2]
        assert page.complete == (after >= 3)


async def test_every_change_is_told_to_listeners(store: Store, new_job: NewJobs) -> None:
    told: list[Changes] = []
    store.subscribe(told.append)
    job = await store.create_job(new_job("a"))
    await store.lease_job(coordinator="c", lease_us=LEASE)
    await store.heartbeat(job.name, epoch=1, lease_us=LEASE)
    await store.cancel_job(job.name)
    only = frozenset({job.name})
    assert told == [Changes(only, queue=True), Changes(only), Changes(only, parting=True)]


async def test_everything_is_there_after_reopening(
    open_store: Open, new_job: NewJobs, new_step: Callable[..., CommittedStep]
) -> None:
    before = await open_store()
    job = await before.create_job(new_job("a"), RequestId("p", "r", "d"))
    await before.lease_job(coordinator="c", lease_us=LEASE)
    await before.commit_step(job.name, epoch=1, step=new_step(0, b"state"))
    expected = await before.get_job(job.name), await before.read_events(job.name)
    await before.close()
    after = await open_store()
    assert (await after.get_job(job.name), await after.read_events(job.name)) == expected
    assert (await after.create_job(new_job("b"), RequestId("p", "r", "d"))).name == job.name
    lease = await after.lease_job(coordinator="c", lease_us=LEASE)
    assert lease is not None
    assert (lease.job.epoch, lease.job.next_step, lease.session_state) == (2, 1, b"state")


async def test_a_closed_store_says_unavailable(store: Store, new_job: NewJobs) -> None:
    await store.close()
    with pytest.raises(StoreUnavailableError):
        await store.create_job(new_job("a"))
    with pytest.raises(StoreUnavailableError):
        await store.get_job("projects/p/jobs/a")


async def test_a_call_that_is_cancelled_harms_no_other(store: Store, new_job: NewJobs) -> None:
    calls = [asyncio.create_task(store.create_job(new_job(f"a{i}"))) for i in range(30)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    done = await asyncio.gather(*calls, return_exceptions=True)
    kept = {job.name for job in done[1::2] if not isinstance(job, BaseException)}
    assert len(kept) == 15
    stored = {job.name for job in await store.list_jobs(Listing(limit=100))}
    assert kept <= stored
    for name in stored:
        assert [event.sequence for event in (await store.read_events(name)).events] == [1]
