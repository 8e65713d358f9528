"""Moves on the surrogate: simulated annealing over plans, thousands of moves for each plan that is evaluated."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from diminuendo.engine.plan import DENSE, Plan
from diminuendo.engine.search import reconcile
from diminuendo.engine.search.objective import ObjectiveName
from diminuendo.engine.search.objective import amount as amount_of
from diminuendo.engine.search.reconcile import Use
from diminuendo.engine.search.space import Space
from diminuendo.engine.search.surrogate import FLOOR, Surrogate

OVERWEIGHT = 50.0
"""Energy for each unit of log over the target, and over each limit."""

FLIP = 0.03
"""Energy for each layer whose format is not the parent's: its tuned weights are lost."""

HOT, COLD = 0.3, 0.01
"""First and last temperature, in log damage; cooled geometrically."""

REACH = 3
"""Most rungs that one move climbs."""

KEPT = 32
"""Best states remembered."""

RECONCILED = 16
"""States that are tried where limits are hard to keep together."""

TINY = 1e-12
"""Change of a logarithm that is none."""


@dataclass(frozen=True)
class Bound:
    """A limit on one figure of the network.

    Attributes:
        most: The largest sum that is legal.
        fixed: What layers that are not in the space take of it.
        amounts: Of each layer's options.
    """

    most: float
    fixed: int
    amounts: list[list[int]]

    def total(self, state: Sequence[int]) -> int:
        """The figure of a network."""
        return self.fixed + sum(self.amounts[i][option] for i, option in enumerate(state))

    def over(self, total: float) -> float:
        """By how much a figure is over the limit, in logs; 0 when it is not."""
        return math.log(total / self.most) if total > self.most else 0.0


@dataclass(frozen=True)
class Board:
    """The space as arrays of one entry for each option, for moves in constant time.

    Attributes:
        amounts: The objective's figure of each layer's options.
        fixed: Of everything else.
        bounds: The limits.
    """

    space: Space
    amounts: list[list[int]]
    damage: list[list[float]]
    formats: list[list[str]]
    ladders: list[dict[str, list[int]]]
    fixed: int
    bounds: tuple[Bound, ...]
    _near: dict[tuple[int, int], list[int]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _heights: dict[tuple[int, int], tuple[list[int], list[int]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of(cls, surrogate: Surrogate) -> Board:
        """The board of a surrogate's space under its weights."""
        return cls.of_space(surrogate.space, surrogate.weights)

    @classmethod
    def of_space(cls, space: Space, weights: Mapping[str, float] | None = None) -> Board:
        """The board of a space; weights of the layers' damages are 1 when absent."""
        damage, formats, ladders = [], [], []
        for layer in space.layers:
            weight = weights[layer.spec.name] if weights else 1.0
            damage.append([o.damage * weight for o in layer.options])
            formats.append([o.choice.format for o in layer.options])
            place = {o.choice: i for i, o in enumerate(layer.options)}
            ladders.append({name: [place[o.choice] for o in rungs] for name, rungs in layer.ladders.items()})
        bounds = tuple(
            Bound(most, amount_of(space.fixed, name), _amounts(space, name)) for name, most in space.goal.bounds
        )
        amounts = _amounts(space, space.goal.objective)
        fixed = amount_of(space.fixed, space.goal.objective)
        return cls(space, amounts, damage, formats, ladders, fixed, bounds)

    @property
    def uses(self) -> list[Use]:
        """The limits and what the options use of them."""
        return [Use(bound.most, bound.fixed, bound.amounts) for bound in self.bounds]

    def state(self, plan: Plan) -> list[int]:
        """Option indices of a plan."""
        return [
            next(i for i, o in enumerate(layer.options) if o.choice == plan[layer.spec.name])
            for layer in self.space.layers
        ]

    def plan(self, state: Collection[int]) -> Plan:
        """The plan of option indices, tidied."""
        layers = zip(self.space.layers, state, strict=True)
        return self.space.tidied(Plan(tuple((layer.spec.name, layer.options[i].choice) for layer, i in layers)))

    def ladder(self, layer: int, option: int) -> list[int]:
        """The rungs on which an option stands: its format's, or the longest one for the dense option."""
        ladders = self.ladders[layer]
        name = self.formats[layer][option]
        return ladders[name] if name in ladders else max(ladders.values(), key=len, default=[0])

    def near(self, layer: int, option: int) -> list[int]:
        """Options of other formats, those whose amount is nearest, nearest first; at most `REACH`."""
        found = self._near.get((layer, option))
        if found is None:
            formats, amounts = self.formats[layer], self.amounts[layer]
            others = [i for i, name in enumerate(formats) if name != formats[option]]
            own = max(1, amounts[option])
            found = sorted(others, key=lambda i: (abs(math.log(max(1, amounts[i]) / own)), i))[:REACH]
            self._near[layer, option] = found
        return found

    def largest(self, layer: int, option: int, most: int) -> int:
        """The largest rung of an option's ladder with at most this amount; the option itself where there is none."""
        found = self._heights.get((layer, option))
        if found is None:
            amounts = self.amounts[layer]
            rungs = sorted(self.ladder(layer, option), key=lambda i: (amounts[i], -i))
            found = self._heights[layer, option] = ([amounts[i] for i in rungs], rungs)
        heights, rungs = found
        place = bisect_right(heights, most)
        return rungs[place - 1] if place else option


def _amounts(space: Space, name: ObjectiveName) -> list[list[int]]:
    return [[amount_of(o.cost, name) for o in layer.options] for layer in space.layers]


def shrink(board: Board, state: list[int], most: int) -> list[int]:
    """Walk the layers down, each time where a unit saved costs least damage, until the objective fits."""
    state = list(state)
    total = board.fixed + sum(board.amounts[i][option] for i, option in enumerate(state))
    while total > most:
        best = _cheapest_saving(board, state, keep_format=True) or _cheapest_saving(board, state, keep_format=False)
        if best is None:
            break
        layer, lower = best
        total -= board.amounts[layer][state[layer]] - board.amounts[layer][lower]
        state[layer] = lower
    return state


def _cheapest_saving(board: Board, state: list[int], *, keep_format: bool) -> tuple[int, int] | None:
    """The (layer, option) that pays least damage for each unit saved; None when nothing gets smaller."""
    best: tuple[float, int, int] | None = None
    for layer, option in enumerate(state):
        for lower in _forms(board, layer, option) if keep_format else range(len(board.amounts[layer])):
            saved = board.amounts[layer][option] - board.amounts[layer][lower]
            if saved > 0:
                price = (board.damage[layer][lower] - board.damage[layer][option]) / saved
                best = min(best, (price, layer, lower)) if best else (price, layer, lower)
    return best[1:] if best else None


def keep_limits(board: Board, state: list[int], most: float = math.inf) -> list[int]:
    """Change layers until all limits are kept, each time where what is gained costs least damage.

    Args:
        board: With its limits.
        state: Where to start.
        most: Of the objective: kept too as long as the limits allow.

    Returns:
        The state itself where nothing is broken. A state that still breaks limits where none was found that keeps
        them.
    """
    if not board.bounds:
        return state
    target = Bound(most, board.fixed, board.amounts)
    for bounds in ((*board.bounds, target), board.bounds):
        state = _repaired(board, state, bounds)
    if not _kept(board, state):  # one limit at a time leads nowhere
        others = (_repaired(board, other, board.bounds) for other in reconcile.nearest(board.uses, RECONCILED))
        return next((other for other in others if _kept(board, other)), state)
    return state


def _kept(board: Board, state: Sequence[int]) -> bool:
    return all(bound.total(state) <= bound.most for bound in board.bounds)


def _repaired(board: Board, state: list[int], bounds: Sequence[Bound]) -> list[int]:
    state = list(state)
    totals = [bound.total(state) for bound in bounds]
    while any(total > bound.most for bound, total in zip(bounds, totals, strict=True)):
        best = _cheapest_repair(board, state, bounds, totals, keep_format=True) or _cheapest_repair(
            board, state, bounds, totals, keep_format=False
        )
        if best is None:
            break
        layer, option = best
        for i, bound in enumerate(bounds):
            totals[i] += bound.amounts[layer][option] - bound.amounts[layer][state[layer]]
        state[layer] = option
    return state


def _cheapest_repair(
    board: Board, state: list[int], bounds: Sequence[Bound], totals: Sequence[int], *, keep_format: bool
) -> tuple[int, int] | None:
    """The (layer, option) that pays least damage for what it takes off the broken limits; None when none does."""
    before = sum(bound.over(total) for bound, total in zip(bounds, totals, strict=True))
    best: tuple[float, int, int] | None = None
    for layer, option in enumerate(state):
        for other in _forms(board, layer, option) if keep_format else range(len(board.damage[layer])):
            after = sum(
                bound.over(total + bound.amounts[layer][other] - bound.amounts[layer][option])
                for bound, total in zip(bounds, totals, strict=True)
            )
            if before - after > TINY:
                price = (board.damage[layer][other] - board.damage[layer][option]) / (before - after)
                best = min(best, (price, layer, other)) if best else (price, layer, other)
    return best[1:] if best else None


def _forms(board: Board, layer: int, option: int) -> list[int]:
    """Where a layer may go without losing its format; a dense layer may take any."""
    if board.formats[layer][option] == DENSE.format:
        return list(range(1, len(board.amounts[layer])))
    return board.ladder(layer, option)


def anneal(
    surrogate: Surrogate,
    parent: Plan,
    most: int,
    *,
    moves: int,
    rng: np.random.Generator,
    avoid: Collection[str],
) -> Plan | None:
    """The least damaged plan with about `most` of the objective that simulated annealing finds near a parent.

    Limits are kept, unless no plan that keeps them was found to start from.

    Args:
        surrogate: Damage of a plan.
        parent: The plan whose tuned weights will be the start.
        most: Target of the objective, of the whole network.
        moves: Moves tried.
        rng: Source of every random choice.
        avoid: Keys of plans that are not wanted again.

    Returns:
        None when every plan it met is to be avoided.
    """
    board = Board.of(surrogate)
    home = board.state(parent)
    most = max(1, most)
    state = keep_limits(board, shrink(board, home, most), most)
    amounts, damages, bounds = board.amounts, board.damage, board.bounds
    amount = board.fixed + sum(amounts[i][option] for i, option in enumerate(state))
    damage = sum(damages[i][option] for i, option in enumerate(state))
    flipped = [[name != formats[home[i]] for name in formats] for i, formats in enumerate(board.formats)]
    flips = sum(flipped[i][option] for i, option in enumerate(state))
    used = [bound.total(state) for bound in bounds]
    strict = all(bound.over(total) == 0 for bound, total in zip(bounds, used, strict=True))

    def energy(amount: int, damage: float, flips: int, used: list[int]) -> float:
        over = math.log(amount / most) if amount > most else 0.0
        for bound, total in zip(bounds, used, strict=True):
            over += bound.over(total)
        return math.log(max(FLOOR, damage)) + OVERWEIGHT * over + FLIP * flips

    current = energy(amount, damage, flips, used)
    met: dict[tuple[int, ...], float] = {tuple(state): current}
    uniform = rng.random((moves, 4)).tolist()
    for turn, (which, kind, size, luck) in enumerate(uniform):
        changes = _move(board, state, which, kind, size)
        if not changes:
            continue
        new_amount, new_damage, new_flips, new_used = amount, damage, flips, used
        for layer, option in changes:
            old = state[layer]
            new_amount += amounts[layer][option] - amounts[layer][old]
            new_damage += damages[layer][option] - damages[layer][old]
            new_flips += flipped[layer][option] - flipped[layer][old]
            if bounds:
                new_used = [
                    total + bound.amounts[layer][option] - bound.amounts[layer][old]
                    for bound, total in zip(bounds, new_used, strict=True)
                ]
        proposed = energy(new_amount, new_damage, new_flips, new_used)
        if proposed > current:
            temperature = HOT * (COLD / HOT) ** (turn / max(1, moves - 1))
            if luck >= math.exp((current - proposed) / temperature):
                continue
        for layer, option in changes:
            state[layer] = option
        amount, damage, flips, used, current = new_amount, new_damage, new_flips, new_used, proposed
        if strict and any(total > bound.most for bound, total in zip(bounds, used, strict=True)):
            continue
        met[tuple(state)] = current
        if len(met) > 4 * KEPT:
            met = dict(sorted(met.items(), key=lambda item: (item[1], item[0]))[:KEPT])
    for indices, _ in sorted(met.items(), key=lambda item: (item[1], item[0])):
        plan = board.plan(indices)
        if plan.key() not in avoid:
            return plan
    return None


def _move(board: Board, state: list[int], which: float, kind: float, size: float) -> list[tuple[int, int]]:
    """Changes of one move: shift a rung, exchange rank between two layers, or flip a format."""
    count = len(state)
    layer = int(which * count)
    option = state[layer]
    if kind < 0.2:
        near = board.near(layer, option)
        return [(layer, near[int(size * len(near))])] if near else []
    step = 1 + int(size * REACH)
    down = _climb(board, layer, option, -step if kind < 0.8 else step)
    if down == option:
        return []
    if kind > 0.6:
        return [(layer, down)]
    # Exchange: what this layer gives up, another one takes.
    other = (layer + 1 + int(size * 7919 * count) % max(1, count - 1)) % count
    if other == layer:
        return [(layer, down)]
    freed = board.amounts[layer][option] - board.amounts[layer][down]
    taken = board.largest(other, state[other], board.amounts[other][state[other]] + freed)
    return [(layer, down), (other, taken)] if taken != state[other] else [(layer, down)]


def _climb(board: Board, layer: int, option: int, step: int) -> int:
    rungs = board.ladder(layer, option)
    place = rungs.index(option) if option in rungs else len(rungs) - 1
    return rungs[min(len(rungs) - 1, max(0, place + step))]
