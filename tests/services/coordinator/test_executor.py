"""The executor over real evaluators: order, retries, failures, cancellation, accounts."""

from __future__ import annotations

import time

import psutil
import pytest
from tests.services.coordinator.conftest import Executors, collect
from tests.services.coordinator.workers import MISSING, SCRIPTED, evaluate, prepare, starts, survey
from tests.waiting import until

from diminuendo.engine.cost import Cost
from diminuendo.engine.search.work import Evaluated, Failed
from diminuendo.services.coordinator.dispatcher import Limits
from diminuendo.services.coordinator.executor import EvaluatorsAwayError, JobExecutor
from diminuendo.services.coordinator.line import Claim


def _warm_up(executor: JobExecutor) -> None:
    """Wait until both evaluators are up."""
    for index in (100, 101):
        executor.submit(evaluate(index, "sleep 0.5"))
    done = collect(executor, 2)
    if len({d.evaluator for d in done}) < 2:
        _warm_up(executor)


def test_works_start_in_proposal_order_and_all_come_back(executors: Executors) -> None:
    executor = executors(SCRIPTED, evaluators=1)
    assert executor.slots == 2
    for index in (3, 0, 5, 1, 4, 2):  # all in line before the evaluator's process is up
        executor.submit(evaluate(index, "sleep 0.01"))
    done = collect(executor, 6)
    assert [index for index, _ in starts(executors.folder)] == [0, 1, 2, 3, 4, 5]
    assert [d.work.index for d in done] == [0, 1, 2, 3, 4, 5]
    for d in done:
        assert isinstance(d.answer, Evaluated)
        assert d.answer.score == d.work.index
        assert d.evaluator == "evaluator-0"
        assert d.seconds >= 0.01
        assert not d.remembered


def test_no_work_waits_behind_a_long_one(executors: Executors) -> None:
    executor = executors(SCRIPTED)
    assert executor.slots == 4
    _warm_up(executor)
    executor.submit(evaluate(2, "sleep 1.5"))
    for index in (3, 4, 5):
        executor.submit(evaluate(index, "sleep 0.05"))
    done = collect(executor, 4)
    assert [d.work.index for d in done] == [3, 4, 5, 2]
    assert len({d.evaluator for d in done[:3]}) == 1


def test_a_lost_evaluator_is_replaced_and_its_work_done_by_another(executors: Executors) -> None:
    executor = executors(SCRIPTED)
    executor.submit(evaluate(0, "kill-once marker"))
    (done,) = collect(executor, 1)
    assert isinstance(done.answer, Evaluated)
    assert done.answer.score == 0.0
    assert [index for index, _ in starts(executors.folder)] == [0, 0]
    assert executor.stats().attempts_lost == 1
    assert executor.take_warnings() == []


def test_a_candidate_that_kills_its_evaluators_is_left_out(executors: Executors) -> None:
    executor = executors(SCRIPTED)
    executor.submit(evaluate(7, "kill"))
    executor.submit(evaluate(8))
    done = {d.work.index: d for d in collect(executor, 2)}
    assert done[7].answer == Evaluated(None, None, None, Cost(0, 0), 0, 0.0)
    assert done[7].evaluator == ""
    assert isinstance(done[8].answer, Evaluated)
    assert done[8].answer.score == 8.0
    assert [index for index, _ in starts(executors.folder)].count(7) == 3
    ((reason, message),) = executor.take_warnings()
    assert reason == "CANDIDATE_INFEASIBLE"
    assert "candidate 7" in message


def test_a_work_that_the_search_needs_ends_the_job(executors: Executors) -> None:
    executor = executors(SCRIPTED)
    executor.submit(prepare(0, "kill"))
    (done,) = collect(executor, 1)
    assert isinstance(done.answer, Failed)
    assert done.answer.reason == "EVALUATOR_LOST"
    assert "3 attempts" in done.answer.message


def test_out_of_memory(executors: Executors) -> None:
    executor = executors(SCRIPTED, evaluators=1)
    executor.submit(survey(1, "memory"))
    (done,) = collect(executor, 1)
    assert isinstance(done.answer, Failed)
    assert done.answer.reason == "OUT_OF_MEMORY"
    assert "MemoryError" in done.answer.traceback
    assert executor.stats().attempts_lost == 3
    assert len({pid for _, pid in starts(executors.folder)}) == 3  # a fresh process each time


def test_half_the_micro_batch_after_each_time_that_the_gpu_has_no_room(executors: Executors) -> None:
    executor = executors(SCRIPTED, evaluators=2)
    executor.submit(evaluate(1, "gpu 4"))
    executor.submit(evaluate(2, "gpu 8"))
    done = {d.work.index: d.answer for d in collect(executor, 2)}
    first, second = done[1], done[2]
    assert isinstance(first, Evaluated)
    assert first.score == 1.0, "with four parts, at the third attempt"
    assert second == Evaluated(None, None, None, Cost(0, 0), 0, 0.0), "infeasible after three"
    assert executor.stats().attempts_lost == 2 + 3
    ((_, message),) = executor.take_warnings()
    assert "CUDA out of memory with 4 part(s)" in message


def test_an_evaluator_has_no_more_memory_than_it_may(executors: Executors) -> None:
    executor = executors(SCRIPTED, evaluators=1, limits=Limits(memory_bytes=3 * 2**30))
    executor.submit(evaluate(1, "take 256"))
    executor.submit(survey(2, "take 4096"))
    done = {d.work.index: d.answer for d in collect(executor, 2)}
    assert isinstance(done[1], Evaluated)
    assert isinstance(done[2], Failed)
    assert done[2].reason == "OUT_OF_MEMORY"


@pytest.mark.parametrize(
    ("script", "reason", "traceback"), [("user", "USER_CODE", "line 7"), ("bug", "INTERNAL", "KeyError")]
)
def test_errors_are_told_once_and_not_tried_again(
    executors: Executors, script: str, reason: str, traceback: str
) -> None:
    executor = executors(SCRIPTED, evaluators=1)
    executor.submit(evaluate(0, script))
    (done,) = collect(executor, 1)
    assert isinstance(done.answer, Failed)
    assert done.answer.reason == reason
    assert traceback in done.answer.traceback
    assert len(starts(executors.folder)) == 1
    assert executor.stats().attempts_lost == 0


def test_a_work_that_takes_too_long(executors: Executors) -> None:
    executor = executors(SCRIPTED, evaluators=1, limits=Limits(work_s=0.3))
    executor.submit(prepare(0, "sleep 60"))
    (done,) = collect(executor, 1)
    assert isinstance(done.answer, Failed)
    assert done.answer.reason == "TIMEOUT"
    assert "0.3 s" in done.answer.message
    assert until(lambda: not any(psutil.pid_exists(pid) for _, pid in starts(executors.folder)))


def test_cancel_leaves_nothing_running_and_nothing_to_come(executors: Executors) -> None:
    executor = executors(SCRIPTED)
    for index in range(4):
        executor.submit(evaluate(index, "sleep 60"))
    assert until(lambda: (executors.folder / "starts").exists() and len(starts(executors.folder)) == 2)
    executor.cancel()
    pids = [pid for _, pid in starts(executors.folder)]
    assert until(lambda: not any(psutil.pid_exists(pid) for pid in pids))
    assert executor.statuses == (("evaluator-0", ""), ("evaluator-1", ""))
    executor.submit(evaluate(9))
    (done,) = collect(executor, 1)
    assert done.work.index == 9
    assert [index for index, _ in starts(executors.folder)][2:] == [9]


def test_jobs_share_evaluators_and_hear_only_of_their_own(executors: Executors) -> None:
    shared = executors.shared(SCRIPTED)
    one, two = shared.job(Claim("one", "p")), shared.job(Claim("two", "q"))
    for index in range(6):
        one.submit(evaluate(index, "sleep 0.2"))
        two.submit(evaluate(100 + index, "kill" if index == 3 else "sleep 0.2"))
    first, second = collect(one, 6), collect(two, 6)
    assert sorted(d.work.index for d in first) == list(range(6))
    assert sorted(d.work.index for d in second) == list(range(100, 106))
    assert one.take_warnings() == []
    assert [reason for reason, _ in two.take_warnings()] == ["CANDIDATE_INFEASIBLE"]
    accounts = one.accounts(), two.accounts()
    assert [a.works_done for a in accounts] == [6, 6]
    assert [a.attempts_lost for a in accounts] == [0, 3]
    assert all(1.0 <= a.busy_s < 10 for a in accounts)
    one.close()
    two.submit(evaluate(7))
    assert [d.work.index for d in collect(two, 1)] == [7]


def test_cancelling_one_job_leaves_the_other_alone(executors: Executors) -> None:
    shared = executors.shared(SCRIPTED)
    one, two = shared.job(Claim("one", "p", most=1)), shared.job(Claim("two", "p", most=1))
    assert (one.slots, two.slots) == (2, 2)
    one.submit(evaluate(1, "sleep 60"))
    two.submit(evaluate(2, "sleep 2"))
    two.submit(evaluate(3, "sleep 0.1"))
    assert until(lambda: (executors.folder / "starts").exists() and len(starts(executors.folder)) == 2)
    one.cancel()
    assert [d.work.index for d in collect(two, 2)] == [2, 3]
    one.submit(evaluate(4))
    assert [d.work.index for d in collect(one, 1)] == [4]
    assert sorted(index for index, _ in starts(executors.folder)) == [1, 2, 3, 4]


def test_no_more_of_a_job_at_a_time_than_it_may(executors: Executors) -> None:
    shared = executors.shared(SCRIPTED)
    _warm_up(shared.job(Claim("first", "p")))
    limited, other = shared.job(Claim("limited", "p", priority=9, most=1)), shared.job(Claim("other", "p"))
    for index in range(4):
        limited.submit(evaluate(index, "sleep 0.3"))
    other.submit(evaluate(50, "sleep 0.3"))
    done = collect(limited, 4)
    assert len(collect(other, 1)) == 1
    assert [d.work.index for d in done] == [0, 1, 2, 3]
    order = [index for index, _ in starts(executors.folder) if index < 100]
    assert order.index(50) <= 1, "who may have no more leaves the rest to others"


def test_evaluators_that_cannot_be_started_are_told_of(executors: Executors) -> None:
    executor = executors(MISSING, evaluators=1, limits=Limits(backoff_s=0.01))
    executor.submit(evaluate(0))
    with pytest.raises(EvaluatorsAwayError, match=r"no evaluator can be started: .*NoSuchWorker"):
        collect(executor, 1)


def test_statuses_and_accounts(executors: Executors) -> None:
    executor = executors(SCRIPTED)
    _warm_up(executor)
    before = executor.stats()
    executor.changed.clear()
    executor.submit(evaluate(2, "sleep 0.5"))
    assert executor.changed.wait(5)
    assert "sleep 0.5" in [work for _, work in executor.statuses]
    started = time.monotonic()
    collect(executor, 1)
    assert time.monotonic() - started < 5
    after = executor.stats()
    busy = sum(s for _, s in after.busy_seconds) - sum(s for _, s in before.busy_seconds)
    assert 0.5 <= busy < 2
    assert after.works_done - before.works_done == 1
    assert [name for name, _ in after.busy_seconds] == ["evaluator-0", "evaluator-1"]


def test_wait_gives_up_when_its_time_is_over(executors: Executors) -> None:
    executor = executors(SCRIPTED, evaluators=1)
    started = time.monotonic()
    assert executor.wait(0.2) == []
    assert 0.2 <= time.monotonic() - started < 2
