from __future__ import annotations

import pytest
import torch
from tests.engine.networks import fingerprint, images, small
from torch import Tensor, nn

from diminuendo.engine.formats import Moments
from diminuendo.engine.survey.discover import discover
from diminuendo.engine.survey.moments import collect, from_tensors, to_tensors
from diminuendo.engine.task import TaskError


def collected(model: nn.Module, inputs: Tensor, batch_size: int = 250) -> dict[str, Moments]:
    return collect(model, discover(model, inputs[:1]).layers, inputs, batch_size)


def test_moments_of_a_linear_layer_by_numpy() -> None:
    model, inputs = nn.Sequential(nn.Linear(4, 3)), torch.randn(50, 7, 4, dtype=torch.float64)
    model = model.double()
    found = collected(model, inputs)["0"]
    data = inputs.reshape(-1, 4)
    outputs = data @ model.get_parameter("0.weight").detach().T
    torch.testing.assert_close(found.input_mean, data.mean(dim=0))
    torch.testing.assert_close(found.input_covariance, torch.cov(data.T, correction=0))
    torch.testing.assert_close(found.output_mean, outputs.mean(dim=0))
    torch.testing.assert_close(found.output_covariance, torch.cov(outputs.T, correction=0))
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
        torch.testing.assert_close(whole[name].output_covariance, parts[name].output_covariance, atol=1e-6, rtol=1e-5)
        assert whole[name].output_count == parts[name].output_count


def test_a_mean_far_above_the_spread_loses_no_digits() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False, dtype=torch.float64))
    nn.init.eye_(model.get_parameter("0.weight"))
    small_part = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
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
        self.conv, self.norm = nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(self.conv(x)))  # type: ignore[no-any-return]


def test_every_call_must_go_into_a_batchnorm() -> None:
    found = collected(Shared(), images(4))["conv"]
    assert not found.absorbs_mean
    assert found.output_count == 2 * 4 * 64


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
        assert torch.equal(back[name].output_mean, moments.output_mean)
        assert torch.equal(back[name].output_covariance, moments.output_covariance)
        assert torch.equal(back[name].input_mean, moments.input_mean)
        assert torch.equal(back[name].input_covariance, moments.input_covariance)
        assert back[name].absorbs_mean is moments.absorbs_mean
        assert back[name].output_count == moments.output_count
        assert back[name].input_count == moments.input_count
