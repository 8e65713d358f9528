"""The store's contract: pausing, resuming, changing, retrying and deleting jobs, and listings of every order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from diminuendo.v1 import coordinator_service_pb2, job_pb2

from diminuendo.services.common.errors import (
    CancelNotRequestedError,
    DiminuendoError,
    EtagMismatchError,
    JobActiveError,
    JobCancellingError,
    JobEndedError,
    JobExistsError,
    JobNotFoundError,
    JobNotRetriedError,
    RequestReusedError,
    StaleEpochError,
)
from diminuendo.services.conductor.records import (
    Changes,
    CommittedStep,
    Job,
    Lease,
    Listing,
    NewJob,
    Order,
    OrderName,
    Outcome,
    RequestId,
    State,
    Update,
)
from diminuendo.services.conductor.store.base import PARTING, Store
from diminuendo.services.conductor.store.listing import place_of

NewJobs = Callable[..., NewJob]
Open = Callable[[], Awaitable[Store]]
LEASE = 30_000_000
NAME = "projects/p/jobs/a"
FAILURE = job_pb2.JobFailure(reason="INTERNAL", message="m")


async def states(store: Store, name: str = NAME) -> list[str]:
    """The states that a job's log tells of, in order."""
    page = await store.read_events(name, limit=1000)
    assert [event.sequence for event in page.events] == list(range(1, page.job.last_sequence + 1))
    return [State(e.state_changed.state).name for e in page.events if e.HasField("state_changed")]


async def lease(store: Store, coordinator: str = "c") -> Lease:
    given = await store.lease_job(coordinator=coordinator, lease_us=LEASE)
    assert given is not None
    return given


async def ended(store: Store, new: NewJob, outcome: Outcome) -> Job:
    """A job that has run to its end."""
    await store.create_job(new)
    epoch = (await lease(store)).job.epoch
    if isinstance(outcome, coordinator_service_pb2.Cancelled):
        await store.cancel_job(new.name)
    return await store.release_job(new.name, epoch=epoch, outcome=outcome)


async def test_a_queued_job_is_paused_and_nobody_gets_it(store: Store, new_job: NewJobs) -> None:
    await store.create_job(new_job("a"))
    paused = await store.pause_job(NAME)
    assert paused.state is State.PAUSED
    assert await store.pause_job(NAME) == paused, "pausing again changes nothing"
    assert await store.lease_job(coordinator="c", lease_us=LEASE) is None
    resumed = await store.resume_job(NAME)
    assert resumed.state is State.QUEUED
    assert await store.resume_job(NAME) == resumed
    assert (await lease(store)).job.name == NAME
    assert await states(store) == ["QUEUED", "PAUSED", "QUEUED", "RUNNING"]


async def test_a_running_job_is_paused_by_its_coordinator_and_goes_on_from_its_last_step(
    store: Store, new_job: NewJobs, new_step: Callable[..., CommittedStep]
) -> None:
    await store.create_job(new_job("a"))
    await lease(store)
    await store.commit_step(NAME, epoch=1, step=new_step(0, b"state"))
    assert (await store.pause_job(NAME)).state is State.PAUSING
    assert (await store.heartbeat(NAME, epoch=1, lease_us=LEASE)).state is State.PAUSING
    await store.commit_step(NAME, epoch=1, step=new_step(1, b"later"))
    released = await store.release_job(NAME, epoch=1, outcome=None)
    assert (released.state, released.coordinator, released.lease_expire_time) == (State.PAUSED, "", None)
    assert await store.release_job(NAME, epoch=1, outcome=None) == released, "a release that comes again"
    with pytest.raises(StaleEpochError, match="is PAUSED"):
        await store.heartbeat(NAME, epoch=1, lease_us=LEASE)
    await store.resume_job(NAME)
    again = await lease(store, "other")
    assert (again.job.epoch, again.job.next_step, again.session_state) == (2, 2, b"later")
    assert await states(store) == ["QUEUED", "RUNNING", "PAUSING", "PAUSED", "QUEUED", "RUNNING"]


async def test_a_job_resumed_before_its_coordinator_let_go_stays_with_it(store: Store, new_job: NewJobs) -> None:
    await store.create_job(new_job("a"))
    await lease(store)
    await store.pause_job(NAME)
    resumed = await store.resume_job(NAME)
    assert (resumed.state, resumed.coordinator, resumed.epoch) == (State.RUNNING, "c", 1)
    let_go = await store.release_job(NAME, epoch=1, outcome=None)
    assert let_go.state is State.QUEUED, "its coordinator had begun to: another one takes it"
    assert await states(store) == ["QUEUED", "RUNNING", "PAUSING", "RUNNING", "QUEUED"]


async def test_a_paused_jobs_coordinator_that_is_gone_is_not_waited_for(
    store: Store, new_job: NewJobs, now: list[int]
) -> None:
    for name in ("a", "b", "c"):
        await store.create_job(new_job(name))
        await lease(store, f"of-{name}")
        await store.pause_job(f"projects/p/jobs/{name}")
    assert await store.next_lease_end(PARTING) == now[0] + LEASE
    now[0] += LEASE
    assert (await store.resume_job("projects/p/jobs/b")).state is State.QUEUED
    assert await store.end_lapsed() == 2
    assert await states(store) == ["QUEUED", "RUNNING", "PAUSING", "PAUSED"]
    assert await states(store, "projects/p/jobs/b") == ["QUEUED", "RUNNING", "PAUSING", "PAUSED", "QUEUED"]
    with pytest.raises(StaleEpochError):
        await store.release_job(NAME, epoch=1, outcome=job_pb2.JobResult(drop=0.5))
    await store.create_job(new_job("d"))
    await store.cancel_job("projects/p/jobs/b")
    await lease(store, "of-d")
    now[0] += LEASE
    assert (await store.pause_job("projects/p/jobs/d")).state is State.PAUSED, "its lease had ended before"


async def test_a_coordinator_that_asks_again_has_lost_a_job_that_was_to_be_paused(
    store: Store, new_job: NewJobs
) -> None:
    await store.create_job(new_job("a"))
    await lease(store)
    await store.pause_job(NAME)
    assert await store.lease_job(coordinator="c", lease_us=LEASE) is None
    assert (await store.get_job(NAME)).state is State.PAUSED


@pytest.mark.parametrize(
    ("outcome", "state"),
    [(job_pb2.JobResult(drop=0.5), State.SUCCEEDED), (FAILURE, State.FAILED)],
    ids=["result", "failure"],
)
async def test_an_end_that_comes_although_a_pause_was_asked_for_stands(
    store: Store, new_job: NewJobs, outcome: Outcome, state: State
) -> None:
    await store.create_job(new_job("a"))
    await lease(store)
    await store.pause_job(NAME)
    assert (await store.release_job(NAME, epoch=1, outcome=outcome)).state is state


async def test_a_job_to_be_paused_is_not_released_as_cancelled(store: Store, new_job: NewJobs) -> None:
    await store.create_job(new_job("a"))
    await lease(store)
    await store.pause_job(NAME)
    with pytest.raises(CancelNotRequestedError, match="is PAUSING and nobody asked to cancel it"):
        await store.release_job(NAME, epoch=1, outcome=coordinator_service_pb2.Cancelled())


async def test_paused_and_pausing_jobs_are_cancelled(store: Store, new_job: NewJobs) -> None:
    await store.create_job(new_job("a"))
    await store.pause_job(NAME)
    assert (await store.cancel_job(NAME)).state is State.CANCELLED
    other = await store.create_job(new_job("b"))
    await lease(store)
    await store.pause_job(other.name)
    assert (await store.cancel_job(other.name)).state is State.CANCELLING
    for call in (store.pause_job(other.name), store.resume_job(other.name)):
        with pytest.raises(JobCancellingError, match="is CANCELLING, which cannot be taken back"):
            await call
    assert (await store.release_job(other.name, epoch=1, outcome=None)).state is State.CANCELLED


@pytest.mark.parametrize(
    "outcome",
    [job_pb2.JobResult(drop=0.5), FAILURE, coordinator_service_pb2.Cancelled()],
    ids=lambda o: type(o).__name__,
)
async def test_an_ended_job_is_neither_paused_nor_resumed(store: Store, new_job: NewJobs, outcome: Outcome) -> None:
    job = await ended(store, new_job("a"), outcome)
    for call in (store.pause_job(NAME), store.resume_job(NAME)):
        with pytest.raises(JobEndedError, match=f"is {job.state.name} and stays so"):
            await call
    assert await store.get_job(NAME) == job


async def test_the_same_request_pauses_once(store: Store, new_job: NewJobs) -> None:
    await store.create_job(new_job("a"))
    request = RequestId("p", "r", "pause a")
    await store.pause_job(NAME, request)
    await store.resume_job(NAME)
    assert (await store.pause_job(NAME, request)).state is State.QUEUED, "a late retry pauses nothing"
    with pytest.raises(RequestReusedError):
        await store.resume_job(NAME, RequestId("p", "r", "resume a"))


async def test_labels_and_priority_are_set_each_by_itself(store: Store, new_job: NewJobs, now: list[int]) -> None:
    made = await store.create_job(new_job("a", priority=3))
    now[0] += 7
    labelled = await store.update_job(NAME, Update(labels={"stage": "x"}))
    assert (labelled.labels, labelled.priority, labelled.update_time) == ({"stage": "x"}, 3, now[0])
    assert labelled.etag != made.etag
    raised = await store.update_job(NAME, Update(priority=-5, etag=labelled.etag))
    assert (raised.labels, raised.priority) == ({"stage": "x"}, -5)
    assert await store.get_job(NAME) == raised
    events = (await store.read_events(NAME, after=1)).events
    assert [(list(e.updated.fields), dict(e.updated.labels), e.updated.priority) for e in events] == [
        (["labels"], {"stage": "x"}, 3),
        (["priority"], {"stage": "x"}, -5),
    ]


async def test_a_deadline_is_set_moved_and_taken_away(store: Store, new_job: NewJobs) -> None:
    made = await store.create_job(replace(new_job("a"), deadline=5))
    assert (await store.get_job(NAME)).deadline == made.deadline == 5
    assert (await store.update_job(NAME, Update(priority=1))).deadline == 5
    assert (await store.update_job(NAME, Update(deadline=7))).deadline == 7
    assert (await lease(store)).job.deadline == 7
    assert (await store.update_job(NAME, Update(deadline=0))).deadline is None
    assert (await store.get_job(NAME)).deadline is None
    events = (await store.read_events(NAME)).events
    told = [(list(e.updated.fields), e.updated.deadline.ToMicroseconds()) for e in events if e.HasField("updated")]
    assert told == [(["priority"], 5), (["deadline"], 7), (["deadline"], 0)]
    assert not events[-1].updated.HasField("deadline")


async def test_another_try_has_no_deadline(store: Store, new_job: NewJobs) -> None:
    await ended(store, replace(new_job("a"), deadline=5), FAILURE)
    assert (await store.retry_job(NAME, "projects/p/jobs/b")).deadline is None
    with pytest.raises(JobEndedError, match="its deadline means nothing"):
        await store.update_job(NAME, Update(deadline=7))


async def test_a_job_that_has_changed_since_is_not_updated(store: Store, new_job: NewJobs) -> None:
    made = await store.create_job(new_job("a"))
    request = RequestId("p", "r", "d")
    changed = await store.update_job(NAME, Update(priority=1, etag=made.etag), request)
    assert await store.update_job(NAME, Update(priority=1, etag=made.etag), request) == changed, "its own retry"
    with pytest.raises(EtagMismatchError, match=f"etag '{made.etag}' is not {NAME}'s any more"):
        await store.update_job(NAME, Update(priority=2, etag=made.etag))
    assert (await store.get_job(NAME)).priority == 1


async def test_an_ended_job_takes_labels_but_no_priority(store: Store, new_job: NewJobs) -> None:
    await ended(store, new_job("a"), FAILURE)
    assert (await store.update_job(NAME, Update(labels={}))).labels == {}
    with pytest.raises(JobEndedError, match="its priority means nothing"):
        await store.update_job(NAME, Update(labels={"k": "v"}, priority=1))
    assert (await store.get_job(NAME)).labels == {}
    assert (await states(store))[-1] == "FAILED"
    assert (await store.read_events(NAME)).complete


async def test_jobs_are_leased_by_priority_then_age(store: Store, new_job: NewJobs) -> None:
    for name, priority in (("low", -1), ("first", 0), ("second", 0), ("high", 9), ("raised", -1000)):
        await store.create_job(new_job(name, priority=priority))
    await store.update_job("projects/p/jobs/raised", Update(priority=10))
    leased = [(await lease(store, f"c{i}")).job.name.rpartition("/")[2] for i in range(5)]
    assert leased == ["raised", "high", "first", "second", "low"]


async def test_a_job_that_failed_is_tried_again_as_another(store: Store, new_job: NewJobs) -> None:
    failed = await ended(store, new_job("a", priority=4), FAILURE)
    again = await store.retry_job(NAME, "projects/p/jobs/b", RequestId("p", "r", "d"))
    assert (again.state, again.retry_of, again.epoch, again.next_step) == (State.QUEUED, NAME, 0, 0)
    assert (again.spec, again.labels, again.priority) == (failed.spec, failed.labels, 4)
    same = await store.retry_job(NAME, "projects/p/jobs/c", RequestId("p", "r", "d"))
    assert same == again
    assert await store.get_job(NAME) == failed, "it stays as it ended"
    with pytest.raises(JobExistsError):
        await store.retry_job(NAME, "projects/p/jobs/b")
    cancelled = await store.cancel_job(again.name)
    assert (await store.retry_job(cancelled.name, "projects/p/jobs/d")).retry_of == cancelled.name
    assert (await lease(store)).job.name == "projects/p/jobs/d"


async def test_only_what_failed_or_was_cancelled_is_tried_again(store: Store, new_job: NewJobs) -> None:
    await store.create_job(new_job("a"))
    with pytest.raises(JobNotRetriedError, match=r"is QUEUED; only .*: wait for its end, or cancel it first"):
        await store.retry_job(NAME, "projects/p/jobs/b")
    await lease(store)
    await store.release_job(NAME, epoch=1, outcome=job_pb2.JobResult(drop=0.5))
    with pytest.raises(JobNotRetriedError, match=r"is SUCCEEDED; only .*: submit a job with other settings"):
        await store.retry_job(NAME, "projects/p/jobs/b")
    assert len(await store.list_jobs()) == 1


async def test_a_deleted_job_leaves_nothing_but_its_outcomes(
    store: Store,
    new_job: NewJobs,
    new_step: Callable[..., CommittedStep],
    new_report: Callable[..., object],
) -> None:
    await store.create_job(new_job("a"), RequestId("p", "r", "d"))
    await lease(store)
    await store.report_evaluation(NAME, epoch=1, report=new_report(0, "k", b"outcome"))  # type: ignore[arg-type]
    await store.commit_step(NAME, epoch=1, step=new_step(0, b"state"))
    with pytest.raises(JobActiveError, match=r"is RUNNING; .* cancel it first"):
        await store.delete_job(NAME)
    job = await store.release_job(NAME, epoch=1, outcome=FAILURE)
    with pytest.raises(EtagMismatchError):
        await store.delete_job(NAME, etag="1-1")
    await store.delete_job(NAME, etag=job.etag)
    for call in (store.get_job(NAME), store.read_events(NAME), store.delete_job(NAME)):
        with pytest.raises(JobNotFoundError):
            await call
    await store.delete_job(NAME, allow_missing=True)
    assert await store.list_jobs() == []
    assert await store.get_evaluations(["k"]) == {"k": b"outcome"}
    anew = await store.create_job(new_job("a"), RequestId("p", "r", "d"))
    assert anew.id > job.id
    assert (await lease(store)).session_state == b""
    assert await states(store) == ["QUEUED", "RUNNING"]


async def test_listeners_hear_what_concerns_them(store: Store, new_job: NewJobs) -> None:
    await store.create_job(new_job("a"))
    told: list[Changes] = []
    store.subscribe(told.append)
    await store.pause_job(NAME)
    await store.resume_job(NAME)
    await store.resume_job(NAME)
    await lease(store)
    await store.pause_job(NAME)
    await store.update_job(NAME, Update(priority=1))
    await store.release_job(NAME, epoch=1, outcome=None)
    only = frozenset({NAME})
    quiet, parting, queue = Changes(only), Changes(only, parting=True), Changes(only, queue=True)
    assert told == [quiet, queue, quiet, parting, parting, quiet]


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("by", list(OrderName))
async def test_pages_of_every_order_hold_each_job_once(
    store: Store, new_job: NewJobs, now: list[int], by: OrderName, descending: bool
) -> None:
    made = []
    for i in range(11):
        now[0] += 1
        made.append(await store.create_job(new_job(f"j{i}", priority=(i * 5) % 4 - 1)))
    for i in (3, 8, 5):
        now[0] += i % 2
        await store.update_job(f"projects/p/jobs/j{i}", Update(labels={}))
    keys = {
        OrderName.CREATE_TIME: lambda job: (job.create_time, job.id),
        OrderName.UPDATE_TIME: lambda job: (job.update_time, job.id),
        OrderName.PRIORITY: lambda job: (job.priority, job.id),
    }
    expected = sorted([await store.get_job(job.name) for job in made], key=keys[by], reverse=descending)
    found: list[Job] = []
    while True:
        after = place_of(found[-1], by) if found else None
        page = await store.list_jobs(Listing(order=Order(by, descending), after=after, limit=3))
        found += page
        if len(page) < 3:
            break
    assert found == expected


async def test_jobs_are_found_by_all_of_their_labels(store: Store, new_job: NewJobs) -> None:
    await store.create_job(new_job("a", stage="x", **{"app.kubernetes.io_name": 'net\'s "best" 100 %'}))
    await store.create_job(new_job("b", stage="y"))
    await store.create_job(new_job("c", "q", stage="x"))

    async def found(project: str | None = None, **labels: str) -> list[str]:
        return [job.name.rpartition("/")[2] for job in await store.list_jobs(Listing(project, labels=labels))]

    assert await found(team="vision") == ["c", "b", "a"]
    assert await found(stage="x") == ["c", "a"]
    assert await found("p", stage="x") == ["a"]
    assert await found(stage="x", team="audio") == await found(stages="x") == await found(stage="") == []
    assert await found(**{"app.kubernetes.io_name": 'net\'s "best" 100 %'}) == ["a"]


async def test_a_pause_and_a_release_at_the_same_moment_leave_one_of_two_states(store: Store, new_job: NewJobs) -> None:
    for i in range(20):
        name = (await store.create_job(new_job(f"j{i}"))).name
        epoch = (await lease(store)).job.epoch

        async def quietly(call: Awaitable[object]) -> None:
            try:
                await call
            except DiminuendoError:
                return

        await asyncio.gather(
            quietly(store.pause_job(name)),
            quietly(store.release_job(name, epoch=epoch, outcome=FAILURE)),
            quietly(store.resume_job(name)),
            quietly(store.cancel_job(name)),
        )
        told = await states(store, name)
        assert sum(State[state].final for state in told) == 1
        assert State[told[-1]].final


async def test_pauses_and_priorities_are_there_after_reopening(open_store: Open, new_job: NewJobs) -> None:
    before = await open_store()
    await before.create_job(new_job("a", priority=7))
    paused = await before.pause_job(NAME)
    await before.close()
    after = await open_store()
    assert await after.get_job(NAME) == paused
    assert (await after.resume_job(NAME)).priority == 7
