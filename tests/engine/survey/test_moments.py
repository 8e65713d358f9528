from __future__ import annotations

import itertools

import numpy
import pytest
import torch
from tests.engine.networks import fingerprint, images, small
from torch import Tensor, nn

from diminuendo.engine.formats import Moments
from diminuendo.engine.plan import LayerSpec
from diminuendo.engine.survey.discover import discover
from diminuendo.engine.survey.moments import collect, from_tensors, to_tensors
from diminuendo.engine.task import TaskError

FIELDS = ("output_mean", "output_covariance", "input_mean", "input_covariance", "input_lags")


def collected(model: nn.Module, inputs: Tensor, batch_size: int = 250) -> dict[str, Moments]:
    return collect(model, discover(model, inputs[:1]).layers, inputs, batch_size)


@pytest.mark.parametrize(("wide", "side"), [(False, "output"), (True, "input")])
def test_moments_of_a_linear_layer_are_second_ones_of_its_narrower_side(wide: bool, side: str) -> None:
    model = nn.Sequential(nn.Linear(4, 9) if wide else nn.Linear(9, 4)).double()
    weight = model.get_parameter("0.weight").detach()
    inputs = torch.randn(50, 7, weight.shape[1], dtype=torch.float64)
    found = collected(model, inputs)["0"]
    data = inputs.flatten(0, 1)
    outputs = data @ weight.T
    torch.testing.assert_close(found.input_mean, data.mean(dim=0))
    torch.testing.assert_close(found.output_mean, outputs.mean(dim=0))
    seen = {"input": found.input_covariance, "output": found.output_covariance}
    expected = torch.cov({"input": data, "output": outputs}[side].T, correction=0)
    torch.testing.assert_close(seen.pop(side), expected)
    assert list(seen.values()) == [None]
    assert (found.input_count, found.output_count) == (350, 350)


def test_moments_of_a_convolution_are_over_samples_and_positions() -> None:
    model, inputs = small().double().eval(), images(20).double()
    found = collected(model, inputs)["conv2"]
    with torch.no_grad():
        sources = model.relu(model.bn1(model.conv1(inputs)))
        outputs = model.conv2(sources)
    torch.testing.assert_close(found.input_covariance, torch.cov(sources.movedim(1, 0).flatten(1), correction=0))
    torch.testing.assert_close(found.output_covariance, torch.cov(outputs.movedim(1, 0).flatten(1), correction=0))
    assert (found.input_count, found.output_count) == (20 * 64, 20 * 16)


def test_the_batch_size_changes_nothing_but_rounding() -> None:
    model, inputs = small(), images(30)
    whole, parts = collected(model, inputs), collected(model, inputs, batch_size=7)
    for name in whole:
        for field in FIELDS:
            torch.testing.assert_close(
                getattr(whole[name], field), getattr(parts[name], field), atol=1e-6, rtol=1e-5, msg=f"{name} {field}"
            )
        assert whole[name].output_count == parts[name].output_count


def test_a_mean_far_above_the_spread_loses_no_digits() -> None:
    model = nn.Sequential(nn.Linear(5, 5, bias=False, dtype=torch.float64))
    nn.init.eye_(model.get_parameter("0.weight"))
    small_part = torch.randn(1000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = collected(model, small_part + 1e7, batch_size=100)["0"]
    expected = torch.cov(((small_part + 1e7) - 1e7).T, correction=0)
    torch.testing.assert_close(found.output_covariance, expected, atol=1e-8, rtol=0)


def test_who_absorbs_the_mean() -> None:
    found = collected(small(), images(4))
    # conv1 and conv2 go into a BatchNorm, mix goes into a ReLU without a bias, fc has a bias.
    assert {name: m.absorbs_mean for name, m in found.items()} == {
        "conv1": True,
        "conv2": True,
        "mix": False,
        "fc": True,
    }


class Shared(nn.Module):
    """One convolution called twice, of which only one output goes into the BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(self.conv(x)))  # type: ignore[no-any-return]


def test_every_call_must_go_into_a_batchnorm() -> None:
    found = collected(Shared(), images(4))["conv"]
    assert not found.absorbs_mean
    assert found.output_count == 2 * 4 * 64


def layer_and_moments(layer: nn.Module, inputs: Tensor, batch_size: int = 250) -> tuple[LayerSpec, Moments]:
    model = nn.Sequential(layer).double()
    (spec,) = discover(model, inputs).layers
    return spec, collect(model, [spec], inputs, batch_size)[spec.name]


def covariance_by_loops(rows: Tensor) -> Tensor:
    """Of (N, C), as numpy does it."""
    return torch.from_numpy(numpy.atleast_2d(numpy.cov(rows.numpy().T, bias=True)))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(4, 6, 3, stride=2), (5, 4, 9)),
        (nn.Conv3d(3, 6, (1, 2, 3), padding=1), (3, 3, 4, 5, 6)),
        (nn.ConvTranspose1d(4, 6, 3, stride=2), (5, 4, 9)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), (3, 4, 4, 5)),
        (nn.ConvTranspose3d(3, 6, 2), (3, 3, 4, 5, 6)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_moments_of_convolutions_of_every_kind(layer: nn.Module, shape: tuple[int, ...]) -> None:
    inputs = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1.0
    _, found = layer_and_moments(layer, inputs)
    with torch.no_grad():
        outputs = layer(inputs) - layer.get_parameter("bias").view(-1, *[1] * (len(shape) - 2))
    sources, results = (each.movedim(1, -1).flatten(0, -2) for each in (inputs, outputs))
    torch.testing.assert_close(found.input_mean, sources.mean(dim=0))
    torch.testing.assert_close(found.input_covariance, covariance_by_loops(sources))
    torch.testing.assert_close(found.output_mean, results.mean(dim=0))
    torch.testing.assert_close(found.output_covariance, covariance_by_loops(results))
    assert (found.input_count, found.output_count) == (len(sources), len(results))


def test_grouped_layers_have_moments_for_each_group() -> None:
    layer = nn.Conv2d(6, 9, (3, 2), groups=3).double()
    inputs = torch.randn(4, 6, 7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1.0
    _, found = layer_and_moments(layer, inputs)
    with torch.no_grad():
        outputs = layer(inputs) - layer.get_parameter("bias").view(-1, 1, 1)
    assert found.input_covariance is not None
    assert found.output_covariance is not None
    assert found.input_mean.shape == (3, 2)
    for group in range(3):
        alone = inputs.chunk(3, dim=1)[group]
        sources = alone.movedim(1, -1).flatten(0, -2)
        results = outputs.chunk(3, dim=1)[group].movedim(1, -1).flatten(0, -2)
        torch.testing.assert_close(found.input_mean[group], sources.mean(dim=0))
        torch.testing.assert_close(found.input_covariance[group], covariance_by_loops(sources))
        torch.testing.assert_close(found.output_mean[group], results.mean(dim=0))
        torch.testing.assert_close(found.output_covariance[group], covariance_by_loops(results))
        spec = LayerSpec("0", "conv", 3, 2, (3, 2))
        part = nn.Conv2d(2, 3, (3, 2), dtype=torch.float64)
        lags = collect(nn.Sequential(part), [spec], alone)["0"].input_lags
        assert found.input_lags is not None
        torch.testing.assert_close(found.input_lags[group], lags)


def lags_by_windows(inputs: Tensor, kernel: int, dilation: int) -> Tensor:
    """(k - 1, I, I), position after position: what lies beyond the border counts as the mean."""
    centred = inputs - inputs.mean(dim=(0, 2, 3), keepdim=True)
    samples, channels, height, width = centred.shape
    found = torch.zeros(kernel - 1, channels, channels, dtype=torch.float64)
    for lag in range(1, kernel):
        for sample, row, column in itertools.product(range(samples), range(height), range(width)):
            if row + lag * dilation < height:
                here, there = centred[sample, :, row, column], centred[sample, :, row + lag * dilation, column]
                found[lag - 1] += torch.outer(here, there)
    return found / (samples * height * width)


@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (2, 3), (4, 2), (3, 5)])
@pytest.mark.parametrize("batch_size", [250, 2])
def test_lags_are_along_the_kernels_first_axis(kernel: int, dilation: int, batch_size: int) -> None:
    layer = nn.Conv2d(3, 4, (kernel, 2), padding=dilation * kernel, dilation=dilation)
    steps = torch.arange(5, dtype=torch.float64).view(-1, 1, 1, 1)  # each sample has another mean
    inputs = torch.randn(5, 3, 7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + steps
    _, found = layer_and_moments(layer, inputs, batch_size)
    torch.testing.assert_close(found.input_lags, lags_by_windows(inputs, kernel, dilation))


def test_only_kernels_of_several_axes_have_lags() -> None:
    inputs = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    for kernel in ((1, 3), (3, 1)):
        _, found = layer_and_moments(nn.Conv2d(3, 4, kernel), inputs)
        assert found.input_lags is None
        assert found.input_covariance is not None


class Named(nn.Module):
    """Layers that are called by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(input=x)  # type: ignore[no-any-return]


def test_layers_called_by_keyword() -> None:
    inputs = torch.randn(20, 6)
    found = collected(Named(), inputs)["fc"]
    torch.testing.assert_close(found.input_mean, inputs.double().mean(dim=0))
    assert found.input_count == 20


def test_bfloat16_is_taken_exactly() -> None:
    model = nn.Sequential(nn.Linear(6, 4)).to(torch.bfloat16)
    inputs = torch.randn(30, 6, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    found = collected(model, inputs)["0"]
    with torch.no_grad():
        outputs = model(inputs).double() - model.get_parameter("0.bias").double()
    torch.testing.assert_close(found.output_covariance, covariance_by_loops(outputs), rtol=1e-9, atol=1e-12)


class Experts(nn.Module):
    """The sign of the first feature picks the layer; a batch may bring one of them nothing, or leave it alone."""

    def __init__(self) -> None:
        super().__init__()
        self.plus, self.minus = nn.Linear(6, 4), nn.Conv1d(6, 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        picked = x[:, 0] > 0
        out = x.new_zeros(len(x), 4)
        out[picked] = self.plus(x[picked])
        if not picked.all():
            out[~picked] = self.minus(x[~picked].unsqueeze(2).expand(-1, -1, 2)).squeeze(2)
        return out


def test_batches_that_bring_a_layer_nothing_are_passed_over() -> None:
    inputs = torch.randn(12, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs[:, 0] = torch.tensor([1.0, -1.0, -1.0]).repeat(4)
    specs = [LayerSpec("plus", "linear", 4, 6, ()), LayerSpec("minus", "conv", 4, 6, (2,))]
    model = Experts().double()
    whole, parts = collect(model, specs, inputs), collect(model, specs, inputs, 1)
    assert (whole["plus"].input_count, whole["minus"].input_count) == (4, 8 * 2)
    for name in whole:
        torch.testing.assert_close(whole[name].output_covariance, parts[name].output_covariance)


def test_a_layer_that_no_sample_reaches_sees_white_noise() -> None:
    inputs = torch.rand(12, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = Experts().double()
    found = collect(model, [LayerSpec("minus", "conv", 4, 6, (2,))], inputs)["minus"]
    kernel = model.minus.weight.detach().flatten(1)
    torch.testing.assert_close(found.output_covariance, kernel @ kernel.T)
    torch.testing.assert_close(found.input_covariance, torch.eye(6, dtype=torch.float64))
    assert not found.output_mean.any()
    assert not found.input_mean.any()
    assert (found.output_count, found.input_count) == (0, 0)


def test_the_network_is_left_as_it_was() -> None:
    model = small()
    before = fingerprint(model)
    collected(model, images(6))
    assert fingerprint(model) == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_name_the_layer(value: float) -> None:
    model, inputs = small(), images(6)
    inputs[3, 0, 2, 2] = value
    layers = discover(model, inputs[:1]).layers
    before = fingerprint(model)
    with pytest.raises(TaskError, match="layer 'conv1': its input is NaN or infinite"):
        collect(model, layers, inputs, 2)
    assert fingerprint(model) == before


def test_no_samples_is_an_error() -> None:
    with pytest.raises(TaskError, match="no samples"):
        collect(small(), (), images(0))


def test_there_and_back_through_tensors() -> None:
    found = collected(small(), images(4))
    back = from_tensors(to_tensors(found))
    assert set(back) == set(found)
    for name, moments in found.items():
        for field in FIELDS:
            torch.testing.assert_close(getattr(back[name], field), getattr(moments, field), rtol=0, atol=0)
        assert back[name].absorbs_mean is moments.absorbs_mean
        assert back[name].output_count == moments.output_count
        assert back[name].input_count == moments.input_count


def test_a_strided_pointwise_layer_sees_every_second_position() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 6, 1, stride=2, bias=False)
    inputs = images(30).double()
    inputs[:, :, ::2, ::2] *= 3  # what the layer sees is unlike the rest
    found = collected(nn.Sequential(layer.double()), inputs)["0"]
    assert found.output_covariance is None  # the input's tells it
    assert found.input_covariance is not None
    weight = layer.weight.detach().flatten(1)
    outputs = layer(inputs).detach().movedim(1, 0).flatten(1)
    torch.testing.assert_close(weight @ found.input_covariance @ weight.T, torch.cov(outputs, correction=0))
    assert found.input_count == found.output_count == 30 * 16
