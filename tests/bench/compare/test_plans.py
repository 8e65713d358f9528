from __future__ import annotations

import math

import optuna
import pytest
from tests.bench.compare.plans import TOLERANCE, drawn, exponents, ratio_of, uniform
from tests.bench.compare.tpe import parameters_of, plan_of
from tests.engine.search.world import World

from diminuendo.engine.plan import DENSE, LayerSpec
from diminuendo.engine.search.rng import keyed
from diminuendo.engine.search.space import LayerOptions, Space
from diminuendo.engine.search.work import Option

NAMES = [f"layer{i}" for i in range(4)]


def space() -> Space:
    world = World()
    layers = tuple(
        LayerOptions(
            world.spec(i),
            (
                Option(DENSE, world.cost(DENSE, i), 0.0, 0.0),
                *sorted(world.options(i), key=lambda o: (o.cost.params, o.choice)),
            ),
        )
        for i in range(4)
    )
    return Space(layers, world.total())


def test_first_and_last_stay_dense_and_pointwise_layers_take_half() -> None:
    world = World()
    found = space()
    pointwise = LayerSpec("layer1", "conv", 32, 32, (1, 1))
    layers = (found.layers[0], LayerOptions(pointwise, found.layers[1].options), *found.layers[2:])
    assert exponents(Space(layers, world.total())) == {"layer0": 0.0, "layer1": 0.5, "layer2": 1.0, "layer3": 0.0}


@pytest.mark.parametrize("wanted", [1.2, 1.4, 1.6])
def test_uniform_ranks_give_every_layer_the_same_share(wanted: float) -> None:
    found = space()
    plan = uniform(found, wanted)
    assert [plan[name] == DENSE for name in NAMES] == [True, False, False, True]
    assert ratio_of(found, plan) == pytest.approx(wanted, rel=0.05)
    assert ratio_of(found, plan) >= wanted
    ratios = []
    for name in NAMES[1:3]:
        layer = found.by_name[name]
        chosen = layer.by_choice[plan[name]]
        ratios.append(layer.options[0].cost.params / chosen.cost.params)
        better = [o for o in layer.options if o.cost.params <= chosen.cost.params and o.damage < chosen.damage]
        assert not better
    assert ratios[0] == pytest.approx(ratios[1], rel=0.35)  # as near as their ladders allow


@pytest.mark.parametrize("wanted", [1.2, 1.4, 1.6])
def test_drawn_plans_have_the_ratio_that_was_asked_for_and_differ(wanted: float) -> None:
    found, rng = space(), keyed(0, "test")
    plans = [drawn(found, wanted, rng) for _ in range(10)]
    assert all(abs(math.log(ratio_of(found, plan) / wanted)) <= TOLERANCE for plan in plans)
    assert all(plan["layer0"] == plan["layer3"] == DENSE for plan in plans)
    assert len({plan.key() for plan in plans}) > 5
    assert {plan["layer2"].format for plan in plans} >= {"svd", "tucker2"}


@pytest.mark.parametrize("wanted", [1.05, 1.2, 1.4, 1.6])
def test_parameters_of_a_plan_lead_back_to_it(wanted: float) -> None:
    found = space()
    for plan in (uniform(found, wanted), drawn(found, wanted, keyed(1, "test"))):
        told = parameters_of(found, plan)
        assert set(told) == {f"layer{i}.{what}" for i in (1, 2) for what in ("format", "rung")}
        assert plan_of(found, optuna.trial.FixedTrial(told)) == plan
