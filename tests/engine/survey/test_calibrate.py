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
from diminuendo.engine.survey.calibrate import Calibration, DamageCurve, Measured, rungs_to_measure
from diminuendo.engine.survey.discover import discover
from diminuendo.engine.survey.moments import collect


def surveyed(
    name: str, points: int = 4, multiple: int = 1
) -> tuple[LayerSpec, dict[str, Factors], tuple[Option, ...], Measured]:
    model, inputs = small(), images(60)
    spec = next(layer for layer in discover(model, inputs[:1]).layers if layer.name == name)
    made: dict[str, Factors] = dict(factors.factor(model, spec, collect(model, [spec], inputs)[name]))
    before = fingerprint(model)
    calibration = Calibration(model, inputs, outputs_of(model, inputs), inputs, batch_size=25)
    found, measured = calibration.options(spec, made, points=points, multiple=multiple)
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


@pytest.mark.parametrize("layer", ["conv2", "fc"])
def test_ranks_between_the_ends_of_a_ladder_snap_to_a_multiple(layer: str) -> None:
    spec, made, every, _ = surveyed(layer)
    _, _, found, _ = surveyed(layer, multiple=4)
    for name, own in made.items():
        free = [option.choice.ranks for option in every if option.choice.format == name]
        ranks = [option.choice.ranks for option in found if option.choice.format == name]
        assert (ranks[0], ranks[-1]) == (free[0], free[-1])
        top = FORMATS[name].max_ranks(spec)
        for inner in ranks[1:-1]:
            assert all(rank % 4 == 0 or rank == most for rank, most in zip(inner, top, strict=True))
        assert all(a < b and all(x <= y for x, y in zip(a, b, strict=True)) for a, b in itertools.pairwise(ranks))
        assert [option.energy for option in found if option.choice.format == name] == [
            FORMATS[name].energy(own, each) for each in ranks
        ]
    assert len(found) < len(every)


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


@pytest.mark.parametrize("layer", ["conv1", "conv2"])
def test_measurements_are_those_of_the_network_with_this_layer_truncated(layer: str) -> None:
    spec, made, found, measured = surveyed(layer)
    model, inputs = small(), images(60)
    reference = outputs_of(model, inputs)
    dense = surgery.build(model, Plan(()))
    surgery.reestimate_batchnorm(dense, inputs, 25)
    floor = divergence(reference, outputs_of(dense, inputs))
    excess: dict[str, list[tuple[tuple[int, ...], float]]] = {}
    checked = 0
    for form, ranks, damage in measured:
        plan = Plan.of({spec.name: Choice(form, ranks)})
        candidate = surgery.build(model, plan)
        surgery.load_factors(candidate, model, plan, {spec.name: made[form]})
        closed = form == "svd" and layer == "conv2"  # bn2 is the last BatchNorm: nothing else is to be estimated
        if closed:
            assert surgery.batchnorm_in_closed_form(candidate, plan, {layer: made[form]}, {layer: "bn2"}) == {"bn2"}
        else:
            surgery.reestimate_batchnorm(candidate, inputs, 25)
        assert divergence(reference, outputs_of(candidate, inputs)) == pytest.approx(damage, rel=1e-5)
        excess.setdefault(form, []).append((ranks, max(1e-6, damage if closed else damage - floor)))
    for form, damages in excess.items():
        # Where no violation of the order was pooled, the curve at a measured rung is what was measured.
        if [value for _, value in damages] == sorted((value for _, value in damages), reverse=True):
            for ranks, value in damages:
                option = next(o for o in found if o.choice == Choice(form, ranks))
                assert option.damage == pytest.approx(value, rel=1e-4)
            checked += 1
    assert checked >= 2


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
    assert curve(1e-13) == pytest.approx(1e-6)
