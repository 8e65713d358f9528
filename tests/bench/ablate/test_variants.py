"""All variants on a small network: each does what its name says, at the same ratio."""

from __future__ import annotations

import pytest
import torch
from tests.bench import blobs
from tests.bench.ablate.stand import Stand, blind
from tests.bench.ablate.variants import VARIANTS, nested_space

from diminuendo.engine.finetune import finetune
from diminuendo.engine.modules import copied
from diminuendo.engine.plan import DENSE, Plan
from diminuendo.engine.teacher import distillation

RATIOS = (3.0, 3.5)


@pytest.fixture(scope="module")
def stand() -> Stand:
    torch.set_num_threads(1)
    return Stand(blobs.task(), 0, 1.0)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_has_the_ratios_that_were_asked_for(stand: Stand, name: str) -> None:
    stand.begin()
    scored = VARIANTS[name](stand, RATIOS)
    assert [each.ratio >= wanted * 0.99 for each, wanted in zip(scored, RATIOS, strict=True)] == [True, True]
    assert all(each.ratio < 1.5 * wanted for each, wanted in zip(scored, RATIOS, strict=True))
    assert all(0 <= each.divergence < 1.2 for each in scored)


def test_a_nested_space_counts_what_is_never_compressed(stand: Stand) -> None:
    space = nested_space(stand).space
    assert space.fixed == stand.aware.space.fixed
    plan = Plan(tuple((layer.spec.name, layer.options[-1].choice) for layer in space.layers))
    assert space.cost(plan).params == stand.aware.space.cost(plan).params


def test_a_variant_comes_out_the_same_again(stand: Stand) -> None:
    stand.begin()
    first = VARIANTS["gradual, 2 steps"](stand, RATIOS)
    stand.begin()
    assert VARIANTS["gradual, 2 steps"](stand, RATIOS) == first


def test_plain_factors_know_nothing_of_the_data(stand: Stand) -> None:
    layer = stand.bench.discovery.layers[1].name
    weight = stand.bench.model.get_submodule(layer).get_parameter("weight").detach().double()
    plain, aware = (s.factors[layer, "svd"]["spectrum"] for s in (stand.plain, stand.aware))
    torch.testing.assert_close(plain, torch.linalg.svdvals(weight).square(), rtol=1e-5, atol=1e-8)
    assert not torch.allclose(aware, plain, rtol=0.1)


def test_uncalibrated_damage_is_the_energy(stand: Stand) -> None:
    options = [o for layer in stand.uncalibrated.space.layers for o in layer.options]
    assert all(option.damage == option.energy for option in options)
    calibrated = [o for layer in stand.aware.space.layers for o in layer.options]
    assert [o.choice for o in calibrated] == [o.choice for o in options]
    assert any(o.damage != o.energy for o in calibrated if o.choice != DENSE)


def test_a_blind_teacher_adds_nothing(stand: Stand) -> None:
    teacher, inputs = stand.teaching, stand.bench.training_inputs(10)
    seeing_nothing = blind(teacher)
    outputs = stand.bench.model(inputs)
    assert float(distillation(seeing_nothing.logits(outputs), seeing_nothing.on(inputs), 4.0)) == 0.0

    def nothing(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return 0.0 * outputs.sum()

    model = copied(stand.bench.model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recipe = stand.task.recipe.__class__(weight_decay=0.0)
    finetune(model, seeing_nothing, nothing, recipe, epochs=1, rate=1.0, seed=0)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
