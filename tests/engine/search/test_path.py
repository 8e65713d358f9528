from __future__ import annotations

import itertools

import numpy as np
import pytest

from diminuendo.engine.cost import Cost
from diminuendo.engine.plan import DENSE, Choice, LayerSpec, Plan
from diminuendo.engine.search.path import at_most, hull, path
from diminuendo.engine.search.space import LayerOptions, Space
from diminuendo.engine.search.work import Option


def random_space(seed: int, layers: int = 3, forms: int = 5) -> Space:
    rng = np.random.default_rng(seed)
    made, total = [], 10
    for i in range(layers):
        spec = LayerSpec(f"l{i}", "linear", 8, 8)
        dense = 200 + int(rng.integers(100))
        params = rng.choice(np.arange(5, 190), size=forms, replace=False)
        options = [
            Option(Choice("svd", (r + 1,)), Cost(int(p), int(p)), 0.5, float(rng.exponential() * 50 / p))
            for r, p in enumerate(sorted(params))
        ]
        made.append(LayerOptions(spec, (Option(DENSE, Cost(dense, dense), 0.0, 0.0), *options)))
        total += dense
    return Space(tuple(made), Cost(total, total))


def all_plans(space: Space) -> list[Plan]:
    names = [layer.spec.name for layer in space.layers]
    choices = [[o.choice for o in layer.options] for layer in space.layers]
    return [Plan(tuple(zip(names, combination, strict=True))) for combination in itertools.product(*choices)]


@pytest.mark.parametrize("seed", range(8))
def test_every_point_is_the_brute_force_optimum_at_its_multiplier(seed: int) -> None:
    space = random_space(seed)
    weights = {"l0": 1.5, "l1": 0.5}
    points = path(space, weights)
    plans = all_plans(space)
    for point, after in itertools.pairwise(points):
        price = (point.price + after.price) / 2  # any multiplier between the two moves
        best = min(space.damage(p, weights) + price * space.cost(p).params for p in plans)
        assert point.damage + price * point.amount == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_points_carry_the_cost_and_damage_of_their_plans(seed: int) -> None:
    space = random_space(seed)
    for point in path(space):
        assert point.amount == space.cost(point.plan).params
        assert point.damage == pytest.approx(space.damage(point.plan), abs=1e-9)


def test_the_path_goes_from_harmless_to_smallest_with_rising_prices() -> None:
    space = random_space(0)
    points = path(space)
    assert points[0].plan == space.dense
    assert points[-1].amount == min(space.cost(p).params for p in all_plans(space))
    assert all(a.price <= b.price and a.amount > b.amount for a, b in itertools.pairwise(points))


def test_at_most_is_the_best_point_that_fits() -> None:
    points = path(random_space(1))
    middle = points[len(points) // 2]
    assert at_most(points, middle.amount) == middle
    assert at_most(points, middle.amount - 1) == points[len(points) // 2 + 1]
    assert at_most(points, 0) == points[-1]


def test_the_hull_leaves_out_what_is_never_best() -> None:
    def option(rank: int, params: int, damage: float) -> Option:
        return Option(Choice("svd", (rank,)), Cost(params, params), 0.0, damage)

    dense = Option(DENSE, Cost(100, 100), 0.0, 0.0)
    chain = hull([dense, option(1, 10, 9.0), option(2, 50, 8.0), option(3, 60, 1.0)])
    # 60 params cost 1/40 each; from there 10 params cost 8/50; 50 params at damage 8 lie above that line.
    assert [o.cost.params for o, _ in chain] == [100, 60, 10]
    assert [price for _, price in chain] == pytest.approx([0.0, 1 / 40, 8 / 50])
