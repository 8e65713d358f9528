"""The store's contract: leases, epochs, steps, evaluations, releases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from diminuendo.v1 import coordinator_service_pb2, job_pb2

from diminuendo.services.common.errors import CancelNotRequestedError, StaleEpochError, StepOutOfOrderError
from diminuendo.services.conductor.records import CommittedStep, Lease, NewJob, Outcome, Report, State
from diminuendo.services.conductor.store.base import Store

NewJobs = Callable[..., NewJob]
Steps = Callable[..., CommittedStep]
Reports = Callable[..., Report]
SECOND = 1_000_000
LEASE = 30 * SECOND
RESULT = job_pb2.JobResult(inside_delta=True, drop=0.5)
FAILURE = job_pb2.JobFailure(reason="USER_CODE", message="it broke", traceback="...")
CANCELLED = coordinator_service_pb2.Cancelled()


async def take(store: Store, coordinator: str = "c1", request_id: str = "") -> Lease:
    lease = await store.lease_job(coordinator=coordinator, request_id=request_id, lease_us=LEASE)
    assert lease is not None
    return lease


async def running(store: Store, new_job: NewJobs) -> str:
    job = await store.create_job(new_job("a"))
    assert (await take(store)).job.name == job.name
    return job.name


async def final_states(store: Store, name: str) -> list[State]:
    page = await store.read_events(name, limit=1000)
    entered = [State(event.state_changed.state) for event in page.events if event.HasField("state_changed")]
    return [state for state in entered if state.final]


async def test_no_job_no_lease(store: Store) -> None:
    assert await store.lease_job(coordinator="c1", lease_us=LEASE) is None
    assert await store.next_lease_end() is None


async def test_the_oldest_queued_job_is_leased_first(store: Store, new_job: NewJobs, now: list[int]) -> None:
    for job_id in ("z", "m", "a"):
        await store.create_job(new_job(job_id))
    now[0] += SECOND
    lease = await take(store)
    assert lease.job.name == "projects/p/jobs/z"
    assert (lease.job.state, lease.job.epoch, lease.job.coordinator) == (State.RUNNING, 1, "c1")
    assert lease.job.lease_expire_time == now[0] + LEASE == await store.next_lease_end()
    assert lease.job.start_time == now[0]
    assert (lease.session_state, lease.job.next_step) == (b"", 0)
    assert (await take(store, "c2")).job.name == "projects/p/jobs/m"


async def test_a_job_has_one_holder(store: Store, new_job: NewJobs) -> None:
    for i in range(5):
        await store.create_job(new_job(f"a{i}"))
    leases = await asyncio.gather(*(store.lease_job(coordinator=f"c{i}", lease_us=LEASE) for i in range(12)))
    held = [lease.job.name for lease in leases if lease is not None]
    assert len(held) == len(set(held)) == 5


async def test_a_lease_ends_when_nobody_extends_it(store: Store, new_job: NewJobs, now: list[int]) -> None:
    name = await running(store, new_job)
    now[0] += LEASE - 1
    assert await store.lease_job(coordinator="c2", lease_us=LEASE) is None
    await store.heartbeat(name, epoch=1, lease_us=LEASE)
    now[0] += LEASE - 1
    assert await store.lease_job(coordinator="c2", lease_us=LEASE) is None
    now[0] += 1
    lease = await take(store, "c2")
    assert (lease.job.name, lease.job.epoch, lease.job.coordinator) == (name, 2, "c2")


async def test_a_late_holder_keeps_a_job_that_nobody_took(store: Store, new_job: NewJobs, now: list[int]) -> None:
    name = await running(store, new_job)
    now[0] += 10 * LEASE
    job = await store.heartbeat(name, epoch=1, lease_us=LEASE)
    assert job.lease_expire_time == now[0] + LEASE
    assert await store.lease_job(coordinator="c2", lease_us=LEASE) is None


async def test_a_coordinator_that_asks_again_gets_its_job_again(store: Store, new_job: NewJobs) -> None:
    name = await running(store, new_job)
    await store.create_job(new_job("b"))
    lease = await take(store, "c1")
    assert (lease.job.name, lease.job.epoch) == (name, 2)


async def test_a_coordinator_is_not_given_what_it_holds(store: Store, new_job: NewJobs, now: list[int]) -> None:
    for job_id in ("a", "b", "c"):
        await store.create_job(new_job(job_id))
    holding: list[str] = []
    for job_id in ("a", "b", "c"):
        lease = await store.lease_job(coordinator="c1", lease_us=LEASE, holding=holding)
        assert lease is not None
        assert (lease.job.name, lease.job.epoch) == (f"projects/p/jobs/{job_id}", 1)
        holding.append(lease.job.name)
    assert await store.lease_job(coordinator="c1", lease_us=LEASE, holding=holding) is None
    await store.cancel_job(holding[1])
    assert await store.lease_job(coordinator="c1", lease_us=LEASE, holding=holding) is None
    assert (await store.get_job(holding[1])).state is State.CANCELLING, "it is to let go of it itself"
    lost = await store.lease_job(coordinator="c1", lease_us=LEASE, holding=holding[1:])
    assert lost is not None
    assert (lost.job.name, lost.job.epoch) == (holding[0], 2)
    now[0] += LEASE
    assert await store.lease_job(coordinator="c1", lease_us=LEASE, holding=holding) is None, "it is only late"
    taken = await take(store, "c2")
    assert (taken.job.name, taken.job.epoch) == (holding[0], 3)


async def test_projects_take_turns_by_weight_and_priorities_count_inside(store: Store, new_job: NewJobs) -> None:
    for i in range(9):
        await store.create_job(replace(new_job(f"a{i}"), priority=5))
    for i in range(9):
        new = replace(new_job(f"b{i}"), name=f"projects/q/jobs/b{i}", project="q", priority=i - 9)
        await store.create_job(new)
    given: list[str] = []
    for i in range(9):
        lease = await store.lease_job(coordinator=f"c{i}", lease_us=LEASE, weights={"p": 2.0, "r": 9.0})
        assert lease is not None
        given.append(lease.job.name.rpartition("/")[2])
    assert [name for name in given if name[0] == "a"] == ["a0", "a1", "a2", "a3", "a4", "a5"]
    assert [name for name in given if name[0] == "b"] == ["b8", "b7", "b6"]
    assert given[:2] == ["a0", "b8"], "who has nothing comes next"


async def test_the_same_lease_request_gets_the_same_lease(store: Store, new_job: NewJobs, now: list[int]) -> None:
    await store.create_job(new_job("a"))
    first = await take(store, "c1", "r1")
    now[0] += SECOND
    again = await take(store, "c1", "r1")
    assert (again.job.name, again.job.epoch) == (first.job.name, 1)
    assert again.job.lease_expire_time == now[0] + LEASE
    assert (await store.read_events(first.job.name)).job.last_sequence == first.job.last_sequence
    other = await take(store, "c1", "r2")
    assert (other.job.name, other.job.epoch) == (first.job.name, 2)
    assert await store.lease_job(coordinator="c2", request_id="r2", lease_us=LEASE) is None


async def test_a_lease_request_of_a_job_that_ended_gets_another_job(store: Store, new_job: NewJobs) -> None:
    await store.create_job(new_job("a"))
    await store.create_job(new_job("b"))
    first = await take(store, "c1", "r1")
    await store.release_job(first.job.name, epoch=1, outcome=RESULT)
    assert (await take(store, "c1", "r1")).job.name == "projects/p/jobs/b"


async def test_an_attempt_is_noted_once(store: Store, new_job: NewJobs, now: list[int]) -> None:
    name = await running(store, new_job)
    lost = job_pb2.AttemptLost(index=3, subject="4.0x", evaluator="e", attempt=1, cause="TIMEOUT", detail="too slow")
    assert await store.report_attempt(name, epoch=1, attempt=lost)
    assert not await store.report_attempt(name, epoch=1, attempt=lost)
    second = job_pb2.AttemptLost(index=3, subject="4.0x", evaluator="e", attempt=2, cause="TIMEOUT", detail="again")
    assert await store.report_attempt(name, epoch=1, attempt=second)
    now[0] += LEASE
    await take(store, "c2")
    with pytest.raises(StaleEpochError):
        await store.report_attempt(name, epoch=1, attempt=lost)
    assert await store.report_attempt(name, epoch=2, attempt=lost), "the successor counts anew"
    page = await store.read_events(name, limit=100)
    noted = [event.attempt_lost for event in page.events if event.HasField("attempt_lost")]
    assert noted == [lost, second, lost]
    await store.release_job(name, epoch=2, outcome=FAILURE)
    await store.delete_job(name)


async def test_a_zombie_writes_nothing(
    store: Store, new_job: NewJobs, new_step: Steps, new_report: Reports, now: list[int]
) -> None:
    name = await running(store, new_job)
    now[0] += LEASE
    await take(store, "c2")
    before = await store.get_job(name)
    outcomes: list[Outcome | None] = [RESULT, FAILURE, CANCELLED, None]
    writes = [
        store.heartbeat(name, epoch=1, lease_us=LEASE),
        store.commit_step(name, epoch=1, step=new_step(0)),
        store.report_evaluation(name, epoch=1, report=new_report(0, "k", b"zombie")),
        *(store.release_job(name, epoch=1, outcome=outcome) for outcome in outcomes),
    ]
    for write in writes:
        with pytest.raises(StaleEpochError, match="epoch 1 of projects/p/jobs/a is over") as caught:
            await write
        assert caught.value.metadata["current_epoch"] == "2"
    assert await store.get_job(name) == before
    assert await store.get_evaluations(["k"]) == {}


async def test_an_epoch_from_the_future_is_refused(store: Store, new_job: NewJobs) -> None:
    name = await running(store, new_job)
    with pytest.raises(StaleEpochError):
        await store.heartbeat(name, epoch=2, lease_us=LEASE)


async def test_steps_are_numbered_without_gaps(store: Store, new_job: NewJobs, new_step: Steps) -> None:
    name = await running(store, new_job)
    with pytest.raises(StepOutOfOrderError, match="the next step is 0"):
        await store.commit_step(name, epoch=1, step=new_step(1))
    assert await store.commit_step(name, epoch=1, step=new_step(0, warnings=2))
    assert await store.commit_step(name, epoch=1, step=new_step(1))
    for number in (0, 3, 100):
        with pytest.raises(StepOutOfOrderError, match="the next step is 2"):
            await store.commit_step(name, epoch=1, step=new_step(number))
    page = await store.read_events(name)
    assert [event.WhichOneof("kind") for event in page.events][3:] == [
        "step_committed",
        "warning",
        "warning",
        "step_committed",
    ]
    assert page.job.progress == job_pb2.JobProgress(stage=job_pb2.STAGE_EXPLORE, steps=2, works_done=2)
    assert page.job.next_step == 2


async def test_the_last_step_again_changes_nothing(store: Store, new_job: NewJobs, new_step: Steps) -> None:
    name = await running(store, new_job)
    await store.commit_step(name, epoch=1, step=new_step(0, b"s0", warnings=1))
    before = await store.read_events(name)
    assert not await store.commit_step(name, epoch=1, step=new_step(0, b"s0", warnings=1))
    assert await store.read_events(name) == before
    with pytest.raises(StepOutOfOrderError, match="another content"):
        await store.commit_step(name, epoch=1, step=new_step(0, b"s0", summary="something else"))


async def test_the_successor_goes_on_from_the_newest_state(
    store: Store, new_job: NewJobs, new_step: Steps, now: list[int]
) -> None:
    name = await running(store, new_job)
    await store.commit_step(name, epoch=1, step=new_step(0, b"s0"))
    await store.commit_step(name, epoch=1, step=new_step(1, b"s1"))
    await store.commit_step(name, epoch=1, step=new_step(2))
    now[0] += LEASE
    lease = await take(store, "c2")
    assert (lease.session_state, lease.job.next_step, lease.job.epoch) == (b"s1", 3, 2)
    await store.commit_step(name, epoch=2, step=new_step(3, b"s3"))


async def test_of_one_number_one_step_is_stored(store: Store, new_job: NewJobs, new_step: Steps) -> None:
    name = await running(store, new_job)
    tries = [store.commit_step(name, epoch=1, step=new_step(0, summary=str(i))) for i in range(10)]
    done = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(result is True for result in done) == 1
    assert sum(isinstance(result, StepOutOfOrderError) for result in done) == 9


async def test_the_first_outcome_of_a_key_stays(store: Store, new_job: NewJobs, new_report: Reports) -> None:
    name = await running(store, new_job)
    await store.create_job(new_job("b"))
    other = (await take(store, "c2")).job.name
    assert await store.report_evaluation(name, epoch=1, report=new_report(0, "k", b"first"))
    assert await store.report_evaluation(other, epoch=1, report=new_report(7, "k", b"second"))
    assert await store.report_evaluation(name, epoch=1, report=new_report(1, "remembered"))
    assert await store.get_evaluations(["k", "remembered", "unknown"]) == {"k": b"first"}


async def test_a_work_is_noted_once_in_a_job(store: Store, new_job: NewJobs, new_report: Reports) -> None:
    name = await running(store, new_job)
    report = new_report(4, "k", b"x")
    noted = await asyncio.gather(*(store.report_evaluation(name, epoch=1, report=report) for _ in range(8)))
    assert sum(noted) == 1
    assert await store.report_evaluation(name, epoch=1, report=new_report(5, "k"))
    events = [e for e in (await store.read_events(name)).events if e.HasField("evaluation_finished")]
    assert [event.evaluation_finished.index for event in events] == [4, 5]


async def test_a_result_ends_the_job(store: Store, new_job: NewJobs, now: list[int]) -> None:
    name = await running(store, new_job)
    now[0] += SECOND
    job = await store.release_job(name, epoch=1, outcome=RESULT)
    assert (job.state, job.result, job.end_time) == (State.SUCCEEDED, RESULT, now[0])
    assert (job.coordinator, job.lease_expire_time) == ("", None)
    assert await store.get_job(name) == job
    assert await store.lease_job(coordinator="c1", lease_us=LEASE) is None


async def test_a_failure_ends_the_job(store: Store, new_job: NewJobs) -> None:
    name = await running(store, new_job)
    job = await store.release_job(name, epoch=1, outcome=FAILURE)
    assert (job.state, job.failure, job.result) == (State.FAILED, FAILURE, None)
    assert (await store.read_events(name)).events[-1].state_changed.reason == "it broke"


async def test_a_job_let_go_of_is_queued_again(store: Store, new_job: NewJobs) -> None:
    name = await running(store, new_job)
    job = await store.release_job(name, epoch=1, outcome=None)
    assert (job.state, job.coordinator) == (State.QUEUED, "")
    assert (await store.read_events(name)).events[-1].state_changed.reason == "coordinator c1 let go of it"
    with pytest.raises(StaleEpochError, match="QUEUED"):
        await store.heartbeat(name, epoch=1, lease_us=LEASE)
    lease = await take(store, "c2")
    assert (lease.job.name, lease.job.epoch) == (name, 2)


@pytest.mark.parametrize("outcome", [RESULT, FAILURE, None], ids=["result", "failure", "none"])
async def test_the_same_release_again_changes_nothing(store: Store, new_job: NewJobs, outcome: Outcome | None) -> None:
    name = await running(store, new_job)
    first = await store.release_job(name, epoch=1, outcome=outcome)
    assert await store.release_job(name, epoch=1, outcome=outcome) == first
    another = job_pb2.JobResult(drop=9.0)
    with pytest.raises(StaleEpochError):
        await store.release_job(name, epoch=1, outcome=another)


async def test_a_job_ends_exactly_once_whoever_comes_first(store: Store, new_job: NewJobs) -> None:
    name = await running(store, new_job)
    await asyncio.gather(
        store.cancel_job(name),
        store.release_job(name, epoch=1, outcome=RESULT),
        store.release_job(name, epoch=1, outcome=FAILURE),
        store.cancel_job(name),
        return_exceptions=True,
    )
    assert len(await final_states(store, name)) == 1


async def test_a_running_job_is_cancelled_by_its_holder(store: Store, new_job: NewJobs) -> None:
    name = await running(store, new_job)
    with pytest.raises(CancelNotRequestedError):
        await store.release_job(name, epoch=1, outcome=CANCELLED)
    assert (await store.cancel_job(name)).state is State.CANCELLING
    assert (await store.heartbeat(name, epoch=1, lease_us=LEASE)).state is State.CANCELLING
    job = await store.release_job(name, epoch=1, outcome=CANCELLED)
    assert job.state is State.CANCELLED
    assert await store.release_job(name, epoch=1, outcome=CANCELLED) == job
    assert await final_states(store, name) == [State.CANCELLED]


@pytest.mark.parametrize(
    ("outcome", "state"),
    [(RESULT, State.SUCCEEDED), (FAILURE, State.CANCELLED), (None, State.CANCELLED)],
    ids=["result", "failure", "none"],
)
async def test_what_comes_after_a_cancellation(
    store: Store, new_job: NewJobs, outcome: Outcome | None, state: State
) -> None:
    name = await running(store, new_job)
    await store.cancel_job(name)
    assert (await store.release_job(name, epoch=1, outcome=outcome)).state is state
    assert (await store.release_job(name, epoch=1, outcome=outcome)).state is state
    assert await final_states(store, name) == [state]


async def test_a_cancelled_job_whose_holder_is_gone_ends_with_its_lease(
    store: Store, new_job: NewJobs, now: list[int]
) -> None:
    name = await running(store, new_job)
    await store.cancel_job(name)
    assert await store.next_lease_end([State.CANCELLING]) == now[0] + LEASE
    now[0] += LEASE - 1
    assert await store.end_lapsed() == 0
    now[0] += 1
    assert await store.end_lapsed() == 1
    assert await store.end_lapsed() == 0
    assert (await store.get_job(name)).state is State.CANCELLED
    with pytest.raises(StaleEpochError, match="CANCELLED"):
        await store.heartbeat(name, epoch=1, lease_us=LEASE)


async def test_whoever_looks_for_a_job_ends_the_lapsed_ones(store: Store, new_job: NewJobs, now: list[int]) -> None:
    name = await running(store, new_job)
    await store.cancel_job(name)
    now[0] += LEASE
    assert await store.lease_job(coordinator="c2", lease_us=LEASE) is None
    assert await final_states(store, name) == [State.CANCELLED]


async def test_cancelling_after_the_lease_has_ended_ends_the_job_at_once(
    store: Store, new_job: NewJobs, now: list[int]
) -> None:
    name = await running(store, new_job)
    now[0] += LEASE
    assert (await store.cancel_job(name)).state is State.CANCELLED


async def test_a_coordinator_that_comes_back_ends_its_cancelled_job(store: Store, new_job: NewJobs) -> None:
    name = await running(store, new_job)
    await store.cancel_job(name)
    assert await store.lease_job(coordinator="c1", lease_us=LEASE) is None
    assert (await store.get_job(name)).state is State.CANCELLED


async def test_time_does_not_run_backwards_within_a_job(store: Store, new_job: NewJobs, now: list[int]) -> None:
    job = await store.create_job(new_job("a"))
    now[0] -= 60 * SECOND
    cancelled = await store.cancel_job(job.name)
    assert cancelled.update_time == job.update_time
    assert cancelled.etag != job.etag
