"""The history checker finds each kind of violation, and nothing in a history that is well."""

from __future__ import annotations

from dataclasses import replace

import pytest
from diminuendo.v1 import job_pb2
from tests.faults.history import History, Killed, Seen, Started, Wrote, violations

SUCCEEDED, RUNNING = job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_RUNNING


def state(value: job_pb2.JobState.ValueType) -> job_pb2.JobEvent:
    return job_pb2.JobEvent(state_changed=job_pb2.StateChanged(state=value))


def leased(epoch: int) -> job_pb2.JobEvent:
    return job_pb2.JobEvent(leased=job_pb2.Leased(epoch=epoch))


def finished(index: int, key: str = "") -> job_pb2.JobEvent:
    return job_pb2.JobEvent(evaluation_finished=job_pb2.EvaluationFinished(index=index, key=key or f"key{index}"))


def committed(step: int, works_done: int | None = None) -> job_pb2.JobEvent:
    progress = job_pb2.JobProgress(works_done=step + 1 if works_done is None else works_done)
    return job_pb2.JobEvent(step_committed=job_pb2.StepCommitted(step=step, progress=progress))


def numbered(*events: job_pb2.JobEvent) -> tuple[job_pb2.JobEvent, ...]:
    for number, event in enumerate(events, 1):
        event.sequence = number
    return events


def report(key: str, epoch: int = 1, *, newest: int = 1, accepted: bool = True) -> Wrote:
    return Wrote("ReportEvaluation", epoch, accepted, newest, key)


def well() -> History:
    """Two steps; the coordinator was killed between them, while its successor's first work was under way."""
    log = numbered(
        state(job_pb2.JOB_STATE_QUEUED),
        state(RUNNING),
        leased(1),
        finished(0),
        committed(0),
        leased(2),
        finished(1),
        committed(1),
        state(SUCCEEDED),
    )
    seen = (
        Started("key0"),
        report("key0"),
        Started("key1"),
        Killed("the coordinator", 2),
        Started("key1"),
        report("key1", 1, newest=2, accepted=False),
        report("key1", 2, newest=2),
    )
    return History(SUCCEEDED, len(log), 2, 2, log, ((0, 1), (1, 2)), ((0, "key0"), (1, "key1")), seen)


def with_log(*events: job_pb2.JobEvent) -> History:
    return replace(well(), events=events, last_sequence=len(events))


def test_a_history_that_is_well() -> None:
    assert violations(well()) == []


def test_an_update_after_the_end_is_well() -> None:
    late = job_pb2.JobEvent(updated=job_pb2.Updated())
    assert violations(with_log(*numbered(*well().events, late))) == []


def test_a_job_that_is_not_there() -> None:
    assert violations(replace(well(), state=None)) == ["lost job: it is not there any more"]


def without_end() -> History:
    return replace(with_log(*well().events[:-1]), state=RUNNING)


def ended_twice() -> History:
    return with_log(*numbered(*well().events, state(SUCCEEDED)))


def ended_otherwise() -> History:
    return replace(well(), state=job_pb2.JOB_STATE_FAILED)


def written_after_the_end() -> History:
    return with_log(*numbered(*well().events, finished(2)))


def gap() -> History:
    events = well().events
    events[4].sequence = 7
    return with_log(*events)


def fewer_events_than_the_job_says() -> History:
    return replace(well(), last_sequence=10)


def epoch_twice() -> History:
    return with_log(*numbered(*well().events[:5], leased(1), *well().events[6:]))


def epoch_of_nobody() -> History:
    return replace(well(), epoch=3)


def commit_twice() -> History:
    events = well().events
    return with_log(*numbered(*events[:5], committed(0), *events[5:]))


def step_left_out() -> History:
    events = well().events
    return with_log(*numbered(*events[:7], committed(2), events[8]))


def works_that_become_fewer() -> History:
    events = well().events
    return with_log(*numbered(*events[:7], committed(1, works_done=0), events[8]))


def stored_by_the_zombie() -> History:
    return replace(well(), steps=((0, 1), (1, 1)))


def step_not_stored() -> History:
    return replace(well(), steps=((0, 1),))


def next_step_behind() -> History:
    return replace(well(), next_step=1)


def noted_twice() -> History:
    events = well().events
    return with_log(*numbered(*events[:7], finished(1), *events[7:]))


def used_before_it_was_reported() -> History:
    events = well().events
    return with_log(*numbered(*events[:6], events[7], events[6], events[8]))


def report_not_noted() -> History:
    return replace(well(), reports=((0, "key0"),))


@pytest.mark.parametrize(
    ("history", "found"),
    [
        (without_end, "lost job: it has not ended"),
        (ended_twice, "two ends: events"),
        (ended_otherwise, "two ends: the log's"),
        (written_after_the_end, "written after the end: events [10]"),
        (gap, "sequence with gaps: [1, 2, 3, 4, 7,"),
        (fewer_events_than_the_job_says, "sequence with gaps: the job's last is 10"),
        (epoch_twice, "epochs that do not rise: [1, 1]"),
        (epoch_of_nobody, "epochs that do not rise: the job's is 3"),
        (commit_twice, "double commit: step 0"),
        (step_left_out, "step out of order: 2 after 1 steps"),
        (works_that_become_fewer, "step going back: at step 1"),
        (stored_by_the_zombie, "write by an old epoch: step 1 by 1 while 2 held the job"),
        (step_not_stored, "log and steps differ: 2 in the log, 1 stored"),
        (next_step_behind, "log and steps differ: 2 stored, the next one is 1"),
        (noted_twice, "evaluation noted 2 times: 1 key1"),
        (used_before_it_was_reported, "commit without its report: step 1"),
        (report_not_noted, "log and reports differ: 2 in the log, 1 reported"),
    ],
)
def test_what_is_left_of_a_job_that_went_wrong(history: object, found: str) -> None:
    assert callable(history)
    assert any(one.startswith(found) for one in violations(history())), violations(history())


@pytest.mark.parametrize(
    ("seen", "found"),
    [
        ([report("key1", 1, newest=2)], "write by an old epoch: ReportEvaluation of 1"),
        ([Wrote("Heartbeat", 1, True, 2)], "write by an old epoch: Heartbeat of 1"),
        ([Started("a"), report("a"), Started("a")], "paid twice: a was computed again after it had been reported"),
        ([Started("a"), Started("a")], "paid twice: a was computed again although nobody was killed"),
        ([Started("a"), Killed("x", 1), Started("a"), Started("a")], "paid twice: a was computed again although"),
        ([Started("a"), report("a"), Killed("x", 1), Started("a")], "paid twice: a was computed again after"),
        (
            [Started("a"), Started("b"), Killed("x", 1), Started("b"), Started("a")],
            "paid twice: 2 evaluations were computed again after x was killed, 1 at most lost",
        ),
        (
            [Killed("x", 1, lasting=True), Started("a"), Started("a"), Started("a")],
            "paid twice: 2 evaluations were computed again after x was killed, 1 at most lost",
        ),
        ([Started("a"), Killed("PostgreSQL", 0), Started("a")], "paid twice: 1 evaluations were computed again"),
    ],
)
def test_what_was_seen_of_a_job_that_went_wrong(seen: list[Seen], found: str) -> None:
    (violation,) = violations(replace(well(), seen=tuple(seen)))
    assert violation.startswith(found)


@pytest.mark.parametrize(
    "seen",
    [
        [Started("a"), report("a", accepted=False), Killed("x", 1), Started("a"), report("a")],
        [Started("a"), Killed("x", 1), Started("a"), Killed("y", 1), Started("a")],
        [Killed("x", 1, lasting=True), Started("a"), Started("a"), report("a")],
        [Wrote("Heartbeat", 1, False, 2)],
    ],
)
def test_what_was_seen_of_a_job_that_is_well(seen: list[Seen]) -> None:
    assert violations(replace(well(), seen=tuple(seen))) == []
