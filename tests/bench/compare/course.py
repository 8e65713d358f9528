"""How a method spends its epochs, and how its best candidates are certified: the same for all that are compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Made = TypeVar("Made")


@dataclass(frozen=True)
class Course:
    """A method's epochs.

    Attributes:
        trials: Candidates of the search.
        epochs: Tuning of each of them.
        finalists: Candidates that are tuned on, and judged on the sealed half.
        final_epochs: Further tuning of each of those.
        slack: A candidate of the search counts as inside delta up to this multiple of it, for the final tuning
            brings it nearer to the original.
    """

    trials: int
    epochs: float
    finalists: int
    final_epochs: float
    slack: float

    @property
    def total(self) -> float:
        """Epochs in all."""
        return self.trials * self.epochs + self.finalists * self.final_epochs


def course(total: float, trials: int, *, share: float, slack: float, finalists: int = 3) -> Course:
    """A course of so many epochs.

    Args:
        total: Epochs in all.
        trials: Candidates of the search.
        share: Of the epochs that the search takes.
    """
    return Course(trials, total * share / trials, finalists, total * (1.0 - share) / finalists, slack)


class OverspentError(RuntimeError):
    """Raised when a method would tune for more epochs than it has."""


ROUNDING = 1e-9


@dataclass
class Account:
    """Epochs that were spent, of those there are."""

    most: float
    spent: float = 0.0

    def charge(self, epochs: float) -> None:
        """Spend epochs; OverspentError where there are none left."""
        if self.spent + epochs > self.most * (1.0 + ROUNDING):
            raise OverspentError(f"{self.spent} epochs are spent and {epochs} asked for, of {self.most}")
        self.spent += epochs


@dataclass(frozen=True)
class Candidate(Generic[Made]):
    """A tuned network.

    Attributes:
        ratio: Params of the original for each of its own.
        drop: On the search half, in points; infinite where it diverged.
        epochs: That its weights have had.
        made: What it can be tuned on from.
    """

    ratio: float
    drop: float
    epochs: float
    made: Made


class Bench(Protocol[Made]):
    """Where candidates are tuned and judged."""

    def tuned_on(self, candidate: Candidate[Made], epochs: float) -> Candidate[Made]:
        """A candidate after further tuning; the epochs are charged."""
        ...

    def sealed_drops(self, candidates: Sequence[Candidate[Made]]) -> list[float]:
        """Drops on the sealed half, in points."""
        ...


@dataclass(frozen=True)
class Certified:
    """What a method ends with.

    Attributes:
        ratio: Params ratio of its smallest finalist inside delta on the sealed half; 1 where none is.
        drop: Of that finalist on the sealed half; where none is inside, the least of all.
        search_drop: Of the same one on the search half.
        finalists: (ratio, drop on the search half, drop on the sealed half) of all, the smallest network first.
    """

    ratio: float
    drop: float
    search_drop: float
    finalists: tuple[tuple[float, float, float], ...]


def frontier(candidates: Sequence[Candidate[Made]]) -> list[Candidate[Made]]:
    """Candidates of which none other is both smaller and better, the smallest first."""
    kept: list[Candidate[Made]] = []
    least = math.inf
    for candidate in sorted(candidates, key=lambda c: (-c.ratio, c.drop)):
        if candidate.drop < least:
            kept.append(candidate)
            least = candidate.drop
    return kept


def certify(bench: Bench[Made], candidates: Sequence[Candidate[Made]], course: Course, delta: float) -> Certified:
    """Tune the best candidates on, one after the other, and judge all of them in one look at the sealed half.

    The first is the smallest that counts as inside delta. Where its drop on the search half comes out inside, the next
    one is smaller (larger where all smaller ones were tried), else larger, and so on. Where no other is left, the one
    that is nearest to being both small and inside has the epochs of the rest. Candidates that the search left inside
    delta are judged too, as they were: our own search has such reserves.
    """
    line = frontier(candidates)
    if not line:
        return Certified(1.0, math.inf, math.inf, ())
    place = next((i for i, c in enumerate(line) if c.drop <= course.slack * delta), len(line) - 1)
    finals: dict[int, Candidate[Made]] = {}
    while len(finals) < course.finalists:
        finals[place] = bench.tuned_on(line[place], course.final_epochs)
        smaller = [i for i in range(place - 1, -1, -1) if i not in finals]
        larger = [i for i in range(place + 1, len(line)) if i not in finals]
        ahead = smaller or larger if finals[place].drop <= delta else larger
        if not ahead:
            break
        place = ahead[0]
    made = [c for c in finals.values() if math.isfinite(c.drop)]
    rest = (course.finalists - len(finals)) * course.final_epochs
    if rest and made:
        near = [c for c in made if c.drop <= course.slack * delta] or [min(made, key=lambda c: c.drop)]
        made.append(bench.tuned_on(max(near, key=lambda c: c.ratio), rest))
    made += [candidate for candidate in line if candidate.drop <= delta]
    made = sorted((c for c in made if math.isfinite(c.drop)), key=lambda c: (-c.ratio, c.drop))
    if not made:
        return Certified(1.0, math.inf, math.inf, ())
    drops = bench.sealed_drops(made)
    shown = tuple((c.ratio, c.drop, drop) for c, drop in zip(made, drops, strict=True))
    inside = [entry for entry in shown if entry[2] <= delta]
    if not inside:
        _, search_drop, drop = min(shown, key=lambda entry: entry[2])
        return Certified(1.0, drop, search_drop, shown)
    ratio, search_drop, drop = inside[0]
    return Certified(ratio, drop, search_drop, shown)
