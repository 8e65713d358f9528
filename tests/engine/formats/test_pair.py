"""`svd_input` and `spatial`; what they share with `svd` is in test_svd.py and test_forms.py."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.engine.formats.cases import Case, conv, formed, of, white
from torch import Tensor, nn

from diminuendo.engine.formats import get
from diminuendo.engine.plan import Call, LayerSpec

SVD_INPUT, SPATIAL = get("svd_input"), get("spatial")


def test_costs_by_hand() -> None:
    # 3x3, stride 2, 8 -> 16 on 20x20, rank 4, with bias: 8*4 at 400 positions, 4*16*9 + 16 at 100.
    spec = LayerSpec("c", "conv", 16, 8, (3, 3), True, calls=(Call(1, (20, 20), (10, 10)),))
    assert SVD_INPUT.cost(spec, (4,)).params == 32 + 576 + 16
    assert SVD_INPUT.cost(spec, (4,)).macs == 32 * 400 + 592 * 100
    # Spatial at rank 5: 8*3*5 at 10x20 positions, for the first axis strides first; 5*3*16 + 16 at 10x10.
    assert SPATIAL.cost(spec, (5,)).params == 120 + 240 + 16
    assert SPATIAL.cost(spec, (5,)).macs == 120 * 200 + 256 * 100
    # Transposed 4x4, stride 2, 8 -> 6 on 3x3: 8*4*5 for each of 9 inputs, 5*4*6 for each of 6x3 between.
    spec = LayerSpec("t", "conv_transpose", 6, 8, (4, 4), calls=(Call(1, (3, 3), (6, 6)),))
    assert SPATIAL.cost(spec, (5,)).macs == 160 * 9 + 120 * 18


def test_the_highest_rank_is_the_smaller_side() -> None:
    spec = LayerSpec("c", "conv", 4, 50, (3, 5))
    assert SVD_INPUT.max_ranks(spec) == (50,)
    assert SVD_INPUT.max_ranks(dataclasses.replace(spec, out_channels=3)) == (45,)
    assert SPATIAL.max_ranks(spec) == (20,)  # 4 * 5 against 50 * 3
    # Three axes: the first against the other two.
    assert SPATIAL.max_ranks(LayerSpec("c", "conv", 4, 50, (3, 2, 2))) == (16,)


def test_on_white_noise_svd_input_is_the_svd_of_the_kernel_stacked_over_its_elements() -> None:
    layer = conv(6, 5).layer
    kernel = layer.get_parameter("weight").detach()
    stacked = kernel.permute(0, 2, 3, 1).reshape(-1, 5)
    left, values, right = torch.linalg.svd(stacked, full_matrices=False)
    case = white(layer)
    factors = SVD_INPUT.factor(case.sides)
    torch.testing.assert_close(factors["spectrum"], values.square(), rtol=1e-10, atol=0)
    for rank in range(1, 5):
        cut = SVD_INPUT.cut(factors, (rank,))
        product = torch.einsum("orab,ri->oabi", cut.weights[1], cut.weights[0].flatten(1)).reshape(-1, 5)
        torch.testing.assert_close(product, (left[:, :rank] * values[:rank]) @ right[:rank], atol=1e-10, rtol=0)


def test_svd_inputs_optimum_is_the_whitened_svd_of_the_stacked_kernel() -> None:
    case = conv(4, 7, bias=False)
    stacked = case.weight.permute(0, 2, 3, 1).reshape(-1, 7)
    root = torch.linalg.cholesky(case.rows(case.inputs).T.cov(correction=0))
    left, values, right = torch.linalg.svd(stacked @ root, full_matrices=False)
    factors = SVD_INPUT.factor(case.sides)
    for rank in range(1, 7):
        best = torch.linalg.solve_triangular(
            root, (left[:, :rank] * values[:rank]) @ right[:rank], upper=False, left=False
        )
        cut = SVD_INPUT.cut(factors, (rank,))
        product = torch.einsum("orab,ri->oabi", cut.weights[1], cut.weights[0].flatten(1)).reshape(-1, 7)
        torch.testing.assert_close(product, best, atol=1e-10, rtol=0)


@pytest.mark.parametrize("channels", [(6, 5), (3, 12)])
def test_on_white_noise_spatial_is_the_svd_of_the_reshaped_kernel(channels: tuple[int, int]) -> None:
    # Rows: outputs and the second axis; columns: inputs and the first.
    layer = conv(*channels, kernel=(3, 2)).layer
    kernel = layer.get_parameter("weight").detach()  # (O, I, 3, 2)
    matrix = kernel.permute(0, 3, 1, 2).reshape(channels[0] * 2, channels[1] * 3)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    factors = SPATIAL.factor(white(layer).sides)
    torch.testing.assert_close(factors["spectrum"], values.square(), rtol=1e-9, atol=1e-12)
    for rank in range(1, len(values)):
        first, second = SPATIAL.cut(factors, (rank,)).weights
        product = torch.einsum("orxb,riax->oiab", second, first)
        expected = ((left[:, :rank] * values[:rank]) @ right[:rank]).reshape(channels[0], 2, channels[1], 3)
        torch.testing.assert_close(product, expected.permute(0, 2, 3, 1), atol=1e-9, rtol=0)


def test_spatials_optimum_is_the_whitened_svd_under_the_covariance_of_windows() -> None:
    # Independently: windows of the padded images along the first axis, their covariance, and its root.
    case = conv(4, 3, bias=False, padding=1)
    centred = case.inputs - case.inputs.mean(dim=(0, 2, 3), keepdim=True)
    first = _window_moment(centred)
    root = torch.linalg.cholesky(first)
    matrix = case.weight.permute(0, 3, 1, 2).reshape(12, 9)
    left, values, right = torch.linalg.svd(matrix @ root, full_matrices=False)
    factors = SPATIAL.factor(case.sides)
    torch.testing.assert_close(factors["spectrum"], values.square(), rtol=1e-8, atol=1e-12)
    for rank in (1, 4, 8):
        one, two = SPATIAL.cut(factors, (rank,)).weights
        product = torch.einsum("orxb,riax->obia", two, one).reshape(12, 9)
        best = torch.linalg.solve_triangular(
            root, (left[:, :rank] * values[:rank]) @ right[:rank], upper=False, left=False
        )
        torch.testing.assert_close(product, best, atol=1e-8, rtol=0)


def _window_moment(images: Tensor) -> Tensor:
    """(I 3, I 3): what a position has in common with those 0, 1, 2 further down, zero beyond the border."""
    count, channels = images.shape[0] * 64, images.shape[1]
    lag = [torch.einsum("nihw,njhw->ij", images[:, :, : 8 - s], images[:, :, s:]) / count for s in range(3)]
    moment = torch.empty(channels, 3, channels, 3, dtype=torch.float64)
    for a in range(3):
        for b in range(3):
            moment[:, a, :, b] = lag[b - a] if b >= a else lag[a - b].T
    return moment.reshape(channels * 3, channels * 3)


def test_windows_along_the_first_axis_count_by_how_they_hang_together() -> None:
    # Columns that are constant down the image: every kernel along the first axis only has its sum that matters.
    layer = nn.Conv2d(3, 8, 3, padding=0, bias=False, dtype=torch.float64)
    case = of(layer)
    striped = case.inputs[:, :, :1].expand(-1, -1, 8, -1).contiguous()
    case = Case(case.spec, layer, striped, case.moments).retaken()
    with_lags = formed(SPATIAL, case, (3,))
    bare = dataclasses.replace(case, moments=dataclasses.replace(case.moments, input_lags=None))
    assert case.share(with_lags) < 0.6 * case.share(formed(SPATIAL, bare, (3,)))


def test_a_mean_that_a_bias_takes_up_stays_where_it_was() -> None:
    case = conv(5, 6, padding=0)
    flat = case.inputs.mean(dim=(2, 3), keepdim=True).expand(-1, -1, 8, 8).contiguous()
    case = Case(case.spec, case.layer, flat, case.moments).retaken()
    for form in (SVD_INPUT, SPATIAL):
        mean = case.rows(formed(form, case, (2,))(flat)).mean(dim=0)
        torch.testing.assert_close(mean, case.outputs().mean(dim=0), atol=1e-9, rtol=0)


def test_a_transposed_convolutions_mean_is_that_of_the_share_of_the_kernel_that_outputs_see() -> None:
    # 2x2 with stride 2: one element of the kernel on each output, so a quarter of the kernel's sum on average.
    layer = nn.ConvTranspose2d(6, 5, 2, stride=2, dtype=torch.float64)
    case = of(layer, (4, 4))
    for form in (SVD_INPUT, SPATIAL, get("tucker2"), get("tt"), get("cp")):
        ranks = (3,) * len(form.max_ranks(case.spec))
        mean = case.rows(formed(form, case, ranks)(case.inputs)).mean(dim=0)
        torch.testing.assert_close(mean, case.outputs().mean(dim=0), atol=1e-9, rtol=0)
