"""What to try next: first budgets, the ones kept, the bracket around delta, annealing moves, finalists."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from diminuendo.engine.plan import Plan
from diminuendo.engine.search import isotonic, moves
from diminuendo.engine.search.moves import Board
from diminuendo.engine.search.path import at_most, path
from diminuendo.engine.search.rng import keyed
from diminuendo.engine.search.settings import Settings
from diminuendo.engine.search.standing import FAINT, Standing
from diminuendo.engine.search.state import Role, Trial
from diminuendo.engine.search.work import OWN, OWN_RIVAL

FAR = 0.3
"""How far beyond today's crossing of delta, in log of the objective, more tuning is expected to reach."""

FEW = 4
"""Two first plans and up to so many leave both ends of their range out: those are the least likely to be near delta.
A single one is the mildest."""

APART = 0.5
"""A candidate farther than this from where more tuning may bring delta, in log of the objective, is not tuned on."""

STRIDES = (1.0, 0.5, 1.6)
"""Steps of successive annealing proposals, relative to the session's step."""

COLD_RATE = 0.5
"""Relative rate of the first, short tuning from factors: in so few steps the full rate costs more than it finds."""

FULL = 0.8
"""A finalist that is going to use this much of delta, tuned on, is not made smaller."""

NEAR = 2.0
"""A candidate outside delta is worth more tuning up to this multiple of delta."""

SURE = 0.9
"""Full tuning is trusted to bring a candidate inside delta where its forecast is below this share of it."""

FRESH = 1.2
"""A finalist that has more than this of the best one's params starts from the stored factors, not from its weights."""

LEAST_GROWTH, MOST_GROWTH = 1.1, 2.0
"""Params that a finalist outside delta is given, relative to its own."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A candidate to evaluate.

    Attributes:
        parent: The trial whose tuned weights it starts from; None: the stored factors.
        rate: Peak learning rate, relative to the recipe's.
        own: Weight of the owner's loss; None: the one that the search has settled on.
    """

    plan: Plan
    role: Role
    parent: Trial | None
    epochs: float
    rate: float = 1.0
    own: float | None = None


class Proposer(Protocol):
    """What makes the proposals of every round: this module for a tolerance, `target` for a target."""

    def first(self, standing: Standing, settings: Settings) -> list[Proposal]:
        """The first round's, from the stored factors."""
        ...

    def kept(self, standing: Standing, settings: Settings) -> list[Proposal]:
        """Which of them go on."""
        ...

    def bracket(self, standing: Standing, settings: Settings) -> list[Proposal]:
        """What is tried from those."""
        ...

    def move(self, standing: Standing, settings: Settings) -> Proposal | None:
        """The next of the annealing; None when nothing new can be proposed."""
        ...

    def finalists(self, standing: Standing, settings: Settings) -> list[Proposal]:
        """What is tuned in full and judged."""
        ...


def first(standing: Standing, settings: Settings) -> list[Proposal]:
    """Plans of the multiplier path, log-spaced in the objective, from the stored factors."""
    space = standing.space
    points, board = path(space), Board.of_space(space)

    def within(plan: Plan, most: float = math.inf) -> Plan:
        return board.plan(moves.keep_limits(board, board.state(plan), most))

    start = space.amount(space.cost(within(points[0].plan)))
    mildest = min(space.amount(space.total) / settings.least_ratio, start)
    bearable = [point.amount for point in points if point.damage <= settings.most_damage]
    smallest = max(1, min(bearable, default=points[-1].amount))
    span = math.log(max(mildest / smallest, 1.0))
    count = settings.budgets
    edge = 0.5 if 1 < count <= FEW else 0.0
    targets = [mildest * math.exp(-span * (i + edge) / max(1.0, count - 1 + 2 * edge)) for i in range(count)]
    plans = dict.fromkeys(within(at_most(points, target).plan, target) for target in targets)
    return [Proposal(plan, "first", None, settings.first_epochs, COLD_RATE) for plan in plans]


def rival(proposals: Sequence[Proposal]) -> Proposal:
    """The middle one of a first round, tuned with the other weight of the owner's loss."""
    middle = proposals[len(proposals) // 2]
    return replace(middle, role="rival", own=OWN_RIVAL)


def settled(standing: Standing) -> float:
    """The weight of the owner's loss that served the rival's plan better; the first where there was no rival."""
    other = next((t for t in standing.trials if t.role == "rival"), None)
    if other is None:
        return OWN
    twins = [t for t in standing.trials if t.role == "first" and t.choices == other.choices]
    estimates = standing.estimates
    return OWN_RIVAL if not twins or estimates[other.index] < estimates[twins[0].index] else OWN


def crossing(standing: Standing) -> float | None:
    """Log of the ratio at which the candidates so far cross delta; infinite when none shows where, None outside it.

    Drops multiply with the ratio as damages do: between two sizes the log of the drop is interpolated. The drop itself
    would put the crossing next to the milder one of two sizes that lie far apart.
    """
    sizes = [_log_ratio(standing, t) for t in standing.trials]
    return isotonic.fit(sizes, [standing.log_drop(t) for t in standing.trials]).crossing(math.log(standing.delta))


def _log_ratio(standing: Standing, trial: Trial) -> float:
    return math.log(standing.space.amount(standing.space.total) / standing.amount(trial))


def first_step(standing: Standing, settings: Settings) -> float:
    """The annealing's first step: to where delta is expected to be crossed, or the effort's, up to twice that."""
    best = base_of(standing, settings)
    if best is None or math.isinf(standing.delta):
        return settings.step
    gap = (crossing(standing) or 0.0) - _log_ratio(standing, best)
    return min(max(gap, settings.step), 2 * settings.step)


def kept(standing: Standing, settings: Settings) -> list[Proposal]:
    """The candidates nearest to where more tuning may bring delta, tuned further; none that is far from there."""
    trials = standing.trials
    if not trials:
        return []
    ratio = {t.index: _log_ratio(standing, t) for t in trials}
    crossed = crossing(standing)
    aim = min(ratio.values()) if crossed is None else min(crossed + FAR, max(ratio.values()))
    near = sorted(trials, key=lambda t: (abs(ratio[t.index] - aim), t.index))[: settings.kept]
    chosen = [t for t in near if abs(ratio[t.index] - aim) <= APART]
    return [Proposal(Plan(t.choices), "keep", t, settings.kept_epochs) for t in sorted(chosen, key=lambda t: t.index)]


def bracket(standing: Standing, settings: Settings) -> list[Proposal]:
    """Sizes between the smallest candidate inside delta and the next one outside, from the former's weights.

    A candidate counts as inside when full tuning is expected to bring it there. Where the next one is far outside, they
    end where more tuning may still bring delta. Where none is inside, their middle is where full tuning is expected to
    be, if drops grow with the ratio as they have so far. A few of them leave the end out.
    """
    inside = base_of(standing, settings)
    parent = inside or standing.nearest
    if parent is None:
        return []
    total = standing.space.amount(standing.space.total)
    if inside:
        dear = standing.amount(inside)
        beyond = [amount for t in standing.trials if (amount := standing.amount(t)) < dear]
        crossed = crossing(standing)
        reach = 0.0 if crossed is None else total * math.exp(-crossed - 2 * FAR)
        cheap = max([*beyond, reach]) if beyond else dear / 2
    else:
        cheap = standing.amount(parent)
        growth = _growth(standing, standing.forecast(parent, settings.final_epochs))
        dear = int(min(total, cheap * growth**2))
    span = math.log(dear / max(1, min(cheap, dear)))
    parts = settings.bracket + (settings.bracket < FEW)
    proposals: list[Proposal] = []
    avoid = standing.known
    for i in range(settings.bracket):
        target = dear * math.exp(-span * (i + 1) / parts)
        rng = keyed(standing.state.request.seed, "bracket", i)
        plan = moves.anneal(
            standing.surrogate,
            Plan(parent.choices),
            int(target),
            moves=settings.surrogate_moves,
            rng=rng,
            avoid=avoid,
        )
        if plan is not None:
            avoid = avoid | {plan.key()}
            proposals.append(Proposal(plan, "bracket", tuned(parent), settings.bracket_epochs))
    return proposals


def tuned(parent: Trial) -> Trial | None:
    """What a child of another plan starts from: its parent's weights, where they are more than fitted factors."""
    return parent if parent.lineage_epochs else None


def base_of(standing: Standing, settings: Settings) -> Trial | None:
    """What the annealing shrinks: the smallest candidate inside delta, or that full tuning is expected to bring there.

    For a target it is the best one inside that.
    """
    if math.isinf(standing.delta):
        return standing.incumbent
    both = (standing.incumbent, _promising(standing, settings.final_epochs))
    return min((t for t in both if t), key=lambda t: (standing.amount(t), t.index), default=None)


def move(standing: Standing, settings: Settings) -> Proposal | None:
    """One annealing proposal: every third one gives a near miss more tuning, the others shrink the best.

    Returns:
        None when nothing new can be proposed.
    """
    state = standing.state
    good = base_of(standing, settings)
    base = good or standing.nearest
    if base is None:
        return None
    if settings.move_epochs and state.moves % 3 == 2:
        again = _near_miss(standing, base)
        if again is not None:
            return Proposal(Plan(again.choices), "polish", again, settings.move_epochs)
    direction = -1.0 if good else 1.0
    stride = state.step * STRIDES[state.moves % len(STRIDES)]
    target = int(standing.amount(base) * math.exp(direction * stride))
    plan = moves.anneal(
        standing.surrogate,
        Plan(base.choices),
        min(target, standing.space.amount(standing.space.total)),
        moves=settings.surrogate_moves,
        rng=keyed(state.request.seed, "move", state.moves),
        avoid=standing.known,
    )
    return None if plan is None else Proposal(plan, "move", tuned(base), settings.move_epochs)


def _near_miss(standing: Standing, base: Trial) -> Trial | None:
    """The most promising candidate that is smaller than the best, just outside delta, and not tuned again yet."""
    delta = standing.delta
    parents = {t.parent for t in standing.state.trials if t.role in ("polish", "keep", "final", "squeeze", "ease")}
    parents |= {p.parent for p in standing.state.pending}
    misses = [
        t
        for t in standing.trials
        if t.weights is not None
        and t.index not in parents
        and (standing.amount(t) < standing.amount(base) or standing.incumbent is None)
        and standing.space.goal.kept(t.cost)
        and delta < max(standing.estimates[t.index], t.drop or 0.0) <= NEAR * delta
    ]
    return min(misses, key=lambda t: (standing.estimates[t.index], standing.amount(t), t.index), default=None)


def _promising(standing: Standing, epochs: float) -> Trial | None:
    """The smallest candidate that so much tuning is expected to bring well inside delta, or to leave there."""
    hopeful = (
        t
        for t in standing.trials
        if t.weights is not None
        and standing.space.goal.kept(t.cost)
        and standing.forecast(t, epochs) <= SURE * standing.delta
    )
    return min(hopeful, key=lambda t: (standing.amount(t), standing.estimates[t.index], t.index), default=None)


def squeeze(standing: Standing, settings: Settings, finals: Sequence[Trial], epochs: float) -> Proposal | None:
    """A candidate smaller than the smallest finalist inside delta, where tuning leaves that one far inside.

    It is as small as drops allow that grow with the ratio as they have so far, and fall with tuning, at most by the
    effort's step; that halves each time one fell outside.

    Args:
        epochs: Of the tuning.

    Returns:
        None when a finalist is near enough to delta, none is inside, or nothing new is to be had.
    """
    delta, tried = standing.delta, [t for t in standing.state.trials if t.role == "squeeze"]
    base = min(
        (t for t in finals if standing.inside(t, delta)), key=lambda t: (standing.amount(t), t.index), default=None
    )
    if base is None or len(tried) >= settings.squeezes:
        return None
    seen = max(FAINT, standing.estimates[base.index] / delta, (base.drop or 0.0) / delta)
    expected = seen * standing.fall(base, epochs)
    if expected >= FULL:
        return None
    outside = sum(t.drop is None or not standing.inside(t, delta) for t in tried)
    step = min(settings.step, math.log(SURE / expected) / standing.steepness) * 0.5**outside
    target = int(standing.amount(base) * math.exp(-step))
    plan = moves.anneal(
        standing.surrogate,
        Plan(base.choices),
        target,
        moves=settings.surrogate_moves,
        rng=keyed(standing.state.request.seed, "squeeze", len(tried)),
        avoid=standing.known,
    )
    return None if plan is None else Proposal(plan, "squeeze", base, epochs)


def ease(standing: Standing, settings: Settings, finals: Sequence[Trial], epochs: float) -> Proposal | None:
    """What may bring a finalist inside delta where full tuning has left all of them outside.

    The nearest one is tuned on, if that is expected to do; else its tuned function gets more capacity, in proportion
    to what is missing.

    Args:
        epochs: Of the tuning.

    Returns:
        None when a finalist is inside, enough was tried, or nothing new is to be had.
    """
    delta, tried = standing.delta, [t for t in standing.state.trials if t.role == "ease"]
    if not finals or len(tried) >= settings.easings or any(standing.inside(t, delta) for t in finals):
        return None
    base = min(finals, key=lambda t: (max(standing.estimates[t.index], t.drop or 0.0), t.index))
    expected = standing.forecast(base, epochs)
    if expected <= SURE * delta:
        return Proposal(Plan(base.choices), "ease", base, epochs)
    target = standing.amount(base) * min(_growth(standing, expected), MOST_GROWTH)
    least = standing.amount(standing.incumbent) if standing.incumbent else standing.space.amount(standing.space.total)
    if target >= least:  # what is between is worth a try, where there is room
        target = math.sqrt(standing.amount(base) * least)
        if target < LEAST_GROWTH * standing.amount(base):
            return None
    plan = moves.anneal(
        standing.surrogate,
        Plan(base.choices),
        int(target),
        moves=settings.surrogate_moves,
        rng=keyed(standing.state.request.seed, "ease", len(tried)),
        avoid=standing.known,
    )
    return None if plan is None else Proposal(plan, "ease", base, epochs)


def _growth(standing: Standing, expected: float) -> float:
    """Params that a candidate with such a drop needs to be well inside delta, relative to its own."""
    return max(math.pow(expected / (SURE * standing.delta), 1 / standing.steepness), LEAST_GROWTH)


def finalists(standing: Standing, settings: Settings) -> list[Proposal]:
    """Candidates to tune in full: the smallest that this is expected to bring inside delta, and larger ones of it.

    The best of many candidates looks better on the search half than it is. A little larger ones keep its tuned function
    and add capacity. Much larger ones are tuned from their own factors: what the best one's function has lost where
    the search half does not see it would be theirs too. Where nothing is inside delta, the same is done from the
    nearest candidate.
    """
    base = base_of(standing, settings) or standing.nearest
    if base is None:
        return []
    chosen: list[Proposal] = []
    avoid: set[str] = set()
    for i, growth in enumerate(settings.growths):
        target = int(standing.amount(base) * growth)
        plan: Plan | None = Plan(base.choices)
        if growth > 1.0:
            rng = keyed(standing.state.request.seed, "final", i)
            plan = moves.anneal(
                standing.surrogate, Plan(base.choices), target, moves=settings.surrogate_moves, rng=rng, avoid=avoid
            )
        if plan is not None and target < standing.space.amount(standing.space.total):
            avoid.add(plan.key())
            parent = base if growth <= FRESH else None
            chosen.append(Proposal(plan, "final", parent, settings.final_epochs))
    return chosen or [Proposal(Plan(base.choices), "final", base, settings.final_epochs)]
