from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.engine.formats.cases import Case, conv, linear, rows
from torch import Tensor, nn

from diminuendo.engine.formats import FORMATS, get
from diminuendo.engine.plan import LayerSpec, PlanError
from diminuendo.engine.profile import profile

SVD = get("svd")
CASES = {
    "linear": linear(6, 9),
    "wide linear": linear(12, 5),
    "conv": conv(6, 5),
    "stem": conv(20, 1, bias=False),
    "1x1, stride 2": conv(7, 9, 1, stride=2, padding=0),
    "1x3, dilated": conv(4, 6, (1, 3), dilation=2),
}


@pytest.fixture(params=list(CASES.values()), ids=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


def at_rank(case: Case, rank: int) -> nn.Sequential:
    """The form at a rank, from the case's factors."""
    module = SVD.build(case.layer, (rank,))
    SVD.load(module, SVD.factor(case.spec, case.weight, case.bias, case.moments), (rank,))
    return module


def error(case: Case, module: nn.Module) -> float:
    """Mean squared error of a row of outputs."""
    return float((rows(module(case.inputs).detach()) - case.outputs()).pow(2).sum(dim=1).mean())


def test_cost_by_hand() -> None:
    # 3x3, 8 -> 16, rank 4, with bias, 10x10 outputs: 4*8*9 + 4*16 + 16 = 368.
    spec = LayerSpec("c", "conv2d", 16, 8, (3, 3), True, 100, 400)
    assert SVD.cost(spec, (4,)).params == 368
    assert SVD.cost(spec, (4,)).macs == 36_800
    # 96 -> 10, rank 3, no bias: 3 * (96 + 10).
    assert SVD.cost(LayerSpec("f", "linear", 10, 96, (1, 1), False, 1, 1), (3,)).macs == 318


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
    values = torch.linalg.eigvalsh(case.moments.output_covariance).flip(0)
    factors = SVD.factor(case.spec, case.weight, case.bias, case.moments)
    for rank in range(1, top):
        found = error(case, at_rank(case, rank))
        if case.spec.bias:
            assert found == pytest.approx(float(values[rank:].sum()), rel=1e-9)
        assert SVD.energy(factors, (rank,)) == pytest.approx(float(values[rank:].sum() / values.sum()), rel=1e-7)


def test_the_mean_stays_where_it_was(case: Case) -> None:
    if case.spec.bias:
        mean = rows(at_rank(case, 2)(case.inputs)).mean(dim=0)
        torch.testing.assert_close(mean, case.outputs().mean(dim=0), atol=1e-10, rtol=0)


def test_without_a_place_for_the_mean_the_projection_is_about_zero() -> None:
    case = conv(6, 5, bias=False, absorbs_mean=False)
    outputs = case.outputs()
    values = torch.linalg.eigvalsh(outputs.T @ outputs / len(outputs)).flip(0)
    assert error(case, at_rank(case, 3)) == pytest.approx(float(values[3:].sum()), rel=1e-9)


def test_it_agrees_with_the_whitened_svd() -> None:
    # Independently: W' = the best rank r of W S in the usual norm, times S^-1, where S S^T = E[x x^T].
    case = linear(8, 6, bias=False, absorbs_mean=False)
    root = torch.linalg.cholesky(case.inputs.T @ case.inputs / len(case.inputs))
    left, values, right = torch.linalg.svd(case.weight @ root, full_matrices=False)
    for rank in range(1, 6):
        whitened = torch.linalg.solve_triangular(
            root, (left[:, :rank] * values[:rank]) @ right[:rank], upper=False, left=False
        )
        module = at_rank(case, rank)
        product = module.get_parameter("1.weight") @ module.get_parameter("0.weight")
        torch.testing.assert_close(product.detach(), whitened, atol=1e-9, rtol=0)


def test_it_beats_the_plain_svd_on_the_data() -> None:
    case = conv(6, 5, bias=False, absorbs_mean=False)
    left, values, right = torch.linalg.svd(case.weight.flatten(1), full_matrices=False)
    for rank in range(1, 6):
        plain = (left[:, :rank] * values[:rank]) @ right[:rank]
        outputs = nn.functional.conv2d(case.inputs, plain.reshape(case.weight.shape), padding=1)
        plain_error = float((rows(outputs) - case.outputs()).pow(2).sum(dim=1).mean())
        assert error(case, at_rank(case, rank)) < plain_error


def test_factors_are_the_same_every_time_and_their_signs_are_fixed(case: Case) -> None:
    first = SVD.factor(case.spec, case.weight, case.bias, case.moments)
    again = SVD.factor(case.spec, case.weight.clone(), case.bias, case.moments)
    assert all(torch.equal(first[name], again[name]) for name in first)
    left = first["left"]
    assert bool((left.gather(0, left.abs().argmax(dim=0, keepdim=True)) > 0).all())


def test_factors_have_the_weights_dtype() -> None:
    case = conv(6, 5)
    factors = SVD.factor(case.spec, case.weight.float(), None, case.moments)
    assert factors["left"].dtype == factors["right"].dtype == torch.float32
    assert factors["spectrum"].dtype == torch.float64


@pytest.mark.parametrize("dead", ["weight", "data"])
def test_zero_weights_and_constant_data_are_no_error(dead: str) -> None:
    case = conv(6, 5)
    if dead == "weight":
        nn.init.zeros_(case.layer.weight)
    inputs = torch.ones_like(case.inputs) if dead == "data" else case.inputs
    layer, spec = case.layer, case.spec
    zeros = torch.zeros(6, 6, dtype=torch.float64)
    still = dataclasses.replace(case.moments, output_covariance=zeros, output_mean=zeros[0])
    factors = SVD.factor(spec, layer.weight.detach(), layer.bias, still)
    assert SVD.energy(factors, (1,)) == 0.0
    assert SVD.ladder(spec, factors) == [(1,)]
    module = SVD.build(layer, (6,))
    SVD.load(module, factors, (6,))
    torch.testing.assert_close(module(inputs), layer(inputs), atol=1e-11, rtol=0)


def test_rank_deficient_weights_are_exact_at_their_rank() -> None:
    case = conv(6, 5)
    with torch.no_grad():
        case.layer.weight[3:] = case.layer.weight[:3] * 2.0
    outputs = rows(case.layer(case.inputs).detach()) - case.layer.bias.detach()  # type: ignore[union-attr]
    centred = outputs - outputs.mean(dim=0)
    moments = dataclasses.replace(
        case.moments, output_mean=outputs.mean(dim=0), output_covariance=centred.T @ centred / len(centred)
    )
    deficient = dataclasses.replace(case, moments=moments)
    assert error(deficient, at_rank(deficient, 3)) < 1e-20
    assert SVD.ladder(case.spec, SVD.factor(case.spec, case.weight, case.bias, moments)) == [(1,), (2,), (3,)]


def test_the_ladder_is_nested_cheaper_than_dense_and_short() -> None:
    spec = LayerSpec("c", "conv2d", 256, 256, (3, 3), False, 1, 1)
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
    with pytest.raises(PlanError, match=r"unknown format 'tt'; known: dense, svd, tucker2"):
        get("tt")
    assert list(FORMATS) == ["svd", "tucker2"]


def resized(case: Case, module: nn.Module, rank: int) -> nn.Sequential:
    """A module at another rank, warm-started from a tuned one."""
    child = SVD.build(case.layer, (rank,))
    factors = SVD.factor(case.spec, case.weight, case.bias, case.moments)
    child.load_state_dict(SVD.resize(module.state_dict(), (rank,), factors))
    return child


def tune(module: nn.Module, amount: float, seed: int = 3) -> nn.Module:
    """Change all weights at random by a share of their spread."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
            weight.add_(amount * weight.abs().mean() * noise)
    return module


def test_growing_keeps_the_tuned_function_and_can_learn(case: Case) -> None:
    parent = tune(at_rank(case, 2), 0.5)
    child = resized(case, parent, 4)
    torch.testing.assert_close(child(case.inputs), parent(case.inputs), atol=1e-11, rtol=0)
    child(case.inputs).pow(2).sum().backward()
    gradient = child.get_parameter("1.weight").grad
    assert isinstance(gradient, Tensor)
    assert bool((gradient[:, 2:].abs().amax(dim=0) > 0).all())


def test_shrinking_untuned_factors_is_slicing_them(case: Case) -> None:
    (top,) = SVD.max_ranks(case.spec)
    child = resized(case, at_rank(case, top), 2)
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
        lost = resized(case, parent, rank)(case.inputs).detach() - before
        assert float(lost.pow(2).sum(dim=1).mean()) == pytest.approx(float(values[rank:].sum()), rel=1e-8)
        torch.testing.assert_close(lost.mean(dim=0), torch.zeros(8, dtype=torch.float64), atol=1e-9, rtol=0)


def test_shrinking_tuned_factors_beats_the_svd_of_their_product() -> None:
    case = conv(8, 6, seed=2)
    parent = tune(at_rank(case, 6), 0.2)
    before = rows(parent(case.inputs).detach())
    outer, inner = parent.get_parameter("1.weight").detach(), parent.get_parameter("0.weight").detach()
    left, values, right = torch.linalg.svd(outer.flatten(1) @ inner.flatten(1), full_matrices=False)
    for rank in (1, 2, 3, 4):
        plain = ((left[:, :rank] * values[:rank]) @ right[:rank]).reshape(case.weight.shape)
        plain_out = rows(nn.functional.conv2d(case.inputs, plain, case.bias, padding=1))
        lost = rows(resized(case, parent, rank)(case.inputs).detach()) - before
        assert float(lost.pow(2).mean()) < float((plain_out - before).pow(2).mean())
