"""The accounts, by hand: a clock that the test moves, and sums that fit on a line."""

from __future__ import annotations

from dataclasses import dataclass

from diminuendo.services.coordinator.ledger import Ledger, Stats


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def test_busy_time_is_counted_per_evaluator_and_goes_on_counting() -> None:
    clock = Clock()
    ledger = Ledger(("a", "b"), clock)
    ledger.idle("a")
    ledger.idle("b")
    ledger.busy("a")
    clock.now += 3
    ledger.busy("b")
    clock.now += 2
    ledger.idle("a")  # a: 5
    clock.now += 1  # b: 3 so far
    ledger.works_done = 1
    assert ledger.stats() == Stats((("a", 5.0), ("b", 3.0)), 0.0, 1, 0)
    ledger.away("b")  # lost
    clock.now += 10
    assert ledger.stats().busy_seconds == (("a", 5.0), ("b", 3.0))


def test_an_idle_evaluator_counts_while_works_stand_in_line() -> None:
    clock = Clock()
    ledger = Ledger(("a", "b"), clock)
    ledger.line(2)
    clock.now += 5  # both are still starting: no overhead
    ledger.idle("a")
    clock.now += 0.25  # a is idle, two wait
    ledger.busy("a")
    ledger.line(1)
    clock.now += 4  # a works, b is not there: nobody is idle
    ledger.idle("b")
    ledger.line(0)
    clock.now += 7  # b is idle, nothing waits
    assert ledger.stats().idle_ready_seconds == 0.25


def test_thinking_counts_when_a_work_comes_of_it() -> None:
    clock = Clock()
    ledger = Ledger(("a",), clock)
    ledger.idle("a")
    ledger.waiting("job")
    clock.now += 9  # the search waits, and there is nothing: its own structure
    ledger.thinking("job")
    clock.now += 0.5
    ledger.asked("job")
    ledger.line(1)
    ledger.busy("a")
    ledger.line(0)
    clock.now += 2
    assert ledger.stats().idle_ready_seconds == 0.5


def test_thinking_that_no_work_comes_of_does_not_count() -> None:
    clock = Clock()
    ledger = Ledger(("a",), clock)
    ledger.idle("a")
    ledger.thinking("job")
    clock.now += 0.5
    ledger.waiting("job")
    clock.now += 1
    ledger.asked("job")
    assert ledger.stats().idle_ready_seconds == 0.0


def test_thinking_while_everybody_works_costs_nothing() -> None:
    clock = Clock()
    ledger = Ledger(("a",), clock)
    ledger.idle("a")
    ledger.busy("a")
    ledger.thinking("job")
    clock.now += 3
    ledger.asked("job")
    assert ledger.stats().idle_ready_seconds == 0.0
