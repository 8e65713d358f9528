from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.engine.formats.cases import Case, conv, of
from torch import nn

from diminuendo.engine.formats.metric import Metric, position_moment, position_roots

F64 = torch.float64


def test_outputs_of_a_pointwise_layer_are_told_by_its_narrower_side() -> None:
    # 12 outputs of 5 inputs: only the input's covariance is taken, and W C W^T is the output's.
    wide = of(nn.Linear(5, 12, dtype=F64), (), batch=200)
    assert wide.moments.output_covariance is None
    values = torch.linalg.eigvalsh(wide.outputs().T.cov(correction=0)).flip(0)[:5]
    torch.testing.assert_close(wide.sides.outputs.spectrum, values, rtol=1e-9, atol=0)
    narrow = of(nn.Linear(12, 5, dtype=F64), (), batch=200)
    assert narrow.moments.input_covariance is None
    values = torch.linalg.eigvalsh(narrow.outputs().T.cov(correction=0)).flip(0)
    torch.testing.assert_close(narrow.sides.outputs.spectrum, values, rtol=1e-9, atol=0)


def test_about_zero_where_a_shift_would_stay() -> None:
    case = conv(6, 5, bias=False, absorbs_mean=False)
    outputs = case.outputs()
    values = torch.linalg.eigvalsh(outputs.T @ outputs / len(outputs)).flip(0)
    torch.testing.assert_close(case.sides.outputs.spectrum, values, rtol=1e-9, atol=1e-12)
    assert not case.sides.input_mean.any()
    assert not case.sides.output_mean.any()


@pytest.mark.parametrize("side", ["outputs", "inputs", "halves"])
def test_directions_are_orthonormal_descending_and_multiply_to_the_kernel(side: str) -> None:
    case = conv(4, 6, (3, 2))
    product = getattr(case.sides, side)
    eye = torch.eye(product.left.shape[1], dtype=F64)
    torch.testing.assert_close(product.left.T @ product.left, eye)
    assert product.spectrum.tolist() == sorted(product.spectrum.tolist(), reverse=True)
    kernel = case.weight
    expected = {
        "outputs": kernel.reshape(4, 36),
        "inputs": kernel.permute(0, 2, 3, 1).reshape(24, 6),
        "halves": kernel.permute(0, 3, 1, 2).reshape(8, 18),
    }[side]
    torch.testing.assert_close(product.left @ product.right, expected)


def test_the_mean_inside_is_the_mean_where_there_are_no_borders() -> None:
    layer = nn.Conv2d(6, 5, 3, dtype=F64)
    case = of(layer)
    flat = case.inputs.mean(dim=(2, 3), keepdim=True).expand(-1, -1, 8, 8).contiguous()
    case = Case(case.spec, layer, flat, case.moments).retaken()
    torch.testing.assert_close(case.sides.inside_mean, case.sides.output_mean)


def test_only_transposed_convolutions_see_a_share_of_their_kernel() -> None:
    up = of(nn.ConvTranspose2d(6, 5, 2, stride=2, bias=True, dtype=F64), (4, 4))
    torch.testing.assert_close(up.sides.input_mean, up.moments.input_mean / 4)
    torch.testing.assert_close(up.sides.inside_mean, up.sides.output_mean)
    down = of(nn.Conv2d(6, 5, 2, stride=2, dtype=F64), (4, 4))
    torch.testing.assert_close(down.sides.input_mean, down.moments.input_mean)


def test_in_the_metric_squares_are_the_variance_of_white_data() -> None:
    # Uncorrelated positions, so the model is right: the tensor's square is the output's variance.
    generator = torch.Generator().manual_seed(0)
    case = of(nn.Conv2d(4, 5, 3, padding=0, dtype=F64))
    whole = torch.randn(400, 4, 5, 5, generator=generator, dtype=F64)
    mix = torch.randn(4, 4, generator=generator, dtype=F64)
    case = Case(case.spec, case.layer, torch.einsum("ij,njhw->nihw", mix, whole), case.moments).retaken()
    metric = Metric.of(case.sides, most=5)
    outputs = case.outputs()
    variance = float((outputs - outputs.mean(dim=0)).square().sum(dim=1).mean())
    assert metric.variance == pytest.approx(variance, rel=0.05)
    assert metric.dropped < 1e-6 * metric.variance


def test_what_the_metric_does_can_be_undone() -> None:
    case = conv(6, 5, (3, 2))
    metric = Metric.of(case.sides, most=5)
    whole = torch.einsum("ro,oKj,Kk,ij->rki", metric.outputs.T.T, metric.tensor, metric.positions.T, metric.inputs)
    torch.testing.assert_close(whole, case.weight.flatten(2).movedim(2, 1), atol=1e-9, rtol=0)


def test_positions_hang_together_along_each_axis_as_along_the_first() -> None:
    moment = position_moment(torch.tensor([1.0, 0.5, 0.25], dtype=F64), (3, 2))
    first = torch.tensor([[1.0, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 1.0]], dtype=F64)
    second = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=F64)
    torch.testing.assert_close(moment, torch.kron(first, second))
    root, inverse = position_roots(torch.tensor([1.0, 0.5, 0.25], dtype=F64), (3, 2))
    torch.testing.assert_close(root @ root.T, moment)
    torch.testing.assert_close(root.T @ inverse, torch.eye(6, dtype=F64))


def test_correlations_that_no_data_can_have_are_no_error() -> None:
    root, inverse = position_roots(torch.tensor([1.0, -0.9, -0.9], dtype=F64), (3, 3))
    assert bool(torch.isfinite(inverse).all())
    assert float(inverse.abs().max()) < 100
    assert float(root.abs().max()) < 10


def test_moments_in_float32_do_not_lower_the_precision() -> None:
    case = conv(6, 5)
    single = dataclasses.replace(case.moments, output_mean=case.moments.output_mean.float())
    assert Case(case.spec, case.layer, case.inputs, single).sides.output_mean.dtype == F64
