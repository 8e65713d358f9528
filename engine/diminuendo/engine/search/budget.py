"""Budgets: how much is tried, and for how long, so that all of it and the certificate can be paid for.

Evaluations and epochs are exact: what is under way counts as spent, and what certification needs is kept back before
anything is proposed. Minutes are told by whoever drives the session; the seconds of an epoch are measured, and those
that a candidate takes beside its epochs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from diminuendo.engine.search.settings import Settings
from diminuendo.engine.search.state import Request, State

BudgetName = Literal["evaluations", "epochs", "minutes"]
BUDGETS: tuple[BudgetName, ...] = get_args(BudgetName)

LEAST: Mapping[str, int] = {"evaluations": 3, "epochs": 1}
"""One candidate, one finalist and the dense control; and a pass over the data for all of them."""

UNLIMITED = 10**9

COUNT_SHARE = 0.3
"""What is short is taken from the number of candidates to this power, and from the epochs of each to the rest: long
tunings of few candidates find more than short ones of many."""

PART = 32
"""Epochs are whole parts of a pass, so many to one."""

CONTROL_SHARE = 8
"""The dense control takes at most one part in so many of a budget: an epoch of the original is dear, and tells little
of a network that has become worse."""

FINALS_SHARE = 0.5
"""Full tunings take at most this part of the epochs there are: one long tuning of a smaller candidate ends at a better
ratio than many brief ones of milder candidates."""

FINALISTS_SHARE = 0.25
"""There are as many finalists as this part of the epochs pays for in full, at least one."""

AFTER_SHARE = 8
"""One part in so many of a short budget is kept for making finalists smaller, or for bringing them inside delta."""

FIRST_SHARE = 2
"""The first round takes at most one part in so many of what there is room for."""

LEAST_FIRST = 0.5
"""Where candidates of the first round would be tuned for less than so many epochs, none is before the full tuning: they
are told apart as they were fitted, and the epochs go to the finalist, which gains more by them."""

MOVES_SHARE = 4
"""Of the annealing's moves one in so many is made where candidates are not tuned: the best of many that are nearly
alike is the luckiest."""

PROBES_SHARE = 4
"""Of minutes, candidates that are not tuned take at most one part in so many."""

ALL_SHARE = 1.0 - 1 / CONTROL_SHARE
"""What full tunings take of the epochs where nothing comes after them and nothing is tuned before."""

UNSEEN_SPEED = 0.5
"""An epoch of a candidate, relative to one of the original, as long as none was measured."""

VERDICT = 3
"""The verdict takes about as long as so many candidates do beside their tuning: finalists, reserves, the original."""

ROUNDS = 3
"""How often the amounts of a search are made anew, of the epochs that their own number of candidates leaves."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds of the job. Where several evaluators work side by side, each takes its part of them.

    Attributes:
        epoch_s: Of an epoch of tuning.
        beside_s: Of all else that a candidate takes: it is built, scored and stored.
    """

    epoch_s: float
    beside_s: float

    def scoring_s(self, candidates: int) -> float:
        """What so many candidates take beside their epochs, and the verdict."""
        return (candidates + VERDICT) * self.beside_s


@dataclass(frozen=True, slots=True)
class Finals:
    """What certification does.

    Attributes:
        count: Finalists; the dense control comes on top.
        epochs: Full tuning of each of them.
        control: The most epochs of the dense control.
    """

    count: int
    epochs: float
    control: float = math.inf

    def control_epochs(self, lineage: float) -> float:
        """Epochs of the control: as many as a finalist has had that descends from a trial with `lineage`, if it may."""
        return min(lineage + self.epochs, self.control)

    def total(self, lineage: float) -> float:
        """Epochs of all."""
        return self.count * self.epochs + self.control_epochs(lineage)


@dataclass(frozen=True, slots=True)
class Forecast:
    """The most that a whole job takes."""

    evaluations: int
    epochs: float


def of(request: Request, name: BudgetName) -> float:
    """One budget of a request; infinite when there is none."""
    return dict(request.budget).get(name, math.inf)


def minutes_of(state: State) -> float:
    """Minutes that the job has in all: its budget's, or until its deadline; infinite when there is neither."""
    return min(of(state.request, "minutes"), math.inf if state.end_s is None else state.end_s / 60)


def _left_s(state: State) -> float:
    """Seconds until these minutes are over; infinite when there are none."""
    return 60 * minutes_of(state) - state.elapsed_s


def spent(state: State) -> tuple[int, float]:
    """Evaluations and epochs that were paid for or are under way."""
    asked = [p.work.question for p in state.pending]
    under_way = [question.epochs for question in asked if question.kind == "evaluate"]
    return len(state.trials) + len(under_way), state.epochs + sum(under_way)


def longest(state: State) -> float:
    """Most epochs that any candidate's weights have had, those under way included."""
    lineages = [t.lineage_epochs for t in state.trials if t.role != "control"]
    return max([*lineages, *(p.lineage_epochs for p in state.pending)], default=0.0)


def pace_of_one(state: State) -> Pace | None:
    """What candidates take of one evaluator; None before anything was measured.

    The two are told apart: by the seconds of short tunings, most of which are scoring, a long one would seem to take
    much longer than it does.
    """
    unseen_s = UNSEEN_SPEED * dense_epoch_s(state)
    if state.tuning_s > 0 and (state.epochs or unseen_s):
        tuned_s = max(1e-9, state.tuning_s - state.beside_s)
        return Pace(tuned_s / state.epochs if state.epochs else unseen_s, state.beside_s / len(state.trials))
    return Pace(unseen_s, state.prepared.score_s) if state.prepared and unseen_s else None


def pace(state: State) -> Pace | None:
    """What candidates take of the job's time, as evaluators work side by side; None before anything was measured."""
    alone = pace_of_one(state)
    if alone is None or not state.surveyed_s:
        return alone
    side_by_side = max(1.0, state.tuning_s / max(1e-9, state.elapsed_s - state.surveyed_s))
    epoch_s = alone.epoch_s / side_by_side if state.epochs else alone.epoch_s
    return Pace(epoch_s, alone.beside_s / side_by_side)


def dense_epoch_s(state: State) -> float:
    """Seconds of an epoch of the original, as far as it was measured; else 0."""
    return state.prepared.epoch_s if state.prepared else 0.0


def epochs_in_all(state: State, settings: Settings | None = None) -> float:
    """Epochs that the job has, those that were spent included; infinite without a budget.

    Args:
        settings: What is going to be tried: of minutes, the candidates take some beside their epochs.
    """
    most, speed = of(state.request, "epochs"), pace(state)
    if speed:
        scoring_s = speed.scoring_s(_ahead(state, settings)) if settings else 0.0
        most = min(most, state.epochs + max(0.0, _left_s(state) - scoring_s) / speed.epoch_s)
    return most


def _ahead(state: State, settings: Settings) -> int:
    """Candidates that are still to come."""
    finals = len(settings.growths) + 1
    if state.stage == "certify":
        return finals
    in_all = sum(count for count, _ in rounds(state.request, settings)) + finals
    return max(in_all - len(state.trials), finals)


def scaled(state: State, settings: Settings) -> Settings:
    """An effort's amounts, smaller where the budget is too small for them.

    The full tuning is shortened last: a candidate gains more by it than the search by further candidates. There are as
    many finalists as a quarter of the budget pays for in full, at least one; another part is kept for what comes
    after them. Where that leaves the first candidates less than `LEAST_FIRST`, the search is untuned.
    """
    found = _of_epochs(state.request, settings, epochs_in_all(state))
    speed = pace(state)
    for _ in range(ROUNDS if speed and speed.beside_s else 0):
        found = _of_epochs(state.request, settings, epochs_in_all(state, found))
    return found


def _of_epochs(request: Request, settings: Settings, most: float) -> Settings:
    if most >= _in_full(request, settings, Finals(len(settings.growths), settings.final_epochs)):
        return settings
    each = min(settings.final_epochs, whole(most * FINALS_SHARE))
    finalists = min(len(settings.growths), max(1, int(most * FINALISTS_SHARE / each)))
    kept_back = finalists * each + most / CONTROL_SHARE + most / AFTER_SHARE
    search = sum(count * epochs for count, epochs in rounds(request, settings))
    share = min(1.0, max(0.0, most - kept_back) / search)

    def count(of_all: int) -> int:
        return max(1, round(of_all * math.pow(share, COUNT_SHARE)))

    def epochs(of_all: float) -> float:
        return whole(of_all * math.pow(share, 1.0 - COUNT_SHARE))

    if epochs(settings.first_epochs) < LEAST_FIRST:
        each = min(settings.final_epochs, whole(most * _finals_share(request, untuned=True)))
        return replace(
            settings,
            first_epochs=0.0,
            kept=0,
            bracket_epochs=0.0,
            moves=max(1, settings.moves // MOVES_SHARE),
            move_epochs=0.0,
            growths=settings.growths[:1],
            final_epochs=each,
        )
    moves = count(settings.moves)
    return replace(
        settings,
        budgets=count(settings.budgets),
        first_epochs=epochs(settings.first_epochs),
        kept=count(settings.kept),
        kept_epochs=epochs(settings.kept_epochs),
        bracket=count(settings.bracket),
        bracket_epochs=epochs(settings.bracket_epochs),
        moves=moves,
        window=max(1, min(settings.window, moves // 3)),
        move_epochs=epochs(settings.move_epochs),
        growths=settings.growths[:finalists],
        final_epochs=each,
    )


def _finals_share(request: Request, *, untuned: bool) -> float:
    """Most of the epochs that full tunings take."""
    return ALL_SHARE if untuned and not request.follows_up else FINALS_SHARE


def whole(epochs: float) -> float:
    """Whole parts of a pass, at least one."""
    return max(1, math.floor(epochs * PART)) / PART


def _in_full(request: Request, settings: Settings, keep: Finals) -> float:
    """Epochs of every round in full, and of certification."""
    return sum(count * epochs for count, epochs in rounds(request, settings)) + keep.total(_lineage(request, settings))


def rounds(request: Request, settings: Settings) -> tuple[tuple[int, float], ...]:
    """Candidates of each round, and epochs of each."""
    s, moves = settings, settings.moves if request.stage == 2 else 0
    return (
        (s.budgets, s.first_epochs),
        (s.kept, s.kept_epochs),
        (s.bracket, s.bracket_epochs),
        (moves, s.move_epochs),
    )


def _lineage(request: Request, settings: Settings) -> float:
    """Most epochs that a candidate's weights will have had before the full tuning.

    A move starts from what was known a window of proposals before.
    """
    s, moves = settings, settings.moves if request.stage == 2 else 0
    return s.first_epochs + s.kept_epochs + s.bracket_epochs + math.ceil(moves / s.window) * s.move_epochs


def finals(state: State, settings: Settings) -> Finals:
    """What certification is to do under the request's budgets.

    Args:
        state: What was spent.
        settings: As `scaled` has them.
    """
    count, each, most = len(settings.growths), settings.final_epochs, epochs_in_all(state, settings)
    if math.isfinite(evaluations := of(state.request, "evaluations")):
        count = min(count, max(1, int(evaluations - 1) // 3))
    if math.isfinite(most):
        share = _finals_share(state.request, untuned=settings.untuned)
        each = min(each, whole(most * share))
        count = min(count, max(1, int(most * share / each)))
    return Finals(count, each, _control_most(state))


def _control_most(state: State) -> float:
    request, dense = state.request, dense_epoch_s(state)
    most = of(request, "epochs") / CONTROL_SHARE
    if dense:
        most = min(most, 60 * minutes_of(state) / CONTROL_SHARE / dense)
    return most if math.isinf(most) else whole(most)


def room(state: State, settings: Settings, epochs: float, lineage: float) -> int:
    """How many more candidates may be proposed.

    Args:
        state: What was spent.
        settings: As `scaled` has them.
        epochs: Of each candidate.
        lineage: Most epochs that their weights will have had.
    """
    request = state.request
    keep = finals(state, settings)
    evaluations, so_far = spent(state)
    left: list[float] = [UNLIMITED]
    if math.isfinite(most := of(request, "evaluations")):
        left.append(most - evaluations - keep.count - 1)
    if epochs and math.isfinite(most := of(request, "epochs")):
        kept_back = keep.total(max(lineage, longest(state))) + most / AFTER_SHARE
        left.append((most - so_far - kept_back) / epochs)
    if (speed := pace(state)) and math.isfinite(left_s := _left_s(state)) and state.trials:
        kept_back_s = _certify_s(state, keep, speed) + 60 * minutes_of(state) / AFTER_SHARE
        under_way_s = (so_far - state.epochs) * speed.epoch_s + (evaluations - len(state.trials)) * speed.beside_s
        free_s = left_s - kept_back_s
        if not epochs:
            searched_s = state.elapsed_s - state.surveyed_s
            free_s = min(free_s, (left_s + searched_s) / PROBES_SHARE - searched_s)
        each_s = speed.epoch_s * epochs + speed.beside_s
        left.append((free_s - under_way_s) / max(1e-9, each_s))
    return max(0, int(min(left)))


def left(state: State) -> float:
    """Epochs that one more candidate may take before the verdict; 0 when none may be tried."""
    request, speed = state.request, pace(state)
    evaluations, so_far = spent(state)
    if evaluations + 1 > of(request, "evaluations"):
        return 0.0
    most = of(request, "epochs") - so_far
    if speed:
        most = min(most, (_left_s(state) - speed.scoring_s(1)) / speed.epoch_s)
    return max(0.0, most)


def _certify_s(state: State, keep: Finals, speed: Pace) -> float:
    """Seconds that certification takes."""
    control = keep.control_epochs(longest(state)) * (dense_epoch_s(state) or speed.epoch_s)
    return keep.count * keep.epochs * speed.epoch_s + control + speed.scoring_s(keep.count + 1)


def due(state: State, settings: Settings) -> bool:
    """Whether the minutes that are left are those that certification needs."""
    left_s, speed = _left_s(state), pace(state)
    if math.isinf(left_s):
        return False
    return left_s <= (_certify_s(state, finals(state, settings), speed) if speed else 0.0)


def affordable(state: State, settings: Settings) -> Finals:
    """The certification that fits into what is left; at least one finalist with a part of an epoch.

    What was planned fits, unless there are minutes: the plan then follows the measured speed, which wavers.
    """
    request, planned, speed, lineage = state.request, finals(state, settings), pace(state), longest(state)
    evaluations, so_far = spent(state)
    left = of(request, "epochs") - so_far
    if speed:
        dearer = max(0.0, (dense_epoch_s(state) or speed.epoch_s) - speed.epoch_s)
        extra_s = dearer * planned.control_epochs(lineage) + speed.scoring_s(planned.count + 1)
        left = min(left, (_left_s(state) - extra_s) / speed.epoch_s)
    if planned.total(lineage) > left:  # the control gives way first
        planned = replace(planned, control=min(planned.control, whole(left / 4)))
    count, epochs = planned.count, planned.epochs
    while count > 1 and (
        replace(planned, count=count).total(lineage) > left or evaluations + count + 1 > of(request, "evaluations")
    ):
        count -= 1
    while epochs > 1 / PART and replace(planned, count=count, epochs=epochs).total(lineage) > left:
        epochs = whole(epochs - 1 / PART)
    control = min(planned.control, max(1 / PART, left - count * epochs))
    return Finals(count, epochs, control if math.isinf(control) else whole(control))


def forecast(request: Request, settings: Settings) -> Forecast:
    """The most that the whole search takes: every round in full, or the budget where that is less."""
    blank = State(request)
    settings = scaled(blank, settings)
    keep = finals(blank, settings)
    each = sorted((epochs for count, epochs in rounds(request, settings) for _ in range(count)), reverse=True)
    after = [settings.after_epochs] * settings.squeezes + [settings.final_epochs] * settings.easings
    if not request.follows_up:
        after = []
    most = of(request, "evaluations")
    evaluations = int(min(len(each), most - keep.count - 1))
    in_all = sum(each[:evaluations]) + keep.total(_lineage(request, settings)) + sum(after)
    return Forecast(int(min(evaluations + keep.count + 1 + len(after), most)), min(of(request, "epochs"), in_all))
