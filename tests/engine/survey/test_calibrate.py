from __future__ import annotations

import itertools
import math

import pytest
import torch
from tests.engine.networks import fingerprint, images, small

from diminuendo.engine import surgery
from diminuendo.engine.formats import FORMATS, Factors
from diminuendo.engine.plan import Choice, LayerSpec, Plan
from diminuendo.engine.score import divergence, outputs_of
from diminuendo.engine.search.work import Option
from diminuendo.engine.survey import factors
from diminuendo.engine.survey.calibrate import DamageCurve, Measured, options, rungs_to_measure
from diminuendo.engine.survey.discover import discover
from diminuendo.engine.survey.moments import collect


def surveyed(name: str, points: int = 4) -> tuple[LayerSpec, dict[str, Factors], tuple[Option, ...], Measured]:
    model, inputs = small(), images(60)
    spec = next(layer for layer in discover(model, inputs[:1]).layers if layer.name == name)
    made: dict[str, Factors] = dict(factors.factor(model, spec, collect(model, [spec], inputs)[name]))
    before = fingerprint(model)
    found, measured = options(
        model, spec, made, inputs, outputs_of(model, inputs), points=points, bn_inputs=inputs, batch_size=25
    )
    assert fingerprint(model) == before
    return spec, made, found, measured


def test_an_option_for_every_rung_with_its_cost_and_energy() -> None:
    spec, made, found, _ = surveyed("conv2")
    expected = [(name, ranks) for name in made for ranks in FORMATS[name].ladder(spec, made[name])]
    assert [(option.choice.format, option.choice.ranks) for option in found] == expected
    for option in found:
        form = FORMATS[option.choice.format]
        assert option.cost == form.cost(spec, option.choice.ranks)
        assert option.energy == form.energy(made[option.choice.format], option.choice.ranks)


@pytest.mark.parametrize("layer", ["conv1", "conv2", "mix", "fc"])
def test_damage_never_rises_with_params(layer: str) -> None:
    _, made, found, _ = surveyed(layer)
    for name in made:
        own = [option for option in found if option.choice.format == name]
        assert own
        for cheaper, dearer in itertools.pairwise(own):
            assert cheaper.cost.params < dearer.cost.params
            assert cheaper.damage >= dearer.damage >= 0.0
            assert math.isfinite(cheaper.damage)


def test_measurements_are_those_of_the_network_with_this_layer_truncated() -> None:
    spec, made, found, measured = surveyed("conv2")
    model, inputs = small(), images(60)
    reference = outputs_of(model, inputs)
    dense = surgery.build(model, Plan(()))
    surgery.reestimate_batchnorm(dense, inputs, 25)
    floor = divergence(reference, outputs_of(dense, inputs))
    for form, ranks, damage in measured:
        plan = Plan.of({spec.name: Choice(form, ranks)})
        candidate = surgery.build(model, plan)
        surgery.load_factors(candidate, model, plan, {spec.name: made[form]})
        surgery.reestimate_batchnorm(candidate, inputs, 25)
        assert divergence(reference, outputs_of(candidate, inputs)) == pytest.approx(damage, rel=1e-5)
    for form in made:
        rungs = [(ranks, max(damage - floor, 1e-9)) for name, ranks, damage in measured if name == form]
        damages = [damage for _, damage in rungs]
        for ranks, damage in rungs:
            option = next(o for o in found if o.choice == Choice(form, ranks))
            if damages == sorted(damages, reverse=True):  # at a measured rung the curve is what was measured
                assert option.damage == pytest.approx(damage, rel=0.01, abs=1e-6)
            else:  # but for violations of the order, which are pooled
                assert min(damages) * 0.99 <= option.damage <= max(damages) * 1.01
    assert any(name == "svd" for name, _, _ in measured)


def test_points_are_spread_over_the_ladder() -> None:
    assert rungs_to_measure(32, 4) == [0, 10, 21, 31]
    assert rungs_to_measure(3, 4) == [0, 1, 2]
    assert rungs_to_measure(1, 4) == [0]
    assert rungs_to_measure(0, 4) == []
    assert rungs_to_measure(9, 1) == [4]
    assert len(surveyed("mix", points=2)[3]) == 2


def test_the_curve_is_straight_between_its_points_on_log_axes() -> None:
    curve = DamageCurve([(0.01, 0.001), (1.0, 0.1)])
    assert curve(0.01) == pytest.approx(0.001)
    assert curve(1.0) == pytest.approx(0.1)
    assert curve(0.1) == pytest.approx(0.01)
    assert curve(0.001) == pytest.approx(0.0001)  # beyond the points in proportion to the energy
    assert curve(0.0) == 0.0


def test_measurements_out_of_order_are_pooled() -> None:
    curve = DamageCurve([(0.1, 0.04), (0.2, 0.01), (0.4, 0.5)])
    assert curve(0.1) == pytest.approx(0.02)  # the geometric mean of 0.04 and 0.01
    assert curve(0.15) == pytest.approx(0.02)
    assert curve(0.2) == pytest.approx(0.02)
    assert curve(0.4) == pytest.approx(0.5)
    energies = torch.linspace(0.001, 1.0, 200).tolist()
    damages = [curve(energy) for energy in energies]
    assert damages == sorted(damages)


def test_equal_energies_and_zero_damage_are_no_error() -> None:
    curve = DamageCurve([(1.0, 0.3), (1.0, 0.2), (0.0, 0.0)])
    assert 0.2 <= curve(1.0) <= 0.3
    assert curve(1e-13) == pytest.approx(1e-9)
