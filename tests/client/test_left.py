"""What is left of a job: the estimate of its time, and its budget."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import reduce

import pytest

from diminuendo.client import (
    Candidate,
    EvaluationFinished,
    Event,
    JobState,
    Progress,
    Stage,
    StateChanged,
    StepCommitted,
    Updated,
)
from diminuendo.client.display.left import left_line, left_s
from diminuendo.client.display.view import View, advance

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def running(seconds: float = 0) -> Event:
    return StateChanged(1, at(seconds), JobState.RUNNING)


def step(seconds: float, done: int, expected: int = 40) -> Event:
    return StepCommitted(2, at(seconds), done, Progress(Stage.ANNEAL, done, done, expected))


def timed(seconds: float, done: int, seconds_done: float, seconds_expected: float) -> Event:
    progress = Progress(Stage.ANNEAL, done, done, 14, seconds_done=seconds_done, seconds_expected=seconds_expected)
    return StepCommitted(2, at(seconds), done, progress)


def evaluated(seconds: float, epochs: float, *, remembered: bool = False) -> Event:
    return EvaluationFinished(
        3, at(seconds), 0, "k", "evaluate", "s", 1.0, "e", remembered, epochs, Candidate(2.0, 2.0, 0.5)
    )


def view(*events: Event, **more: object) -> View:
    return reduce(advance, events, View("j", delta=1.0, **more))  # type: ignore[arg-type]


STEADY = (running(), *(step(10 * number, number) for number in range(1, 11)))
"""A work each 10 s; 10 of 40 are done at 100 s."""


def test_works_still_expected_take_as_long_as_the_last_ones_did() -> None:
    assert left_s(view(*STEADY), at(100)) == pytest.approx(300)
    assert left_s(view(*STEADY), at(104)) == pytest.approx(296), "the one under way has had 4 s"
    assert left_line(view(*STEADY), at(100)) == "about 5 min (estimate)"


def test_a_work_that_takes_long_slows_the_estimate_instead_of_ending_it() -> None:
    late = [left_s(view(*STEADY), at(100 + seconds)) for seconds in (20, 200, 2000)]
    assert late == sorted(late)  # type: ignore[type-var]
    assert late[0] is not None
    assert late[0] > 250


def test_finalists_that_take_long_are_told_before_they_are_begun() -> None:
    """Ten works of 10 s, on two evaluators 5 s each; the last four take 100 s of an evaluator each."""
    steps = [timed(5 * number, number, 10 * number, 500) for number in range(1, 11)]
    assert left_s(view(running(), *steps), at(50)) == pytest.approx(200)
    assert left_s(view(running(), *steps), at(70)) == pytest.approx(180), "the one under way has had 20 s of its 50"
    late = left_s(view(running(), *steps), at(350))
    assert late is not None
    assert late > 150, "it takes longer than was expected: so may the other three"
    ended = timed(300, 14, 500, 500)
    assert left_s(view(running(), *steps, ended), at(300)) == 0


def test_seconds_count_once_all_steps_of_the_pace_tell_them() -> None:
    untold = [timed(10 * number, number, 0, 0) for number in range(1, 6)]
    told = [timed(10 * number, number, 10 * number, 500) for number in range(6, 11)]
    assert left_s(view(running(), *untold, *told), at(100)) == pytest.approx(4 * 10)
    assert left_s(view(running(), *told), at(100)) == pytest.approx(400)
    known = [timed(10 * number, number, 60, 500) for number in range(6, 11)]
    assert left_s(view(running(), *known), at(100)) is None, "nothing was computed"


def test_only_the_last_works_count() -> None:
    quick = (running(), *(step(0.1 * number, number, 100) for number in range(1, 41)))
    slow = tuple(step(10 * (number - 40), number, 100) for number in range(41, 81))
    assert left_s(view(*quick, *slow), at(400)) == pytest.approx(200)


@pytest.mark.parametrize("count", [1, 3])
def test_nothing_is_said_before_it_can_be_told(count: int) -> None:
    assert left_s(view(*STEADY[:count]), at(20)) is None
    assert left_line(view(*STEADY[:count]), at(20)) == "time not known yet"
    assert left_line(view(*STEADY, StateChanged(9, at(101), JobState.SUCCEEDED)), at(102)) == ""


def test_a_pause_is_no_part_of_the_pace() -> None:
    paused = view(*STEADY, StateChanged(5, at(101), JobState.PAUSED), running(5000))
    assert left_s(paused, at(5001)) is None
    again = reduce(advance, [step(5010 + 10 * n, 10 + n) for n in range(4)], paused)
    assert left_s(again, at(5040)) == pytest.approx(270)


def test_what_is_left_of_the_budget() -> None:
    budget = {"evaluations": 10.0, "epochs": 30.0, "minutes": 5.0}
    had = view(*STEADY, evaluated(100, 2.5), evaluated(100, 3), budget=budget)
    assert left_line(had, at(100)) == "about 3 min (estimate); of budget 8 evaluations, 24.5 epochs, 3:20 min"
    assert left_line(had, at(100), narrow=True) == "about 3 min (est.); 8 evals, 24.5 epochs, 3:20 min"
    known = advance(had, evaluated(100, 0, remembered=True))
    assert "7 evaluations, at most 24.5 epochs" in left_line(known, at(100))
    assert "0 evaluations, 0 epochs, 0:00 min" in left_line(
        replace(had, evaluated=99, epochs=99.0, worked_s=1e6), at(100)
    )


def test_minutes_count_only_while_somebody_works_on_it() -> None:
    budget = {"minutes": 5.0}
    paused = view(*STEADY, StateChanged(5, at(120), JobState.PAUSED), budget=budget)
    assert left_line(paused, at(9999)) == "time not known yet; of budget 3:00 min"
    again = view(*STEADY, StateChanged(5, at(120), JobState.PAUSED), running(5000), budget=budget)
    assert left_line(again, at(5030)).endswith("of budget 2:30 min")
    parting = view(*STEADY, StateChanged(5, at(120), JobState.PAUSING), running(130), budget=budget)
    assert left_line(parting, at(150)).endswith("of budget 2:30 min"), "it worked all the time"


def test_a_deadline_bounds_the_estimate_and_may_be_moved() -> None:
    soon = view(*STEADY, deadline=at(160))
    assert left_line(soon, at(100)) == "about 1 min (estimate); deadline in 1:00"
    moved = advance(soon, Updated(9, at(100), ("deadline",), {}, 0, None))
    assert left_line(moved, at(100)) == "about 5 min (estimate)"
    hours = view(running(), *(step(1000 * n, n, 40) for n in range(1, 11)))
    assert left_line(hours, at(10_000)) == "about 8.3 hours (estimate)"
