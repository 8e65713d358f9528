"""Times what a device does: clocks, interleaved runs, and figures that noise moves little."""

from __future__ import annotations

import itertools
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from diminuendo.engine import tree

BLOCK = 5
"""Runs in a block: the median of a block is safe from single interruptions, the least of the blocks' medians from a
busy stretch."""


class Clock(Protocol):
    """Notes moments in what a device does."""

    def mark(self) -> Any:
        """Now: after everything that was asked of the device before, and ahead of everything after."""

    def ms(self, start: Any, end: Any) -> float:
        """Milliseconds between two marks; waits for the device."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A mark of a `HostClock`: seconds before and after it looked how long its thread has had to wait, in ns."""

    before: float
    waited_ns: int
    after: float


class HostClock:
    """Of a CPU: what was asked of it is done when the call returns.

    Time in which the thread was ready but others had the processors does not count, where the system tells it: it is
    the machine's business, not the network's.
    """

    def mark(self) -> Moment:
        """Seconds of a clock that never goes back."""
        before = time.perf_counter()
        return Moment(before, _waits.ns(), time.perf_counter())

    def ms(self, start: Moment, end: Moment) -> float:
        """Milliseconds between two marks."""
        return max(0.0, 1e3 * (end.before - start.after) - 1e-6 * (end.waited_ns - start.waited_ns))


class _Waits(threading.local):
    """How long this thread has been ready without a processor to run on, as Linux tells it."""

    def __init__(self) -> None:
        try:
            self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        except OSError:
            self._file = -1

    def __del__(self) -> None:
        if self._file >= 0:
            os.close(self._file)

    def ns(self) -> int:
        """Nanoseconds since the thread began; 0 where the system does not tell."""
        if self._file < 0:
            return 0
        try:
            return int(os.pread(self._file, 80, 0).split()[1])
        except (OSError, ValueError, IndexError):
            return 0


_waits = _Waits()


class CudaClock:
    """Of a GPU: marks are events in its current stream."""

    def mark(self) -> torch.cuda.Event:
        """An event that was just put in line."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def ms(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """Milliseconds between two events, once the second one has happened."""
        end.synchronize()
        return float(start.elapsed_time(end))


def clock_of(inputs: Any) -> Clock:
    """The clock of the device that inputs are on."""
    return CudaClock() if any(leaf.is_cuda for leaf in tree.leaves(inputs)) else HostClock()


@contextmanager
def threads_set(threads: int | None) -> Iterator[None]:
    """Torch's threads inside, as many as before afterwards; None: as many as it has."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def interleaved(
    runs: Sequence[Callable[[], object]],
    clock: Clock,
    *,
    rounds: int,
    warm_ups: int = 2,
    least_rounds: int = BLOCK,
    limit_s: float = float("inf"),
) -> list[list[float]]:
    """Time several things in turn, so that what disturbs the machine meets all of them.

    Args:
        runs: What to time; each round calls every one once, and begins one later than the round before.
        clock: Of the device that they run on.
        rounds: At most so many, after those to warm up.
        warm_ups: Rounds that are not timed.
        least_rounds: How many there are however long they take.
        limit_s: Seconds by the clock after which no further round begins.

    Returns:
        Milliseconds of each run, round by round.
    """
    taken: list[list[float]] = [[] for _ in runs]
    spent_ms = 0.0
    for turn in range(-warm_ups, rounds):
        if turn >= least_rounds and spent_ms > 1e3 * limit_s:
            break
        for place in range(len(runs)):
            which = (place + turn) % len(runs)
            start = clock.mark()
            runs[which]()
            ms = clock.ms(start, clock.mark())
            spent_ms += ms
            if turn >= 0:
                taken[which].append(ms)
    return taken


def typical(times: Sequence[float]) -> float:
    """The least median of blocks of 5 runs: noise on a busy machine only ever adds."""
    return min(statistics.median(block) for block in _blocks(times))


def spread(times: Sequence[float]) -> float:
    """How far the blocks' medians are apart, relative to the least of them; 0.1 is 10 %."""
    medians = [statistics.median(block) for block in _blocks(times)]
    return max(medians) / min(medians) - 1.0 if min(medians) > 0 else 0.0


def middle(values: Sequence[float]) -> float:
    """Mean of the middle half; 0 of none."""
    ordered = sorted(values)
    cut = len(ordered) // 4
    kept = ordered[cut : len(ordered) - cut]
    return statistics.fmean(kept) if kept else 0.0


def _blocks(times: Sequence[float]) -> list[Sequence[float]]:
    """Runs in blocks; what is left over is part of the last one."""
    count = max(1, len(times) // BLOCK)
    edges = [*range(0, BLOCK * count, BLOCK), len(times)]
    return [times[a:b] for a, b in itertools.pairwise(edges)]


@dataclass(frozen=True, slots=True)
class Race:
    """Several networks timed side by side.

    Attributes:
        ms: Median milliseconds of a forward of each.
        ratios: How many times as fast as the first one each is: the median over rounds, in which they were timed
            right after each other.
        spread: Quarter to three quarters of the rounds' ratios, relative to their median; the widest of them.
    """

    ms: tuple[float, ...]
    ratios: tuple[float, ...]
    spread: float


def race(
    runs: Sequence[Callable[[], object]],
    clock: Clock,
    *,
    rounds: int = 20,
    each: int = 3,
    warm_ups: int = 2,
    limit_s: float = 30.0,
) -> Race:
    """Time networks against the first of them.

    In each round every network runs once untimed, for what the others left in the caches is not what it finds in
    use, then `each` times: the median counts.

    Args:
        runs: A forward of each network.
        clock: Of the device that they run on.
        rounds: At most so many, at least 2.
        each: Timed runs of each network in a round.
        warm_ups: Rounds before that.
        limit_s: Seconds by the clock after which no further round begins, but for the first five.
    """
    found: list[list[float]] = [[] for _ in runs]
    for turn in range(-warm_ups, rounds):
        if turn >= BLOCK and each * sum(map(sum, found)) > 1e3 * limit_s:
            break
        for run, own in zip(runs, found, strict=True):
            run()
            times = interleaved([run], clock, rounds=each, warm_ups=0)[0]
            if turn >= 0:
                own.append(statistics.median(times))
    ratios = [[a / b if b > 0 else float("inf") for a, b in zip(found[0], own, strict=True)] for own in found]
    return Race(
        ms=tuple(statistics.median(own) for own in found),
        ratios=tuple(statistics.median(own) for own in ratios),
        spread=max(_quartiles(own) for own in ratios),
    )


def _quartiles(values: Sequence[float]) -> float:
    low, middle, high = statistics.quantiles(values, n=4)
    return (high - low) / middle if middle > 0 else 0.0
