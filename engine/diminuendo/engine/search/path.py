"""The multiplier path: for every price of the objective the plan of least cost + lambda * damage, layer by layer.

The objective is a sum over layers, so that each layer's best option at a multiplier is a vertex of the lower
convex hull of its (cost, damage) points; raising the price of a unit walks every layer down its hull. Sorting all
hull segments by their price gives the whole path at once (Shoham and Gersho 1988).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diminuendo.engine.plan import Choice, Plan
from diminuendo.engine.search.objective import Goal
from diminuendo.engine.search.objective import amount as objective_amount
from diminuendo.engine.search.space import LayerOptions, Space
from diminuendo.engine.search.work import Option

PARAMS = Goal()


@dataclass(frozen=True, slots=True)
class PathPoint:
    """One plan of the path.

    Attributes:
        amount: The objective's figure of the whole network.
        damage: Weighted sum of the layers' damages.
        price: Damage paid for each unit saved by the last move; ascending along the path.
    """

    plan: Plan
    amount: int
    damage: float
    price: float


def hull(options: Sequence[Option], weight: float = 1.0, goal: Goal = PARAMS) -> list[tuple[Option, float]]:
    """Lower convex hull of one layer, from its best-scoring option down in the goal's objective.

    Returns:
        (option, price): from the option with the least damage (the cheapest of those) to cheaper ones, with the
        damage for each unit saved on the way from the option before; prices ascend strictly, the first is 0.
    """

    def amount(option: Option) -> int:
        return objective_amount(option.cost, goal.objective)

    def price(dear: Option, cheap: Option) -> float:
        return (cheap.damage - dear.damage) / (amount(dear) - amount(cheap))

    points = sorted(options, key=lambda o: (o.damage, amount(o), o.choice))
    chain: list[Option] = []
    for point in points:
        if chain and amount(point) >= amount(chain[-1]):
            continue
        while len(chain) > 1 and price(chain[-2], chain[-1]) >= price(chain[-2], point):
            chain.pop()
        chain.append(point)
    prices = [0.0, *(weight * price(a, b) for a, b in itertools.pairwise(chain))]
    return list(zip(chain, prices, strict=True))


def path(space: Space, weights: Mapping[str, float] | None = None) -> list[PathPoint]:
    """The whole path, from the least damage to the least of the objective.

    Args:
        space: The search space.
        weights: Correction of each layer's damage, by layer name; 1 when absent.
    """
    hulls = {layer.spec.name: _weighted_hull(layer, weights, space.goal) for layer in space.layers}
    current: dict[str, Choice] = {name: steps[0][0].choice for name, steps in hulls.items()}
    plan = Plan.of(current)
    amount, damage = space.amount(space.cost(plan)), space.damage(plan, weights)
    points = [PathPoint(plan, amount, damage, 0.0)]
    segments = sorted(
        (price, order, index, name)
        for order, (name, steps) in enumerate(hulls.items())
        for index, (_, price) in enumerate(steps)
        if index > 0
    )
    for price, _, index, name in segments:
        before, after = hulls[name][index - 1][0], hulls[name][index][0]
        current[name] = after.choice
        saved = objective_amount(before.cost - after.cost, space.goal.objective)
        amount -= saved
        damage += price * saved
        points.append(PathPoint(Plan.of(current), amount, damage, price))
    return points


def _weighted_hull(layer: LayerOptions, weights: Mapping[str, float] | None, goal: Goal) -> list[tuple[Option, float]]:
    return hull(layer.options, weights.get(layer.spec.name, 1.0) if weights else 1.0, goal)


def at_most(points: Sequence[PathPoint], amount: float) -> PathPoint:
    """The least damaged plan of the path with at most this much; its smallest plan when none is."""
    return next((point for point in points if point.amount <= amount), points[-1])
