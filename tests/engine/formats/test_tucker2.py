from __future__ import annotations

import itertools

import pytest
import tensorly
import torch
from tensorly.decomposition import partial_tucker
from tensorly.tenalg import multi_mode_dot
from tests.engine.formats.cases import Case, conv, formed, linear, of, resized, tuned, white
from torch import Tensor, nn

from diminuendo.engine.formats import get
from diminuendo.engine.plan import Call, LayerSpec, PlanError
from diminuendo.engine.profile import profile

TUCKER2 = get("tucker2")
CASES = {
    "square": conv(6, 5),
    "stem": conv(20, 1, bias=False),
    "strided": conv(4, 7, stride=2),
    "wide input": conv(2, 25, bias=False),
    "1x3, dilated, unpadded": conv(5, 6, (1, 3), dilation=2, padding=0),
}


@pytest.fixture(params=list(CASES.values()), ids=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


def factors_of(case: Case) -> dict[str, Tensor]:
    return TUCKER2.factor(case.sides)


def at_ranks(case: Case, ranks: tuple[int, ...]) -> nn.Sequential:
    return formed(TUCKER2, case, ranks)


def halves(case: Case) -> tuple[int, ...]:
    return tuple(max(1, top // 2) for top in TUCKER2.max_ranks(case.spec))


def test_cost_by_hand() -> None:
    # 3x3, stride 2, 8 -> 16 on 20x20, ranks (3, 4), with bias: 8*3 at 400, 9*3*4 + 4*16 + 16 at 100 positions.
    spec = LayerSpec("c", "conv", 16, 8, (3, 3), True, calls=(Call(1, (20, 20), (10, 10)),))
    assert TUCKER2.cost(spec, (3, 4)).params == 24 + 108 + 64 + 16
    assert TUCKER2.cost(spec, (3, 4)).macs == 24 * 400 + (108 + 64 + 16) * 100


def test_cost_is_what_the_profiler_counts(case: Case) -> None:
    ranks = halves(case)
    figures = profile(at_ranks(case, ranks), case.inputs[:1], time=False)
    assert TUCKER2.cost(case.spec, ranks).params == figures.params
    assert TUCKER2.cost(case.spec, ranks).macs == figures.macs


def test_full_ranks_are_the_layer_itself(case: Case) -> None:
    module = at_ranks(case, TUCKER2.max_ranks(case.spec))
    torch.testing.assert_close(module(case.inputs), case.layer(case.inputs), atol=1e-10, rtol=0)


def test_the_kernel_is_the_tucker_product_that_tensorly_makes(case: Case) -> None:
    with tensorly.backend_context("pytorch", local_threadsafe=True):
        r_in, r_out = halves(case)
        factors = factors_of(case)
        core = factors["core"][:r_out, :r_in]
        sides = [factors["output"][:, :r_out], factors["input"][:r_in].T]
        kernel = multi_mode_dot(core, sides, modes=[0, 1])
    layer = case.layer
    assert isinstance(layer, nn.Conv2d)
    expected = nn.functional.conv2d(case.inputs, kernel, None, layer.stride, layer.padding, layer.dilation)
    bare = at_ranks(case, (r_in, r_out))
    if case.bias is not None:
        nn.init.zeros_(bare.get_parameter("2.bias"))
    torch.testing.assert_close(bare(case.inputs), expected, atol=1e-10, rtol=0)


def test_at_full_input_rank_the_output_side_is_svds_optimum(case: Case) -> None:
    top_in, top_out = TUCKER2.max_ranks(case.spec)
    values = torch.linalg.eigvalsh(case.outputs().T.cov(correction=0)).flip(0)
    for rank in range(1, top_out):
        share = float(values[rank:].sum() / values.sum())
        assert case.share(at_ranks(case, (top_in, rank))) == pytest.approx(share, rel=1e-8)
        assert TUCKER2.energy(factors_of(case), (top_in, rank)) == pytest.approx(share, rel=1e-7)


def test_the_input_side_is_the_optimum_for_the_stacked_kernel() -> None:
    # Independently: the whitened SVD of the kernel stacked to (K O, I) under the input channels' covariance.
    case = conv(4, 7, bias=False)
    stacked = case.weight.permute(0, 2, 3, 1).reshape(-1, 7)
    root = torch.linalg.cholesky(case.rows(case.inputs).T.cov(correction=0))
    left, values, right = torch.linalg.svd(stacked @ root, full_matrices=False)
    factors = factors_of(case)
    torch.testing.assert_close(factors["input_spectrum"], values.square(), rtol=1e-9, atol=0)
    for rank in range(1, 7):
        best = torch.linalg.solve_triangular(
            root, (left[:, :rank] * values[:rank]) @ right[:rank], upper=False, left=False
        )
        kernel = torch.einsum("or,rjkl,ji->oikl", factors["output"], factors["core"][:, :rank], factors["input"][:rank])
        torch.testing.assert_close(kernel.permute(0, 2, 3, 1).reshape(-1, 7), best, atol=1e-9, rtol=0)


def test_the_mean_stays_where_it_was_away_from_borders() -> None:
    # Every window has the same mean when all positions have.
    layer = nn.Conv2d(6, 5, 3, dtype=torch.float64)
    case = of(layer)
    flat = case.inputs.mean(dim=(2, 3), keepdim=True).expand(-1, -1, 8, 8).contiguous()
    case = Case(case.spec, layer, flat, case.moments).retaken()
    for ranks in ((1, 1), (3, 2), (2, 4)):
        mean = case.rows(at_ranks(case, ranks)(flat).detach()).mean(dim=0)
        torch.testing.assert_close(mean, case.outputs().mean(dim=0), atol=1e-10, rtol=0)


def test_on_white_noise_it_is_tensorlys_partial_tucker() -> None:
    # HOSVD is where its iterations start; ours are the same subspaces, so the first reconstruction is the same.
    layer = conv(6, 5).layer
    factors = TUCKER2.factor(white(layer).sides)
    kernel = layer.get_parameter("weight").detach()
    with tensorly.backend_context("pytorch", local_threadsafe=True):
        for r_in, r_out in ((2, 3), (4, 2), (5, 6)):
            (_, (output, inner)), _ = partial_tucker(kernel, rank=[r_out, r_in], modes=[0, 1], n_iter_max=0, init="svd")
            ours = factors["output"][:, :r_out], factors["input"][:r_in].T
            for own, theirs in zip(ours, (output, inner), strict=True):
                basis = torch.linalg.qr(own).Q
                torch.testing.assert_close(basis @ basis.T, theirs @ theirs.T, atol=1e-10, rtol=0)


def test_energy_is_what_both_sides_lose_together() -> None:
    factors = {
        "output_spectrum": torch.tensor([8.0, 2.0], dtype=torch.float64),
        "input_spectrum": torch.tensor([6.0, 3.0, 1.0], dtype=torch.float64),
    }
    assert TUCKER2.energy(factors, (3, 2)) == 0.0
    assert TUCKER2.energy(factors, (1, 1)) == pytest.approx(1 - 0.6 * 0.8)
    assert TUCKER2.energy(factors, (2, 2)) == pytest.approx(0.1)


def test_the_ladder_is_nested_cheaper_than_dense_and_drops_ever_less() -> None:
    case = conv(40, 30)
    factors = factors_of(case)
    ladder = TUCKER2.ladder(case.spec, factors)
    assert ladder[0] == (1, 1)
    assert len(ladder) == 32
    for (low_in, low_out), (high_in, high_out) in itertools.pairwise(ladder):
        assert low_in <= high_in
        assert low_out <= high_out
    params = [TUCKER2.cost(case.spec, ranks).params for ranks in ladder]
    assert params == sorted(set(params))
    assert params[-1] < 40 * 30 * 9 + 40
    energies = [TUCKER2.energy(factors, ranks) for ranks in ladder]
    assert energies == sorted(energies, reverse=True)


def test_the_ladder_is_near_the_best_pairs_of_ranks() -> None:
    case = conv(12, 10)
    factors = factors_of(case)
    every = [(i, o) for i in range(1, 11) for o in range(1, 13)]
    for ranks in TUCKER2.ladder(case.spec, factors)[2:]:
        budget = TUCKER2.cost(case.spec, ranks).params
        best = min(TUCKER2.energy(factors, pair) for pair in every if TUCKER2.cost(case.spec, pair).params <= budget)
        assert TUCKER2.energy(factors, ranks) <= 1.35 * best + 1e-12


def test_it_has_no_form_of_1x1_and_linear_layers() -> None:
    assert not TUCKER2.supports(conv(4, 4, 1, padding=0).spec)
    assert not TUCKER2.supports(linear(4, 4).spec)
    with pytest.raises(PlanError, match=r"tucker2 rank 9 of \[2, 9\] is out of range; legal: 1\.\.5 x 1\.\.6"):
        TUCKER2.cost(conv(6, 5).spec, (2, 9))


def relative_loss(case: Case, module: nn.Module, reference: nn.Module) -> float:
    """Share of the reference's output variance that a module loses."""
    outputs = case.rows(reference(case.inputs).detach())
    lost = case.rows(module(case.inputs).detach()) - outputs
    return float(lost.pow(2).sum() / (outputs - outputs.mean(dim=0)).pow(2).sum())


def test_growing_either_side_or_both_keeps_the_tuned_function(case: Case) -> None:
    low, top = halves(case), TUCKER2.max_ranks(case.spec)
    parent = tuned(at_ranks(case, low))
    for ranks in (top, (low[0], top[1]), (top[0], low[1])):
        child = resized(TUCKER2, case, parent, ranks)
        torch.testing.assert_close(child(case.inputs), parent(case.inputs), atol=1e-10, rtol=0)


def test_grown_directions_can_learn() -> None:
    case = conv(6, 5)
    child = resized(TUCKER2, case, tuned(at_ranks(case, (2, 3))), (4, 5))
    child(case.inputs).pow(2).sum().backward()
    core, last = child.get_parameter("1.weight").grad, child.get_parameter("2.weight").grad
    assert isinstance(core, Tensor)
    assert isinstance(last, Tensor)
    assert bool((core[:3, 2:].abs() > 0).all())
    assert bool((last[:, 3:].abs() > 0).all())


def test_shrinking_the_output_of_untuned_factors_is_slicing_them(case: Case) -> None:
    top_in, top_out = TUCKER2.max_ranks(case.spec)
    child = resized(TUCKER2, case, at_ranks(case, (top_in, top_out)), (top_in, max(1, top_out // 2)))
    sliced = at_ranks(case, (top_in, max(1, top_out // 2)))
    torch.testing.assert_close(child(case.inputs), sliced(case.inputs), atol=1e-8, rtol=0)


def test_shrinking_both_sides_of_tuned_factors_beats_hosvd_of_the_tuned_kernel() -> None:
    case = conv(10, 8, bias=False)
    parent = tuned(at_ranks(case, (7, 8)), 0.1)
    first, core, last = (parent.get_parameter(f"{i}.weight").detach() for i in range(3))
    kernel = torch.einsum("or,rjkl,ji->oikl", last[:, :, 0, 0], core, first[:, :, 0, 0])
    left = torch.linalg.svd(kernel.flatten(1), full_matrices=False)[0]
    right = torch.linalg.svd(kernel.transpose(0, 1).flatten(1), full_matrices=False)[0]
    for r_in, r_out in ((2, 2), (3, 4), (5, 5)):
        out, inp = left[:, :r_out] @ left[:, :r_out].T, right[:, :r_in] @ right[:, :r_in].T
        plain = nn.Conv2d(8, 10, 3, padding=1, bias=False, dtype=torch.float64)
        plain.weight.data.copy_(torch.einsum("op,pjkl,ji->oikl", out, kernel, inp))
        ours = resized(TUCKER2, case, parent, (r_in, r_out))
        ours_out, plain_out = (
            case.rows(m(case.inputs).detach()) - case.rows(parent(case.inputs).detach()) for m in (ours, plain)
        )
        # Without a bias, BatchNorm follows: means are no loss.
        ours_out, plain_out = ours_out - ours_out.mean(dim=0), plain_out - plain_out.mean(dim=0)
        assert float(ours_out.pow(2).sum()) < float(plain_out.pow(2).sum())


def test_one_side_may_shrink_while_the_other_grows() -> None:
    case = conv(6, 5)
    parent = at_ranks(case, (3, 3))
    child = resized(TUCKER2, case, parent, (5, 2))
    expected = resized(TUCKER2, case, parent, (3, 2))
    torch.testing.assert_close(child(case.inputs), expected(case.inputs), atol=1e-10, rtol=0)
    child = resized(TUCKER2, case, parent, (2, 6))
    expected = resized(TUCKER2, case, parent, (2, 3))
    torch.testing.assert_close(child(case.inputs), expected(case.inputs), atol=1e-10, rtol=0)


def test_an_input_rank_above_what_the_output_lets_through_is_padded() -> None:
    # One output channel of a 1x3 kernel can see at most 3 input directions.
    case = conv(4, 8, (1, 3), bias=False)
    child = resized(TUCKER2, case, at_ranks(case, (8, 4)), (6, 1))
    assert child.get_parameter("0.weight").shape == (6, 8, 1, 1)
    sliced = at_ranks(case, (8, 1))
    assert relative_loss(case, child, sliced) < 1e-12
