"""How the candidates stand: estimates of their drops, who is inside delta, and the surrogate behind it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from diminuendo.engine.plan import Plan
from diminuendo.engine.search.space import Space
from diminuendo.engine.search.state import State, Trial
from diminuendo.engine.search.surrogate import Observation, Surrogate

TUNING, TUNING_WEIGHT = 0.3, 1.0
"""Prior of the power by which drops fall with epochs of tuning, plus one; and its weight, in squared logs of those."""

STEEPNESS, STEEPNESS_WEIGHT, STEEPEST = 1.5, 0.5, 4.0
"""Prior of the power by which drops grow with the ratio, its weight in squared logs of ratios, and the most it is taken
for; the least is 1."""

FAINT = 1 / 8
"""Drops below this share of delta are noise: they count as that much where the logs of drops are compared."""

CROWD = 256
"""Candidates that decisions are made by, so that one of ten thousand costs no more than one of a few hundred."""


class Crowd:
    """The scored candidates that decisions are made by: all of them, until there are twice `CROWD`.

    Then half of `CROWD` are the latest, the others those of before that kept delta and limits and did best, or came
    nearest. Which they are follows from the trials and their order alone.
    """

    def __init__(self, space: Space, delta: float, trials: Iterable[Trial] = ()) -> None:
        """Take these trials, in proposal order."""
        self._space, self._delta = space, delta
        self.trials: list[Trial] = []
        self.known: set[str] = set()
        for trial in trials:
            self.add(trial)

    def add(self, trial: Trial) -> None:
        """Take one more trial."""
        self.known.add(Plan(trial.choices).key())
        if trial.drop is None or trial.role == "control":
            return
        self.trials.append(trial)
        if len(self.trials) >= 2 * CROWD:
            earlier, latest = self.trials[: -CROWD // 2], self.trials[-CROWD // 2 :]
            best = sorted(earlier, key=self._worth)[: CROWD - len(latest)]
            self.trials = sorted([*best, *latest], key=lambda t: t.index)

    def _worth(self, trial: Trial) -> tuple[float, float, float, int]:
        goal, drop = self._space.goal, math.inf if trial.drop is None else trial.drop
        amount = self._space.amount(trial.cost)
        figures = (amount, drop) if math.isfinite(self._delta) else (drop, amount)
        return goal.over(trial.cost) + max(0.0, drop / self._delta - 1.0), *figures, trial.index


@dataclass(frozen=True)
class Standing:
    """A view of the trials told so far; made anew after each outcome."""

    state: State
    space: Space
    crowd: Crowd

    @property
    def trials(self) -> list[Trial]:
        """Candidates that were scored and count, without the dense control, in proposal order."""
        return self.crowd.trials

    @cached_property
    def _seen(self) -> dict[int, Observation]:
        """What was measured of every scored candidate, by work index."""
        return {
            t.index: Observation(Plan(t.choices), t.divergence, t.drop, t.lineage_epochs)
            for t in self.trials
            if t.drop is not None and t.divergence is not None
        }

    @cached_property
    def surrogate(self) -> Surrogate:
        """Fitted to every scored candidate; needs at least one."""
        return Surrogate.fit(self.space, list(self._seen.values()))

    @cached_property
    def estimates(self) -> dict[int, float]:
        """Drop of every scored candidate in points, steadied by its divergence, by work index."""
        return {index: self.surrogate.steadied(seen) for index, seen in self._seen.items()}

    def log_drop(self, trial: Trial) -> float:
        """Log of a candidate's estimated drop; see `FAINT`."""
        return math.log(max(self.estimates[trial.index], FAINT * self.delta))

    def forecast(self, trial: Trial, epochs: float) -> float:
        """Drop expected of a candidate after so many more epochs of tuning, in points."""
        return max(0.0, self.estimates[trial.index]) * self.fall(trial, epochs)

    def fall(self, trial: Trial, epochs: float) -> float:
        """What so many more epochs of tuning leave of a candidate's drop, as a factor."""
        more = math.log1p(trial.lineage_epochs + epochs) - math.log1p(trial.lineage_epochs)
        return math.exp(-self._tuning * more)

    @cached_property
    def _tuning(self) -> float:
        """The power by which drops fall with tuning, from all candidates that were tuned on as they were."""
        by_index = {t.index: t for t in self.trials}
        fallen, squares = TUNING * TUNING_WEIGHT, TUNING_WEIGHT
        for trial in self.trials:
            before = by_index.get(-1 if trial.parent is None else trial.parent)
            if before is not None and before.choices == trial.choices:
                more = math.log1p(trial.lineage_epochs) - math.log1p(before.lineage_epochs)
                fallen += more * (self.log_drop(before) - self.log_drop(trial))
                squares += more * more
        return min(1.0, max(0.0, fallen / squares))

    @cached_property
    def steepness(self) -> float:
        """The power by which drops grow with the ratio, from candidates that are neither all but whole nor ruined."""
        telling = [t for t in self.trials if 2 * FAINT * self.delta < self.estimates[t.index] < self.delta / FAINT]
        logs = [math.log(self.amount(t)) for t in telling]
        drops = [self.log_drop(t) + self._tuning * math.log1p(t.lineage_epochs) for t in telling]
        middle, level = (sum(logs) / len(logs), sum(drops) / len(drops)) if logs else (0.0, 0.0)
        grown, squares = STEEPNESS * STEEPNESS_WEIGHT, STEEPNESS_WEIGHT
        for log, drop in zip(logs, drops, strict=True):
            grown -= (log - middle) * (drop - level)
            squares += (log - middle) ** 2
        return min(STEEPEST, max(1.0, grown / squares))

    def inside(self, trial: Trial, delta: float) -> bool:
        """Whether a candidate is inside a tolerance, as measured and as estimated, and inside limits and target."""
        return (
            self.space.goal.kept(trial.cost)
            and trial.drop is not None
            and trial.drop <= delta
            and self.estimates[trial.index] <= delta
        )

    @property
    def delta(self) -> float:
        """The tolerance in points; infinite where a target stands in its place."""
        return self.state.request.tolerance

    @cached_property
    def inside_all(self) -> list[Trial]:
        """Candidates that keep all that was asked for, the best first.

        Inside delta the smallest one, of equal ones the one with the lowest estimate; within a target the other way
        round.
        """
        inside = [t for t in self.trials if self.inside(t, self.delta)]
        if self.state.request.target is not None:
            return sorted(inside, key=lambda t: (self.estimates[t.index], self.amount(t), t.index))
        return sorted(inside, key=lambda t: (self.amount(t), self.estimates[t.index], t.index))

    @property
    def incumbent(self) -> Trial | None:
        """The best candidate that keeps all that was asked for."""
        return next(iter(self.inside_all), None)

    @cached_property
    def nearest(self) -> Trial | None:
        """The candidate with the lowest estimate, if possible inside limits and target; for when none is inside."""
        over = self.space.goal.over
        return min(
            self.trials, key=lambda t: (over(t.cost), self.estimates[t.index], self.amount(t), t.index), default=None
        )

    def amount(self, trial: Trial) -> int:
        """The figure of a candidate that the search makes small."""
        return self.space.amount(trial.cost)

    @cached_property
    def known(self) -> set[str]:
        """Keys of the plans that were tried or are being tried."""
        questions = [p.work.question for p in self.state.pending]
        return self.crowd.known.union(Plan(q.choices).key() for q in questions if q.kind == "evaluate")
