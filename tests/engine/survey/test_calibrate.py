from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from tests.engine.networks import fingerprint, images, small
from torch import Tensor, nn
from torch.nn import functional

from diminuendo.engine import surgery
from diminuendo.engine.formats import FORMATS, Factors
from diminuendo.engine.plan import Choice, LayerSpec, Plan
from diminuendo.engine.score import divergence, outputs_of
from diminuendo.engine.search.work import Option
from diminuendo.engine.survey import factors
from diminuendo.engine.survey.calibrate import Calibration, Measured, rungs_to_measure
from diminuendo.engine.survey.curve import DamageCurve
from diminuendo.engine.survey.discover import discover
from diminuendo.engine.survey.moments import collect
from diminuendo.engine.survey.partial import Ending

EXACT = [name for name, form in FORMATS.items() if form.exact]


def surveyed(
    name: str, points: int = 4, multiple: int = 1
) -> tuple[LayerSpec, dict[str, Factors], tuple[Option, ...], Measured]:
    model, inputs = small(), images(60)
    spec = next(layer for layer in discover(model, inputs[:1]).layers if layer.name == name)
    made: dict[str, Factors] = dict(factors.factor(model, spec, collect(model, [spec], inputs)[name], EXACT))
    before = fingerprint(model)
    calibration = Calibration(model, inputs, batch_size=25)
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


def by_batch_statistics(model: nn.Module, norms: Sequence[str], inputs: Tensor) -> Tensor:
    """Logits of three batches of 20, some BatchNorms by the batch's own statistics."""
    model.eval()
    for name in norms:
        model.get_submodule(name).train()
    with torch.no_grad():
        return torch.cat([model(inputs[start : start + 20]) for start in (0, 20, 40)])


@pytest.mark.parametrize(("layer", "norms"), [("conv1", ("bn1", "bn2")), ("conv2", ("bn2",)), ("mix", ()), ("fc", ())])
def test_measurements_are_those_of_the_network_with_this_layer_truncated(layer: str, norms: tuple[str, ...]) -> None:
    spec, made, found, measured = surveyed(layer)
    model, inputs = small(), images(60)
    reference = by_batch_statistics(small(), norms, inputs)
    assert {form for form, _, _ in measured} == set(made)
    checked = 0
    for form, ranks, damage in measured:
        plan = Plan.of({spec.name: Choice(form, ranks)})
        candidate = surgery.build(model, plan)
        surgery.load_factors(candidate, model, plan, {spec.name: made[form]})
        expected = divergence(reference, by_batch_statistics(candidate, norms, inputs))
        assert damage == pytest.approx(expected, rel=1e-4, abs=1e-9)
        # Where no violation of the order was pooled, the curve at a measured rung is what was measured.
        own = [value for name, _, value in measured if name == form]
        if own == sorted(own, reverse=True):
            option = next(o for o in found if o.choice == Choice(form, ranks))
            assert option.damage == pytest.approx(max(1e-6, damage), rel=1e-4)
            checked += 1
    assert checked >= 3


class Residual(nn.Module):
    """BatchNorms before and after, a branch that goes past, a module that is called twice, noise if wanted."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.down = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(4))
        self.one, self.two = (nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(2))
        self.clip, self.fc = nn.ReLU(inplace=True), nn.Linear(8, 5)
        self.noise = noise
        for norm in self.norms:
            norm.running_var.uniform_(0.1, 1.0)  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        x = self.clip(self.norms[0](self.stem(x)))
        y = self.clip(self.norms[1](self.one(x)))
        y = self.norms[2](self.two(y))
        y += self.norms[3](self.down(x))
        y = self.clip(y).mean(dim=(2, 3))
        return self.fc(functional.dropout(y, self.noise, training=self.noise > 0))  # type: ignore[no-any-return]


def residual(name: str, **options: Any) -> tuple[list[float], Calibration]:
    model, inputs = Residual().eval(), images(60)
    spec = next(layer for layer in discover(model, inputs[:1]).layers if layer.name == name)
    made = factors.factor(model, spec, collect(model, [spec], inputs)[name], ("svd", "tucker2"))
    calibration = Calibration(model, inputs, batch_size=30, **options)
    choices = [Choice(form, FORMATS[form].ladder(spec, own)[place]) for form, own in made.items() for place in (0, -1)]
    return calibration.damages(spec, choices, made), calibration


@pytest.mark.parametrize("layer", ["stem", "one", "two", "down", "fc"])
def test_partial_forwards_measure_what_whole_ones_do(layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = residual(layer, partial=False)
    runs: list[str] = []

    def noted(name: str, method: Callable[[Ending, Tensor], object]) -> None:
        def call(ending: Ending, inputs: Tensor) -> object:
            runs.append(name)
            return method(ending, inputs)

        monkeypatch.setattr(Ending, name, call)

    noted("from_input", Ending.from_input)
    noted("from_layer", Ending.from_layer)
    partial, _ = residual(layer)
    assert partial == pytest.approx(whole, rel=1e-6)
    assert runs == ["from_layer"] * 2
    runs.clear()
    no_room, _ = residual(layer, kept_bytes=1000)  # not of 30 samples
    assert no_room == pytest.approx(whole, rel=1e-6)
    assert runs == ["from_layer" if layer == "stem" else "from_input"] * 2  # before the stem there is nothing


def test_batches_are_as_small_as_what_is_kept_of_them_allows() -> None:
    model, inputs = Residual().eval(), images(60)
    ending = Ending(model, model.fc)
    kept = ending.tried([inputs[:2], inputs[2:4]])
    assert kept is not None
    for batch_size, room, expected in (
        (50, 60, 50),
        (50, 40, 40),
        (50, 32, 32),
        (50, 31, 0),
        (20, 20, 20),
        (20, 19, 0),
    ):
        calibration = Calibration(model, inputs, batch_size=batch_size, kept_bytes=room * kept // 4)
        assert calibration._partial_batch(ending) == expected


def test_networks_that_draw_random_numbers_are_run_whole() -> None:
    model, inputs = Residual(noise=0.5).eval(), images(40)
    spec = next(layer for layer in discover(Residual().eval(), inputs[:1]).layers if layer.name == "two")
    made = factors.factor(model, spec, collect(model, [spec], inputs)["two"], ("svd",))
    (low, high) = Calibration(model, inputs, batch_size=20).damages(
        spec, [Choice("svd", (1,)), Choice("svd", (7,))], made
    )
    assert low > 0
    assert high > 0  # the noise alone


@pytest.mark.parametrize("layer", ["stem", "one", "two"])
def test_what_the_batchs_statistics_do_by_themselves_is_no_damage(layer: str) -> None:
    """The running statistics of a network that was not trained are far from the data's."""
    model, inputs = Residual().eval(), images(60)
    names = [name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert divergence(outputs_of(model, inputs), by_batch_statistics(Residual(), names, inputs)) > 1e-3
    spec = next(each for each in discover(model, inputs[:1]).layers if each.name == layer)
    made = factors.factor(model, spec, collect(model, [spec], inputs)[layer], ("svd",))
    exact = Choice("svd", FORMATS["svd"].max_ranks(spec))
    assert Calibration(model, inputs, batch_size=30).damages(spec, [exact], made) == [pytest.approx(0.0, abs=1e-7)]


@pytest.mark.parametrize(
    ("layer", "legal"), [("stem", False), ("one", True), ("two", True), ("down", True), ("fc", False)]
)
def test_rank_zero_is_legal_where_the_network_still_sees_its_input(layer: str, legal: bool) -> None:
    """What `two` gives and what `down` gives are added: either will do."""
    model, inputs = Residual().eval(), images(60)
    spec = next(each for each in discover(model, inputs[:1]).layers if each.name == layer)
    made = factors.factor(model, spec, collect(model, [spec], inputs)[layer], ("zero", "svd"))
    calibration = Calibration(model, inputs, batch_size=30)
    zero = Choice("zero")
    (damage,) = calibration.damages(spec, [zero], made)
    found, measured = calibration.options(spec, made, points=2)
    options = [option for option in found if option.choice.format == "zero"]
    assert {name for name, _, _ in measured} == ({"svd", "zero"} if legal else {"svd"})
    if legal:
        (option,) = options
        assert option == Option(zero, FORMATS["zero"].cost(spec, ()), 1.0, option.damage)
        assert option.damage == pytest.approx(damage)
        assert damage > max(option.damage for option in found if option.choice.format == "svd")
    else:
        assert not options
        assert damage == math.inf


def test_a_single_sample_is_measured() -> None:
    model, inputs = small(), images(1)
    for name in ("conv1", "fc"):
        spec = next(layer for layer in discover(model, inputs).layers if layer.name == name)
        made = factors.factor(model, spec, collect(model, [spec], inputs)[name], ("svd",))
        (damage,) = Calibration(model, inputs).damages(spec, [Choice("svd", (1,))], made)
        assert math.isfinite(damage)
    assert Calibration(model, inputs).damages(spec, [], made) == []


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
