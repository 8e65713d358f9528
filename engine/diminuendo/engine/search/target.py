"""What to try next where a figure is given in place of delta: plans within the target, of which the best is wanted.

Every plan here has about the same figure, so that what differs is where the rank is spent: in which layers and in
which formats. The surrogate ranks plans by damage; what it cannot know is explored: how well a format is tuned, how
much a layer's damage counts, and whether a larger plan that was tuned first is a better start.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from diminuendo.engine.plan import DENSE, Plan
from diminuendo.engine.search import moves
from diminuendo.engine.search.moves import TINY, Board
from diminuendo.engine.search.path import at_most, path
from diminuendo.engine.search.propose import COLD_RATE, Proposal, tuned
from diminuendo.engine.search.rng import keyed
from diminuendo.engine.search.settings import Settings
from diminuendo.engine.search.space import LayerOptions, Space
from diminuendo.engine.search.standing import Standing
from diminuendo.engine.search.state import Trial
from diminuendo.engine.search.surrogate import Surrogate

BEARABLE = 2.0
"""A plan of one format is worth a try up to this multiple of the least damage there is."""

PATIENCE = 4
"""So many plans are made for each that is wanted; some come out alike."""

STONES_SHARE = 3
"""One in so many plans of the first round is larger than the target: what is compressed in steps starts from it."""

TEMPERS = (2.0, 0.5)
"""Exponents on the damage: above 1 it is spread over all layers, below 1 gathered in few."""

SPREADS = (1.0, 4.0)
"""Standard deviations of the log of a layer's weight, where weights are sampled in turn, for each unit of the step."""


def first(standing: Standing, settings: Settings) -> list[Proposal]:
    """Plans within the target that differ in what is trusted, the best by damage first, and larger ones."""
    stones = _stones(standing.space, settings.budgets // STONES_SHARE, settings.least_ratio)
    count = settings.budgets - len(stones)
    plans = list(dict.fromkeys(_within(standing, SPREADS[-1] * settings.step, PATIENCE * count)))[:count]
    return [Proposal(plan, "first", None, settings.first_epochs, COLD_RATE) for plan in (*plans, *stones)]


def kept(standing: Standing, settings: Settings) -> list[Proposal]:
    """The best within the target, tuned further, and one larger candidate in so many."""
    count = settings.kept // STONES_SHARE
    larger = sorted(_larger(standing), key=lambda t: (standing.amount(t), t.index))[:count]
    near = [*standing.inside_all[: max(0, settings.kept - len(larger))], *larger]
    return [Proposal(Plan(t.choices), "keep", t, settings.kept_epochs) for t in sorted(near, key=lambda t: t.index)]


def bracket(standing: Standing, settings: Settings) -> list[Proposal]:
    """Plans within the target from tuned weights: in turn from a larger candidate's and from the best one's."""
    larger = sorted(_larger(standing), key=lambda t: (-t.lineage_epochs, standing.amount(t), t.index))
    best = standing.incumbent or standing.nearest
    parents = [parent for parent in (next(iter(larger), None), best) if parent is not None]
    proposals: list[Proposal] = []
    avoid = standing.known
    for i in range(settings.bracket if parents else 0):
        parent = parents[i % len(parents)]
        spread = SPREADS[i // len(parents) % len(SPREADS)] * settings.step
        plan = _near(standing, parent, settings, spread, ("bracket", i), avoid)
        if plan is not None:
            avoid = avoid | {plan.key()}
            proposals.append(Proposal(plan, "bracket", tuned(parent), settings.bracket_epochs))
    return proposals


def move(standing: Standing, settings: Settings) -> Proposal | None:
    """One annealing proposal: every third one gives the best untried candidate more tuning, the others exchange rank.

    Returns:
        None when nothing new can be proposed.
    """
    state = standing.state
    base = standing.incumbent or standing.nearest
    if base is None:
        return None
    if settings.move_epochs and state.moves % 3 == 2:
        again = _again(standing)
        if again is not None:
            return Proposal(Plan(again.choices), "polish", again, settings.move_epochs)
    spread = SPREADS[state.moves % 3 % len(SPREADS)] * state.step
    plan = _near(standing, base, settings, spread, ("move", state.moves), standing.known)
    return None if plan is None else Proposal(plan, "move", tuned(base), settings.move_epochs)


def finalists(standing: Standing, settings: Settings) -> list[Proposal]:
    """The best candidates within the target, each plan once, to tune in full; else what is made of the nearest."""
    count = len(settings.growths)
    chosen: dict[str, Trial] = {}
    for trial in standing.inside_all:
        chosen.setdefault(Plan(trial.choices).key(), trial)
    if chosen:
        best = list(chosen.values())[:count]
        return [Proposal(Plan(t.choices), "final", t, settings.final_epochs) for t in best]
    base = standing.nearest
    if base is None:
        return []
    plan = _near(standing, base, settings, 0.0, ("final", 0), set())
    return [Proposal(plan or Plan(base.choices), "final", base, settings.final_epochs)]


def _larger(standing: Standing) -> list[Trial]:
    """Candidates beyond the target whose weights can be started from."""
    most = standing.space.goal.most
    return [t for t in standing.trials if t.weights is not None and standing.amount(t) > most]


def _again(standing: Standing) -> Trial | None:
    """The best candidate within the target that was not tuned again yet."""
    parents = {t.parent for t in standing.state.trials if t.role in ("polish", "keep")}
    parents |= {p.parent for p in standing.state.pending}
    return next((t for t in standing.inside_all if t.weights is not None and t.index not in parents), None)


def _near(
    standing: Standing, parent: Trial, settings: Settings, spread: float, label: tuple[str, int], avoid: set[str]
) -> Plan | None:
    """The least damaged plan within the target near a parent, under weights sampled about the learned ones.

    Sampling them is how the search doubts its surrogate (Thompson 1933): what a sample is right about, a candidate
    shows, and the next fit knows.
    """
    rng = keyed(standing.state.request.seed, *label)
    surrogate, space = standing.surrogate, bounded(standing.space)
    noise = rng.normal(0.0, spread, len(surrogate.weights)).tolist()
    weights = {name: w * math.exp(z) for (name, w), z in zip(surrogate.weights.items(), noise, strict=True)}
    sampled = Surrogate(space, weights, surrogate.drop_by_damage, surrogate.drop_by_divergence)
    most = int(min(space.goal.most, space.amount(space.total)))
    return moves.anneal(sampled, Plan(parent.choices), most, moves=settings.surrogate_moves, rng=rng, avoid=avoid)


def bounded(space: Space) -> Space:
    """The space in which the target is a limit like any other, so that it is kept and not only aimed at."""
    goal = space.goal
    if goal.target is None:
        return space
    return replace(space, goal=replace(goal, limits=(*goal.limits, (goal.objective, goal.target))))


def _within(standing: Standing, spread: float, more: int) -> Iterator[Plan]:
    """Plans within the target: by damage; by one format where there is a choice, and by other powers of the damage.

    After those as many more by weights sampled about 1.
    """
    space = standing.space
    best = least_damaged(space)
    if best is None:
        return
    yield best
    formats = {o.choice.format for layer in space.layers for o in layer.options} - {DENSE.format}
    single = [least_damaged(space, _only(space, name)) for name in sorted(formats)]
    bearable = BEARABLE * space.damage(best)
    worth = [plan for plan in single if plan is not None and space.damage(plan) <= bearable]
    worth.sort(key=space.damage)
    tempered = [least_damaged(space, _tempered(space, power)) for power in TEMPERS]
    for plan in (plan for pair in itertools.zip_longest(worth, tempered) for plan in pair):
        if plan is not None:
            yield plan
    for i in range(more):
        noise = keyed(standing.state.request.seed, "first", i).normal(0.0, spread, len(space.layers)).tolist()
        weights = {layer.spec.name: math.exp(z) for layer, z in zip(space.layers, noise, strict=True)}
        sampled = least_damaged(space, weights=weights)
        if sampled is not None:
            yield sampled


def least_damaged(space: Space, narrow: Space | None = None, weights: Mapping[str, float] | None = None) -> Plan | None:
    """The least damaged plan that is found within limits and target, in a narrower space where one is given.

    Returns:
        None when none was found.
    """
    board, points = Board.of_space(bounded(narrow or space), weights), path(narrow or space, weights)
    for start in (at_most(points, space.goal.most), points[0]):
        state = moves.keep_limits(board, board.state(start.plan))
        if space.goal.kept(space.cost(board.plan(state))):
            return board.plan(state if space.goal.target is None else _filled(board, state))
    return None


def _filled(board: Board, state: list[int]) -> list[int]:
    """Spend what is left of the target, the last bound, each time where a unit of it takes off the most damage."""
    state = list(state)
    left = [bound.most - bound.total(state) for bound in board.bounds]
    while True:
        best: tuple[float, int, int] | None = None
        for layer, option in enumerate(state):
            for other, damage in enumerate(board.damage[layer]):
                gain = board.damage[layer][option] - damage
                taken = [bound.amounts[layer][other] - bound.amounts[layer][option] for bound in board.bounds]
                if gain > TINY and all(more <= room for more, room in zip(taken, left, strict=True)):
                    best = max(best or (0.0, 0, 0), (gain / max(TINY, taken[-1]), layer, other))
        if best is None:
            return state
        _, layer, other = best
        left = [
            room - bound.amounts[layer][other] + bound.amounts[layer][state[layer]]
            for bound, room in zip(board.bounds, left, strict=True)
        ]
        state[layer] = other


def _only(space: Space, name: str) -> Space:
    """The space in which layers that can take a format have no other."""

    def only(layer: LayerOptions) -> LayerOptions:
        kept = tuple(o for o in layer.options if o.choice.format in (name, DENSE.format))
        return replace(layer, options=kept) if len(kept) > 1 else layer

    return replace(space, layers=tuple(map(only, space.layers)))


def _tempered(space: Space, power: float) -> Space:
    """The space with every damage to a power."""

    def tempered(layer: LayerOptions) -> LayerOptions:
        return replace(layer, options=tuple(replace(o, damage=max(0.0, o.damage) ** power) for o in layer.options))

    return replace(space, layers=tuple(map(tempered, space.layers)))


def _stones(space: Space, count: int, least_ratio: float) -> list[Plan]:
    """Plans between the mildest compression that is tried and the target, log-spaced; none where that is mild."""
    mildest, most = space.amount(space.total) / least_ratio, space.goal.most
    points, board = path(space), Board.of_space(space)
    sizes = [most * math.exp(math.log(mildest / most) * (i + 1) / (count + 1)) for i in range(count)]
    plans = [board.plan(moves.keep_limits(board, board.state(at_most(points, size).plan), size)) for size in sizes]
    return [plan for plan in dict.fromkeys(plans) if space.amount(space.cost(plan)) > most]
