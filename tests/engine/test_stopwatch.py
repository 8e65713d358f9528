from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

from diminuendo.engine import stopwatch
from diminuendo.engine.stopwatch import HostClock, clock_of, interleaved, middle, race, spread, threads_set, typical


class Hands:
    """A clock that others turn."""

    def __init__(self) -> None:
        self.now = 0.0

    def mark(self) -> float:
        return self.now

    def ms(self, start: float, end: float) -> float:
        return end - start

    def run(self, *ms: float) -> Callable[[], None]:
        """Something that takes these times in turn."""
        left = list(ms)

        def turn() -> None:
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return turn


def test_runs_are_timed_in_turn_and_each_round_begins_with_another() -> None:
    clock, order = Hands(), []

    def run(name: str) -> Callable[[], None]:
        return lambda: order.append(name)

    times = interleaved([run("a"), run("b"), run("c")], clock, rounds=3, warm_ups=1)
    assert "".join(order) == "cab" + "abc" + "bca" + "cab"
    assert times == [[0.0] * 3] * 3


def test_warm_ups_do_not_count() -> None:
    clock = Hands()
    assert interleaved([clock.run(100.0, 100.0, 5.0, 7.0)], clock, rounds=2, warm_ups=2) == [[5.0, 7.0]]


def test_no_round_begins_after_the_limit_but_for_the_least_of_them() -> None:
    clock = Hands()
    assert len(interleaved([clock.run(1000.0)], clock, rounds=50, warm_ups=0, limit_s=8)[0]) == 9
    assert len(interleaved([clock.run(1000.0)], clock, rounds=50, warm_ups=0, limit_s=0, least_rounds=6)[0]) == 6


def test_typical_is_the_least_median_of_blocks() -> None:
    quiet, busy = [10.0, 11.0, 12.0, 90.0, 11.0], [15.0, 16.0, 17.0, 15.0, 99.0]
    assert typical(quiet + busy) == 11.0
    assert spread(quiet + busy) == pytest.approx(16 / 11 - 1)
    assert typical([3.0, 1.0]) == 2.0
    assert typical([*quiet, 1.0, 1.0]) == 11.0  # too few for a block of their own: 7 runs are one block
    assert spread([4.0]) == 0.0
    assert spread([0.0] * 5) == 0.0


def test_the_middle_half_is_averaged() -> None:
    assert middle([100.0, 1.0, 2.0, 4.0, 0.0, 3.0, 5.0, -50.0]) == (1 + 2 + 3 + 4) / 4
    assert middle([7.0]) == 7.0
    assert middle([]) == 0.0


def test_a_race_compares_round_by_round() -> None:
    """The machine is twice as slow in the second half: times change, ratios do not."""
    clock = Hands()

    def network(ms: float) -> Callable[[], None]:
        # Once untimed and three times timed in each of four rounds, after a round to warm up.
        return clock.run(*[ms] * 4, *[ms] * 8, *[2 * ms] * 8)

    found = race([network(12.0), network(4.0), network(24.0)], clock, rounds=4, each=3, warm_ups=1)
    assert found.ms == (18.0, 6.0, 36.0)
    assert found.ratios == (1.0, 3.0, 0.5)
    assert found.spread == 0.0


def test_a_race_times_what_runs_after_itself() -> None:
    """The first run after another network finds cold caches; it does not count."""
    clock = Hands()
    cold, warm = clock.run(*[50.0, 5.0, 5.0, 5.0] * 3), clock.run(10.0)
    found = race([warm, cold], clock, rounds=3, each=3, warm_ups=0)
    assert found.ratios == (1.0, 2.0)


def test_a_long_race_ends_after_five_rounds() -> None:
    clock = Hands()
    race([clock.run(1000.0)], clock, rounds=100, each=1, warm_ups=0, limit_s=0)
    assert clock.now == 5 * 2 * 1000.0


def test_the_spread_of_a_race_is_that_of_its_ratios() -> None:
    clock = Hands()
    found = race([clock.run(8.0), clock.run(*[8.0, 4.0, 4.0, 4.0, 2.0, 2.0])], clock, rounds=6, each=1, warm_ups=0)
    # Timed are every second run: 4, 4, 2, then 2 for ever; ratios 2, 2, 4, 4, 4, 4: quartiles 2 and 4 around 4.
    assert found.ratios == (1.0, 4.0)
    assert found.spread == 0.5


def test_waiting_for_a_processor_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    class Waits:
        def ns(self) -> int:
            return waited

    seconds, waited = iter([1.0, 1.0, 1.5, 1.5]), 7
    monkeypatch.setattr(stopwatch, "_waits", Waits())
    monkeypatch.setattr(time, "perf_counter", lambda: next(seconds))
    clock = HostClock()
    start = clock.mark()
    waited += 300_000_000
    assert clock.ms(start, clock.mark()) == pytest.approx(500.0 - 300.0)


def test_the_host_clock_goes_forward() -> None:
    clock = HostClock()
    start = clock.mark()
    time.sleep(0.01)
    assert clock.ms(start, clock.mark()) > 5.0  # sleeping is no waiting for a processor


def test_threads_are_set_inside_and_restored() -> None:
    before = torch.get_num_threads()
    with threads_set(before + 1):
        assert torch.get_num_threads() == before + 1
    with threads_set(None):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_clock_waits_for_the_gpu() -> None:
    matrix = torch.ones(4096, 4096, device="cuda")
    clock = clock_of(matrix)
    times = [typical(interleaved([lambda: matrix @ matrix for _ in range(1)], clock, rounds=10)[0])]
    times.append(typical(interleaved([lambda: [matrix @ matrix for _ in range(20)]], clock, rounds=10)[0]))
    assert times[1] > 10 * times[0]
