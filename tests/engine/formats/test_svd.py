from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.engine.formats.cases import Case, conv, formed, linear, of, resized, tuned
from torch import Tensor, nn

from diminuendo.engine.formats import FORMATS, get
from diminuendo.engine.plan import FORMAT_NAMES, Call, LayerSpec, PlanError
from diminuendo.engine.profile import profile

SVD = get("svd")
CASES = {
    "linear": linear(6, 9),
    "wide linear": linear(12, 5),
    "conv": conv(6, 5),
    "stem": conv(20, 1, bias=False),
    "1x1, stride 2": conv(7, 9, 1, stride=2, padding=0),
    "1x3, dilated": conv(4, 6, (1, 3), dilation=2),
    "conv1d": of(nn.Conv1d(5, 8, 3, dtype=torch.float64), (11,)),
    "transposed": of(nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, dtype=torch.float64), (5, 4)),
}


@pytest.fixture(params=list(CASES.values()), ids=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


def at_rank(case: Case, rank: int) -> nn.Sequential:
    return formed(SVD, case, (rank,))


def variances(case: Case) -> Tensor:
    """Independently of `Moments`: eigenvalues of the covariance of the outputs, descending."""
    values: Tensor = torch.linalg.eigvalsh(case.outputs().T.cov(correction=0))
    return values.flip(0)


def test_cost_by_hand() -> None:
    # 3x3, 8 -> 16, rank 4, with bias, 10x10 outputs: 4*8*9 + 4*16 + 16 = 368.
    spec = LayerSpec("c", "conv", 16, 8, (3, 3), True, calls=(Call(1, (20, 20), (10, 10)),))
    assert SVD.cost(spec, (4,)).params == 368
    assert SVD.cost(spec, (4,)).macs == 36_800
    # 96 -> 10, rank 3, no bias, for 7 rows: 3 * (96 + 10).
    assert SVD.cost(LayerSpec("f", "linear", 10, 96, calls=(Call(7),)), (3,)).macs == 7 * 318
    # Of 4 groups each 2 -> 4 at rank 2: 4 * (2*2*9 + 2*4); called twice.
    spec = LayerSpec("g", "conv", 16, 8, (3, 3), groups=4, calls=(Call(2, (5, 5), (5, 5)),))
    assert SVD.cost(spec, (2,)).params == 176
    assert SVD.cost(spec, (2,)).macs == 2 * 25 * 176
    # Transposed 2x2, stride 2, 8 -> 6 at rank 3: 4*8*3 for each of 9 inputs; 3*6 and the bias for each of 36 outputs.
    spec = LayerSpec("t", "conv_transpose", 6, 8, (2, 2), True, calls=(Call(1, (3, 3), (6, 6)),))
    assert SVD.cost(spec, (3,)).macs == 96 * 9 + (18 + 6) * 36


def test_cost_is_what_the_profiler_counts(case: Case) -> None:
    module = at_rank(case, 2)
    figures = profile(module, case.inputs[:1], time=False)
    assert SVD.cost(case.spec, (2,)).params == figures.params
    assert SVD.cost(case.spec, (2,)).macs == figures.macs


def test_full_rank_is_the_layer_itself(case: Case) -> None:
    (top,) = SVD.max_ranks(case.spec)
    torch.testing.assert_close(at_rank(case, top)(case.inputs), case.layer(case.inputs), atol=1e-11, rtol=0)


def test_the_residual_is_the_sum_of_the_dropped_eigenvalues(case: Case) -> None:
    (top,) = SVD.max_ranks(case.spec)
    values = variances(case)
    factors = SVD.factor(case.sides)
    for rank in range(1, top):
        if case.spec.bias:
            assert case.error(at_rank(case, rank)) == pytest.approx(float(values[rank:].sum()), rel=1e-8)
        assert SVD.energy(factors, (rank,)) == pytest.approx(float(values[rank:].sum() / values.sum()), rel=1e-7)


def test_the_mean_stays_where_it_was(case: Case) -> None:
    if case.spec.bias:
        mean = case.rows(at_rank(case, 2)(case.inputs)).mean(dim=0)
        torch.testing.assert_close(mean, case.outputs().mean(dim=0), atol=1e-10, rtol=0)


def test_without_a_place_for_the_mean_the_projection_is_about_zero() -> None:
    case = conv(6, 5, bias=False, absorbs_mean=False)
    outputs = case.outputs()
    values = torch.linalg.eigvalsh(outputs.T @ outputs / len(outputs)).flip(0)
    assert case.error(at_rank(case, 3)) == pytest.approx(float(values[3:].sum()), rel=1e-9)


@pytest.mark.parametrize("out", [4, 6, 9])
def test_it_agrees_with_the_whitened_svd(out: int) -> None:
    # Independently: W' = the best rank r of W S in the usual norm, times S^-1, where S S^T = E[x x^T].
    case = linear(out, 6, bias=False, absorbs_mean=False)
    root = torch.linalg.cholesky(case.inputs.T @ case.inputs / len(case.inputs))
    left, values, right = torch.linalg.svd(case.weight @ root, full_matrices=False)
    for rank in range(1, min(out, 6)):
        whitened = torch.linalg.solve_triangular(
            root, (left[:, :rank] * values[:rank]) @ right[:rank], upper=False, left=False
        )
        module = at_rank(case, rank)
        product = module.get_parameter("1.weight") @ module.get_parameter("0.weight")
        torch.testing.assert_close(product.detach(), whitened, atol=1e-10, rtol=0)


def test_it_beats_the_plain_svd_on_the_data() -> None:
    case = conv(6, 5, bias=False, absorbs_mean=False)
    left, values, right = torch.linalg.svd(case.weight.flatten(1), full_matrices=False)
    for rank in range(1, 6):
        plain = (left[:, :rank] * values[:rank]) @ right[:rank]
        outputs = nn.functional.conv2d(case.inputs, plain.reshape(case.weight.shape), padding=1)
        plain_error = float((case.rows(outputs) - case.outputs()).pow(2).sum(dim=1).mean())
        assert case.error(at_rank(case, rank)) < plain_error


def test_rank_deficient_weights_are_exact_at_their_rank() -> None:
    case = conv(6, 5)
    weight = case.layer.get_parameter("weight")
    with torch.no_grad():
        weight[3:] = weight[:3] * 2.0
    deficient = case.retaken()
    assert deficient.error(at_rank(deficient, 3)) < 1e-20
    assert SVD.ladder(case.spec, SVD.factor(deficient.sides)) == [(1,), (2,), (3,)]


def test_the_ladder_is_nested_cheaper_than_dense_and_short() -> None:
    spec = LayerSpec("c", "conv", 256, 256, (3, 3), calls=())
    flat = {"spectrum": torch.ones(256, dtype=torch.float64)}
    ladder = SVD.ladder(spec, flat)
    assert ladder[0] == (1,)
    # 256 * 2304 / (2304 + 256) = 230.4.
    assert ladder[-1] == (230,)
    assert ladder == sorted(set(ladder))
    assert len(ladder) == 32


def test_ranks_out_of_range_are_named(case: Case) -> None:
    with pytest.raises(PlanError, match=r"svd rank 0 of \[0\] is out of range; legal: 1\.\."):
        SVD.cost(case.spec, (0,))
    with pytest.raises(PlanError, match=r"takes 1 rank\(s\), got \[1, 2\]"):
        SVD.cost(case.spec, (1, 2))


def test_unknown_formats_are_named() -> None:
    with pytest.raises(PlanError, match=r"unknown format 'lu'; known: dense, svd, svd_input, spatial, tucker2, cp, tt"):
        get("lu")
    assert tuple(FORMATS) == FORMAT_NAMES


def test_growing_keeps_the_tuned_function_and_can_learn(case: Case) -> None:
    parent = tuned(at_rank(case, 2))
    child = resized(SVD, case, parent, (4,))
    torch.testing.assert_close(child(case.inputs), parent(case.inputs), atol=1e-11, rtol=0)
    child(case.inputs).pow(2).sum().backward()
    gradient = child.get_parameter("1.weight").grad
    assert isinstance(gradient, Tensor)
    assert bool((gradient[:, 2:].abs().amax(dim=0) > 0).all())


def test_shrinking_untuned_factors_is_slicing_them(case: Case) -> None:
    (top,) = SVD.max_ranks(case.spec)
    child = resized(SVD, case, at_rank(case, top), (2,))
    torch.testing.assert_close(child(case.inputs), at_rank(case, 2)(case.inputs), atol=1e-9, rtol=0)


def test_shrinking_tuned_factors_is_optimal_on_the_data() -> None:
    # Tuned within the range of the stored map, its output on the data is known exactly, and so is the optimum.
    case = linear(8, 12)
    parent = at_rank(case, 6)
    generator = torch.Generator().manual_seed(5)
    mix = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        parent.get_parameter("0.weight").copy_(mix @ parent.get_parameter("0.weight"))
        parent.get_parameter("1.weight").normal_(generator=generator)
    before = parent(case.inputs).detach()
    centred = before - before.mean(dim=0)
    values = torch.linalg.eigvalsh(centred.T @ centred / len(centred)).flip(0)
    for rank in (1, 3, 5):
        lost = resized(SVD, case, parent, (rank,))(case.inputs).detach() - before
        assert float(lost.pow(2).sum(dim=1).mean()) == pytest.approx(float(values[rank:].sum()), rel=1e-8)
        torch.testing.assert_close(lost.mean(dim=0), torch.zeros(8, dtype=torch.float64), atol=1e-9, rtol=0)


def test_shrinking_tuned_factors_beats_the_svd_of_their_product() -> None:
    case = conv(8, 6, seed=2)
    parent = tuned(at_rank(case, 6), 0.2)
    before = parent(case.inputs).detach()
    outer, inner = parent.get_parameter("1.weight").detach(), parent.get_parameter("0.weight").detach()
    bias = parent.get_parameter("1.bias").detach()
    left, values, right = torch.linalg.svd(outer.flatten(1) @ inner.flatten(1), full_matrices=False)
    for rank in (1, 2, 3, 4):
        plain = ((left[:, :rank] * values[:rank]) @ right[:rank]).reshape(case.weight.shape)
        plain_out = nn.functional.conv2d(case.inputs, plain, bias, padding=1)
        lost = resized(SVD, case, parent, (rank,))(case.inputs).detach() - before
        assert float(lost.pow(2).mean()) < float((plain_out - before).pow(2).mean())


def test_groups_are_factored_each_by_itself() -> None:
    # Two groups are two layers: the same spectra, and at every rank the same output.
    grouped = of(nn.Conv2d(6, 8, 3, groups=2, dtype=torch.float64))
    factors = SVD.factor(grouped.sides)
    for group in range(2):
        alone = nn.Conv2d(3, 4, 3, dtype=torch.float64)
        weight, bias = grouped.layer.get_parameter("weight"), grouped.layer.get_parameter("bias")
        with torch.no_grad():
            alone.weight.copy_(weight[4 * group : 4 * group + 4])
            assert alone.bias is not None
            alone.bias.copy_(bias[4 * group : 4 * group + 4])
        case = Case(
            LayerSpec("a", "conv", 4, 3, (3, 3), True),
            alone,
            grouped.inputs[:, 3 * group : 3 * group + 3],
            grouped.moments,
        )
        case = case.retaken()
        torch.testing.assert_close(SVD.factor(case.sides)["spectrum"], factors["spectrum"][group])
        both = formed(SVD, grouped, (2,))(grouped.inputs)[:, 4 * group : 4 * group + 4]
        torch.testing.assert_close(both, at_rank(case, 2)(case.inputs), atol=1e-11, rtol=0)


def test_moments_may_be_replaced_without_their_layer() -> None:
    # A layer that the data never reach: nothing to choose by, and yet the whole layer at full rank.
    case = conv(6, 5)
    zeros = torch.zeros(6, 6, dtype=torch.float64)
    still = dataclasses.replace(case, moments=dataclasses.replace(case.moments, output_covariance=zeros))
    factors = SVD.factor(still.sides)
    assert SVD.energy(factors, (1,)) == 0.0
    assert SVD.ladder(case.spec, factors) == [(1,)]
    torch.testing.assert_close(formed(SVD, still, (6,))(case.inputs), case.layer(case.inputs), atol=1e-11, rtol=0)
