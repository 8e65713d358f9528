"""Budgets: how much more may be tried so that the certificate can still be paid for.

Evaluations and epochs are exact: what is under way counts as spent, and what certification needs is kept back before
anything is proposed. Minutes are told by whoever drives the session; the seconds of an epoch are measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from diminuendo.engine.search.settings import Settings
from diminuendo.engine.search.state import Request, State

BudgetName = Literal["evaluations", "epochs", "minutes"]
BUDGETS: tuple[BudgetName, ...] = get_args(BudgetName)

LEAST: Mapping[str, int] = {"evaluations": 3, "epochs": 12}
"""One candidate, one finalist and the dense control; and a few epochs for each at any effort."""

UNLIMITED = 10**9
FINAL_SHARE = 6
"""The full tuning of one finalist takes at most one part in so many of the epochs there are."""
FINALISTS_SHARE = 4
"""There are at most as many finalists as take one part in so many each."""
FIRST_SHARE = 2
"""The first round takes at most one part in so many of what there is room for."""


@dataclass(frozen=True, slots=True)
class Finals:
    """What certification does.

    Attributes:
        count: Finalists; the dense control comes on top.
        epochs: Full tuning of each of them.
    """

    count: int
    epochs: int

    def total(self, lineage: int) -> int:
        """Epochs of all, the control's as many as a finalist has had that descends from a trial with `lineage`."""
        return self.count * self.epochs + lineage + self.epochs


@dataclass(frozen=True, slots=True)
class Forecast:
    """The most that a whole job takes."""

    evaluations: int
    epochs: int


def of(request: Request, name: BudgetName) -> float:
    """One budget of a request; infinite when there is none."""
    return dict(request.budget).get(name, math.inf)


def spent(state: State) -> tuple[int, int]:
    """Evaluations and epochs that were paid for or are under way."""
    asked = [p.work.question for p in state.pending]
    under_way = [question.epochs for question in asked if question.kind == "evaluate"]
    return len(state.trials) + len(under_way), state.epochs + sum(under_way)


def longest(state: State) -> int:
    """Most epochs that any candidate's weights have had, those under way included."""
    lineages = [t.lineage_epochs for t in state.trials if t.role != "control"]
    return max([*lineages, *(p.lineage_epochs for p in state.pending)], default=0)


def epoch_s(state: State) -> float | None:
    """Seconds of an epoch of tuning on one evaluator, scoring and the like included; None before the first."""
    return state.tuning_s / state.epochs if state.epochs and state.tuning_s > 0 else None


def finals(state: State, settings: Settings) -> Finals:
    """What certification is to do under the request's budgets."""
    request, speed = state.request, epoch_s(state)
    epochs = of(request, "epochs")
    if speed:
        epochs = min(epochs, 60 * of(request, "minutes") / speed)
    count, each = len(settings.growths), settings.final_epochs
    if math.isfinite(evaluations := of(request, "evaluations")):
        count = min(count, max(1, int(evaluations - 1) // 3))
    if math.isfinite(epochs):
        each = min(each, max(1, int(epochs) // FINAL_SHARE))
        count = min(count, max(1, int(epochs) // (FINALISTS_SHARE * each)))
    return Finals(count, each)


def room(state: State, settings: Settings, epochs: int, lineage: int) -> int:
    """How many more candidates may be proposed.

    Args:
        state: What was spent.
        settings: Of the effort.
        epochs: Of each candidate.
        lineage: Most epochs that their weights will have had.
    """
    request = state.request
    keep = finals(state, settings)
    evaluations, so_far = spent(state)
    left: list[float] = [UNLIMITED]
    if math.isfinite(most := of(request, "evaluations")):
        left.append(most - evaluations - keep.count - 1)
    if math.isfinite(most := of(request, "epochs")):
        left.append((most - so_far - keep.total(max(lineage, longest(state)))) // max(1, epochs))
    return max(0, int(min(left)))


def due(state: State, settings: Settings) -> bool:
    """Whether the minutes that are left are those that certification needs on one evaluator."""
    minutes, speed = of(state.request, "minutes"), epoch_s(state)
    if not math.isfinite(minutes):
        return False
    keep = finals(state, settings).total(longest(state)) * speed if speed else 0.0
    return state.elapsed_s + keep >= 60 * minutes


def affordable(state: State, settings: Settings) -> Finals:
    """The certification that fits into what is left; at least one finalist with one epoch.

    What was planned fits, unless there are minutes: the plan then follows the measured speed, which wavers.
    """
    request, planned, speed, lineage = state.request, finals(state, settings), epoch_s(state), longest(state)
    evaluations, so_far = spent(state)
    left = of(request, "epochs") - so_far
    if speed:
        left = min(left, (60 * of(request, "minutes") - state.elapsed_s) / speed)
    count, epochs = planned.count, planned.epochs
    while count > 1 and (
        Finals(count, epochs).total(lineage) > left or evaluations + count + 1 > of(request, "evaluations")
    ):
        count -= 1
    return Finals(count, int(max(1, min(epochs, (left - lineage) // (count + 1)))))


def forecast(request: Request, settings: Settings) -> Forecast:
    """The most that the whole search takes: every round in full, or the budget where that is less."""
    s, moves = settings, settings.moves if request.stage == 2 else 0
    keep = finals(State(request), settings)
    rounds = (
        (s.budgets, s.first_epochs),
        (s.kept, s.kept_epochs),
        (s.bracket, s.bracket_epochs),
        (moves, s.move_epochs),
    )
    each = sorted((epochs for count, epochs in rounds for _ in range(count)), reverse=True)
    evaluations = int(min(len(each), of(request, "evaluations") - keep.count - 1))
    # A move starts from what was known a window of proposals before.
    lineage = s.first_epochs + s.kept_epochs + s.bracket_epochs + math.ceil(moves / s.window) * s.move_epochs
    return Forecast(
        evaluations + keep.count + 1,
        int(min(of(request, "epochs"), sum(each[:evaluations]) + keep.total(lineage))),
    )
