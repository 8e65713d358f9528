from __future__ import annotations

import itertools

import pytest
import tensorly
import torch
from tensorly.decomposition import parafac
from tests.engine.formats.cases import Case, conv, formed, of, resized, tuned, white
from torch import Tensor, nn

from diminuendo.engine.formats import Factors, get, rank_one
from diminuendo.engine.formats.cp import fitted_ranks
from diminuendo.engine.plan import Call, LayerSpec

CP, SVD = get("cp"), get("svd")


def kernel_at(factors: Factors, rank: int) -> Tensor:
    """The sum of components, by hand: (O, I, k_1, ...)."""
    inner, kernel, output = CP.cut(factors, (rank,)).weights
    return torch.einsum("or,ri,r...->oi...", output.flatten(1), inner.flatten(1), kernel[:, 0])


def planted(rank: int, seed: int = 0) -> nn.Conv2d:
    """A convolution whose kernel is a sum of that many random components."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Conv2d(9, 8, 3, padding=1, bias=False, dtype=torch.float64)
    sides = [torch.randn(n, rank, generator=generator, dtype=torch.float64) for n in (8, 9, 3, 3)]
    with torch.no_grad():
        layer.weight.copy_(torch.einsum("or,ir,ar,br->oiab", *sides))
    return layer


def test_cost_by_hand() -> None:
    # 3x3, stride 2, 8 -> 16 on 20x20, rank 5, with bias: 8*5 at 400 positions; 9*5, 5*16 + 16 at 100.
    spec = LayerSpec("c", "conv", 16, 8, (3, 3), True, calls=(Call(1, (20, 20), (10, 10)),))
    assert CP.cost(spec, (5,)).params == 40 + 45 + 80 + 16
    assert CP.cost(spec, (5,)).macs == 40 * 400 + (45 + 80 + 16) * 100
    assert CP.max_ranks(spec) == (72,)
    assert CP.max_ranks(LayerSpec("c", "conv", 4, 8, (3, 3))) == (36,)


def test_ranks_are_fitted_on_a_log_scale_up_to_the_channels_and_below_dense() -> None:
    ranks = fitted_ranks(LayerSpec("c", "conv", 128, 64, (3, 3)))
    assert (ranks[0], ranks[-1]) == (1, 128)
    assert len(ranks) <= 9
    assert all(b / a <= 2 for a, b in itertools.pairwise(ranks[1:]))
    # 512 x 512 x 9 x r <= 6e8: the fit of more would take too long.
    assert fitted_ranks(LayerSpec("c", "conv", 512, 512, (3, 3)))[-1] == 254
    # 12 * 1 * 9 = 108 params: 108 / (12 + 1 + 9) = 4.9.
    assert fitted_ranks(LayerSpec("c", "conv", 12, 1, (3, 3)))[-1] == 4
    assert fitted_ranks(LayerSpec("c", "conv", 1, 1, (2,))) == [1]


@pytest.mark.parametrize("rank", [1, 3])
def test_a_planted_sum_is_found_again(rank: int) -> None:
    layer = planted(rank)
    case = of_planted(layer)
    factors = CP.factor(case.sides)
    enough = next(r for (r,) in CP.ladder(case.spec, factors) if r >= rank)
    assert CP.energy(factors, (enough,)) < 1e-5
    weight = layer.weight.detach()
    lost = (kernel_at(factors, enough) - weight).square().sum() / weight.square().sum()
    assert float(lost) < 1e-4


def of_planted(layer: nn.Conv2d) -> Case:
    """On data, without drawing the weights anew."""
    weight = layer.weight.detach().clone()
    case = of(layer)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return case.retaken()


@pytest.mark.parametrize("channels", [(6, 5), (12, 8)])
def test_on_white_noise_it_is_as_good_as_tensorlys_parafac(channels: tuple[int, int]) -> None:
    layer = conv(*channels).layer
    kernel = layer.get_parameter("weight").detach()
    case = white(layer)
    factors = CP.factor(case.sides)
    tensor = kernel.flatten(2)
    for (rank,) in CP.ladder(case.spec, factors)[1:]:
        ours = float((kernel_at(factors, rank) - kernel).square().sum() / kernel.square().sum())
        assert CP.energy(factors, (rank,)) == pytest.approx(ours, rel=1e-6)
        with tensorly.backend_context("pytorch", local_threadsafe=True):
            best = min(
                float((tensorly.cp_to_tensor(_plain(tensor, rank, seed)) - tensor).square().sum()) for seed in range(3)
            )
        assert ours < 1.1 * best / float(kernel.square().sum())


@pytest.mark.parametrize("large", [False, True])
def test_alternations_are_those_of_tensorly(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.randn(9, 4, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tensor /= tensor.norm()
    output, kernel, inner = (part[:, :5] for part in rank_one.sliced(tensor))
    monkeypatch.setattr(rank_one, "_LARGE", 0 if large else 1e7)
    for count in (1, 7):
        ours = rank_one.total(rank_one._alternate(tensor, (output, kernel, inner), count))
        with tensorly.backend_context("pytorch", local_threadsafe=True):
            start = tensor.new_ones(5), [output, kernel, inner]
            theirs = parafac(tensor, 5, n_iter_max=count, init=start, tol=0, l2_reg=rank_one.RIDGE)
            torch.testing.assert_close(ours, tensorly.cp_to_tensor(theirs), rtol=0.0, atol=1e-5 if large else 1e-12)


def test_alternating_stops_where_it_gains_little_or_costs_much(monkeypatch: pytest.MonkeyPatch) -> None:
    solved: list[int] = []
    solve = torch.linalg.solve

    def counting(*args: object, **options: object) -> Tensor:
        solved.append(1)
        return solve(*args, **options)  # type: ignore[no-any-return]

    def sweeps(most: int, tolerance: float, work: float) -> int:
        solved.clear()
        monkeypatch.setattr(rank_one, "TOLERANCE", tolerance)
        monkeypatch.setattr(rank_one, "WORK", work)
        rank_one._alternate(tensor, start, most)
        return len(solved) // 3

    monkeypatch.setattr(torch.linalg, "solve", counting)
    tensor = torch.randn(9, 4, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tensor /= tensor.norm()
    output, kernel, inner = (part[:, :5] for part in rank_one.sliced(tensor))
    start = output, kernel, inner
    assert sweeps(60, 0.0, 1e10) == 60
    assert sweeps(60, 1.0, 1e10) == 2
    assert sweeps(60, 0.0, 40 * tensor.numel() * 5) == 40
    assert sweeps(60, 0.0, 0.0) == rank_one.ITERATIONS[0] == 15
    assert sweeps(3, 0.0, 0.0) == 3


def _plain(tensor: Tensor, rank: int, seed: int) -> object:
    return parafac(tensor, rank, n_iter_max=200, init="random", random_state=seed, tol=1e-9, l2_reg=1e-8)


def test_it_beats_the_same_sum_fitted_without_the_data() -> None:
    case = conv(12, 8, seed=4)
    factors, blind = CP.factor(case.sides), CP.factor(white(case.layer).sides)
    for (rank,) in CP.ladder(case.spec, factors):
        plain = nn.functional.conv2d(case.inputs, kernel_at(blind, rank), None, padding=1)
        lost = case.rows(plain) - (case.outputs() - (case.bias if case.bias is not None else 0.0))
        lost = lost - lost.mean(dim=0)
        outputs = case.outputs() - case.outputs().mean(dim=0)
        assert case.share(formed(CP, case, (rank,), factors)) < float(lost.square().sum() / outputs.square().sum())


def test_components_do_not_cancel_where_the_best_sum_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    # a a b + a b a + b a a is the limit of sums of two components that grow without bound (de Silva and Lim 2008).
    a, b = torch.eye(2, dtype=torch.float64)
    hard = torch.stack([torch.einsum("i,j,k->ijk", *which) for which in ((a, a, b), (a, b, a), (b, a, a))]).sum(dim=0)

    def largest(parts: rank_one.Sum) -> float:
        return float(torch.stack([part.norm(dim=0) for part in parts]).prod(dim=0).max() / hard.norm())

    parts = rank_one.fit(hard, 2, rank_one.sliced(hard))
    assert float((rank_one.total(parts) - hard).square().sum() / hard.square().sum()) < 0.01
    monkeypatch.setattr(rank_one, "TOLERANCE", 0)
    monkeypatch.setattr(rank_one, "ITERATIONS", range(4000, 4001))
    bounded = largest(rank_one.refit(hard, parts))
    assert bounded < 2.5  # however long it takes
    monkeypatch.setattr(rank_one, "RIDGE", 0)
    assert largest(rank_one.refit(hard, parts)) > 1.5 * bounded  # what the ridge is there for


def test_the_three_norms_of_a_component_are_equal_and_the_largest_comes_first() -> None:
    factors = CP.factor(conv(12, 8).sides)
    for name in [name for name in factors if name.startswith("output@")]:
        rank = name.split("@")[1]
        norms = [factors[name].norm(dim=0), factors[f"kernel@{rank}"].flatten(1).norm(dim=1)]
        norms.append(factors[f"input@{rank}"].norm(dim=1))
        torch.testing.assert_close(norms[0], norms[1])
        torch.testing.assert_close(norms[0], norms[2])
        assert norms[0].tolist() == sorted(norms[0].tolist(), reverse=True)
        whole = float(factors["dense"].norm())
        assert float(norms[0].pow(3).max()) < 3 * whole


def test_between_the_fitted_ranks_the_next_smaller_sum_has_company_that_does_nothing() -> None:
    case = conv(12, 8)
    factors = CP.factor(case.sides)
    ladder = [rank for (rank,) in CP.ladder(case.spec, factors)]
    low, high = ladder[-2:]
    assert high > low + 1
    for rank in (low + 1, high - 1, high + 1, high + 20, 71):
        fitted = max(r for r in ladder if r <= rank)
        module = formed(CP, case, (rank,), factors)
        same = formed(CP, case, (fitted,), factors)
        torch.testing.assert_close(module(case.inputs), same(case.inputs), atol=1e-10, rtol=0)
        assert CP.energy(factors, (rank,)) == CP.energy(factors, (fitted,))
        module(case.inputs).pow(2).sum().backward()
        gradient = module.get_parameter("2.weight").grad
        assert isinstance(gradient, Tensor)
        assert bool((gradient[:, fitted:].abs().amax(dim=0) > 0).all())


def test_shrinking_is_near_what_is_fitted_at_the_lower_rank() -> None:
    case = conv(12, 8)
    factors = CP.factor(case.sides)
    ladder = [rank for (rank,) in CP.ladder(case.spec, factors)]
    for high, low in ((ladder[-1], ladder[-3]), (ladder[-2], ladder[2])):
        fitted = case.share(formed(CP, case, (low,), factors))
        shrunk = case.share(resized(CP, case, formed(CP, case, (high,), factors), (low,), factors))
        assert shrunk < 1.3 * fitted + 0.02


def test_shrinking_a_tuned_sum_beats_dropping_components() -> None:
    case = conv(12, 8)
    factors = CP.factor(case.sides)
    (high,), (low,) = CP.ladder(case.spec, factors)[-1], CP.ladder(case.spec, factors)[-4]
    parent = tuned(formed(CP, case, (high,), factors), 0.2)
    before = parent(case.inputs).detach()
    inner, kernel, output = (parent.get_parameter(f"{i}.weight").detach() for i in range(3))
    sizes = inner.flatten(1).norm(dim=1) * kernel.flatten(1).norm(dim=1) * output.flatten(1).norm(dim=0)
    kept = sizes.argsort(descending=True)[:low]
    dropped = CP.build(case.layer, (low,))
    dropped.load_state_dict(
        {
            "0.weight": inner[kept],
            "1.weight": kernel[kept],
            "2.weight": output[:, kept],
            "2.bias": parent.get_parameter("2.bias").detach(),
        }
    )

    def lost(module: nn.Module) -> float:
        error = case.rows(module(case.inputs).detach() - before)
        return float((error - error.mean(dim=0)).pow(2).sum())

    child = resized(CP, case, parent, (low,), factors)
    assert lost(child) < 0.8 * lost(dropped)
    assert mean_shift(case, child, before) < mean_shift(case, dropped, before)


def mean_shift(case: Case, module: nn.Module, before: Tensor) -> float:
    """What a module does to the mean of the output."""
    return float(case.rows(module(case.inputs).detach() - before).mean(dim=0).norm())


def test_it_drops_less_than_svd_for_the_same_params() -> None:
    case = conv(24, 16)
    factors, others = CP.factor(case.sides), SVD.factor(case.sides)
    for (rank,) in CP.ladder(case.spec, factors)[3:]:
        budget = CP.cost(case.spec, (rank,)).params
        fits = [r for r in SVD.ladder(case.spec, others) if SVD.cost(case.spec, r).params <= budget]
        if fits:
            share = case.share(formed(CP, case, (rank,), factors))
            assert share < case.share(formed(SVD, case, fits[-1], others))
