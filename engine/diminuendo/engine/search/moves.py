"""Moves on the surrogate: simulated annealing over plans, thousands of moves for each plan that is evaluated."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from diminuendo.engine.plan import DENSE, Plan
from diminuendo.engine.search.space import Space
from diminuendo.engine.search.surrogate import FLOOR, Surrogate

OVERWEIGHT = 50.0
"""Energy for each unit of log params over the target."""

FLIP = 0.03
"""Energy for each layer whose format is not the parent's: its tuned weights are lost."""

HOT, COLD = 0.3, 0.01
"""First and last temperature, in log damage; cooled geometrically."""

REACH = 3
"""Most rungs that one move climbs."""

KEPT = 32
"""Best states remembered."""


@dataclass(frozen=True)
class Board:
    """The space as arrays of one entry for each option, for moves in constant time."""

    space: Space
    params: list[list[int]]
    damage: list[list[float]]
    formats: list[list[str]]
    ladders: list[dict[str, list[int]]]

    @classmethod
    def of(cls, surrogate: Surrogate) -> Board:
        """The board of a surrogate's space under its weights."""
        params, damage, formats, ladders = [], [], [], []
        for layer in surrogate.space.layers:
            weight = surrogate.weights[layer.spec.name]
            params.append([o.cost.params for o in layer.options])
            damage.append([o.damage * weight for o in layer.options])
            formats.append([o.choice.format for o in layer.options])
            place = {o.choice: i for i, o in enumerate(layer.options)}
            ladders.append({name: [place[o.choice] for o in rungs] for name, rungs in layer.ladders.items()})
        return cls(surrogate.space, params, damage, formats, ladders)

    def state(self, plan: Plan) -> list[int]:
        """Option indices of a plan."""
        return [
            next(i for i, o in enumerate(layer.options) if o.choice == plan[layer.spec.name])
            for layer in self.space.layers
        ]

    def plan(self, state: Collection[int]) -> Plan:
        """The plan of option indices."""
        return Plan(
            tuple((layer.spec.name, layer.options[i].choice) for layer, i in zip(self.space.layers, state, strict=True))
        )

    def ladder(self, layer: int, option: int) -> list[int]:
        """The rungs on which an option stands: its format's, or any one's for the dense option."""
        ladders = self.ladders[layer]
        name = self.formats[layer][option]
        return ladders[name] if name in ladders else next(iter(ladders.values()), [0])


def shrink(board: Board, state: list[int], max_params: int) -> list[int]:
    """Walk the layers down, each time where a param saved costs least damage, until the params fit."""
    state = list(state)
    total = board.space.fixed.params + sum(board.params[i][option] for i, option in enumerate(state))
    while total > max_params:
        best = _cheapest_saving(board, state, keep_format=True) or _cheapest_saving(board, state, keep_format=False)
        if best is None:
            break
        layer, lower = best
        total -= board.params[layer][state[layer]] - board.params[layer][lower]
        state[layer] = lower
    return state


def _cheapest_saving(board: Board, state: list[int], *, keep_format: bool) -> tuple[int, int] | None:
    """The (layer, option) that pays least damage for each param saved; None when nothing gets smaller."""
    best: tuple[float, int, int] | None = None
    for layer, option in enumerate(state):
        for lower in _forms(board, layer, option) if keep_format else range(len(board.params[layer])):
            saved = board.params[layer][option] - board.params[layer][lower]
            if saved > 0:
                price = (board.damage[layer][lower] - board.damage[layer][option]) / saved
                best = min(best, (price, layer, lower)) if best else (price, layer, lower)
    return best[1:] if best else None


def _forms(board: Board, layer: int, option: int) -> list[int]:
    """Where a layer may go without losing its format; a dense layer may take any."""
    if board.formats[layer][option] == DENSE.format:
        return list(range(1, len(board.params[layer])))
    return board.ladder(layer, option)


def anneal(
    surrogate: Surrogate,
    parent: Plan,
    max_params: int,
    *,
    moves: int,
    rng: np.random.Generator,
    avoid: Collection[str],
) -> Plan | None:
    """The least damaged plan with about `max_params` that simulated annealing finds near a parent.

    Args:
        surrogate: Damage of a plan.
        parent: The plan whose tuned weights will be the start.
        max_params: Target size of the whole network.
        moves: Moves tried.
        rng: Source of every random choice.
        avoid: Keys of plans that are not wanted again.

    Returns:
        None when every plan it met is to be avoided.
    """
    board = Board.of(surrogate)
    home = board.state(parent)
    state = shrink(board, home, max_params)
    fixed = board.space.fixed.params
    params = fixed + sum(board.params[i][option] for i, option in enumerate(state))
    damage = sum(board.damage[i][option] for i, option in enumerate(state))
    flips = sum(_flipped(board, home, i, option) for i, option in enumerate(state))

    def energy(params: int, damage: float, flips: int) -> float:
        over = max(0.0, math.log(params / max_params))
        return math.log(max(FLOOR, damage)) + OVERWEIGHT * over + FLIP * flips

    current = energy(params, damage, flips)
    met: dict[tuple[int, ...], float] = {tuple(state): current}
    uniform = rng.random((moves, 4)).tolist()
    for turn, (which, kind, size, luck) in enumerate(uniform):
        temperature = HOT * (COLD / HOT) ** (turn / max(1, moves - 1))
        changes = _move(board, state, which, kind, size)
        new_params, new_damage, new_flips = params, damage, flips
        for layer, option in changes:
            old = state[layer]
            new_params += board.params[layer][option] - board.params[layer][old]
            new_damage += board.damage[layer][option] - board.damage[layer][old]
            new_flips += _flipped(board, home, layer, option) - _flipped(board, home, layer, old)
        proposed = energy(new_params, new_damage, new_flips)
        if changes and luck < math.exp(min(0.0, (current - proposed) / temperature)):
            for layer, option in changes:
                state[layer] = option
            params, damage, flips, current = new_params, new_damage, new_flips, proposed
            met[tuple(state)] = current
            if len(met) > 4 * KEPT:
                met = dict(sorted(met.items(), key=lambda item: (item[1], item[0]))[:KEPT])
    for indices, _ in sorted(met.items(), key=lambda item: (item[1], item[0])):
        plan = board.plan(indices)
        if plan.key() not in avoid:
            return plan
    return None


def _flipped(board: Board, home: list[int], layer: int, option: int) -> bool:
    return board.formats[layer][option] != board.formats[layer][home[layer]]


def _move(board: Board, state: list[int], which: float, kind: float, size: float) -> list[tuple[int, int]]:
    """Changes of one move: shift a rung, exchange rank between two layers, or flip a format."""
    count = len(state)
    layer = int(which * count)
    option = state[layer]
    if kind < 0.2:
        others = [i for i, name in enumerate(board.formats[layer]) if name != board.formats[layer][option]]
        if not others:
            return []
        params = board.params[layer]
        near = sorted(others, key=lambda i: (abs(math.log(params[i] / params[option])), i))[:REACH]
        return [(layer, near[int(size * len(near))])]
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
    freed = board.params[layer][option] - board.params[layer][down]
    room = board.params[other][state[other]] + freed
    rungs = [i for i in board.ladder(other, state[other]) if board.params[other][i] <= room]
    taken = max(rungs, key=lambda i: (board.params[other][i], -i), default=state[other])
    return [(layer, down), (other, taken)] if taken != state[other] else [(layer, down)]


def _climb(board: Board, layer: int, option: int, step: int) -> int:
    rungs = board.ladder(layer, option)
    place = rungs.index(option) if option in rungs else len(rungs) - 1
    return rungs[min(len(rungs) - 1, max(0, place + step))]
