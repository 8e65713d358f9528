from __future__ import annotations

import pytest
import tensorly
import torch
from tensorly.decomposition import tensor_train
from tests.engine.formats.cases import conv, formed, resized, tuned, white

from diminuendo.engine.formats import get
from diminuendo.engine.plan import Call, LayerSpec, PlanError

TT, SPATIAL = get("tt"), get("spatial")


def test_cost_by_hand() -> None:
    # 3x5, stride 2, 8 -> 16 on 20x20, ranks (2, 3, 4), with bias: 8*2 on 20x20, 2*3*3 on 10x20, then 5*3*4 and
    # 4*16 + 16 on 10x10.
    spec = LayerSpec("c", "conv", 16, 8, (3, 5), True, calls=(Call(1, (20, 20), (10, 10)),))
    assert TT.cost(spec, (2, 3, 4)).params == 16 + 18 + 60 + 64 + 16
    assert TT.cost(spec, (2, 3, 4)).macs == 16 * 400 + 18 * 200 + (60 + 64 + 16) * 100
    with pytest.raises(PlanError, match=r"tt rank 41 of \[2, 41, 4\] is out of range; legal: 1\.\.8 x 1\.\.24 x 1\.\."):
        TT.cost(spec, (2, 41, 4))


@pytest.mark.parametrize("ranks", [(2, 4, 3), (5, 7, 2), (3, 2, 6), (5, 12, 6)])
def test_on_white_noise_each_bond_is_the_truncated_svd_of_its_unfolding(ranks: tuple[int, int, int]) -> None:
    # The train's error is at least that of each bond alone and at most their sum; tensorly's train, which cuts bond
    # after bond by SVD, keeps to the same bounds.
    layer = conv(6, 5, (3, 2)).layer
    kernel = layer.get_parameter("weight").detach()
    ordered = kernel.permute(1, 2, 3, 0)  # (I, k_1, k_2, O)
    bonds = [ordered.reshape(5, -1), ordered.reshape(15, -1), ordered.reshape(-1, 6)]
    lost = [float(torch.linalg.svdvals(m)[r:].square().sum()) for m, r in zip(bonds, ranks, strict=True)]
    narrow, first, second, output = TT.cut(TT.factor(white(layer).sides), ranks).weights
    ours = torch.einsum("oc,cbzy,baxz,ai->oixy", output.flatten(1), second, first, narrow.flatten(1))
    error = float((ours - kernel).square().sum())
    assert max(lost) - 1e-9 <= error <= sum(lost) + 1e-9
    with tensorly.backend_context("pytorch", local_threadsafe=True):
        train = tensor_train(ordered, rank=[1, *ranks, 1])
        theirs = float((tensorly.tt_to_tensor(train) - ordered).square().sum())
    assert error <= 1.25 * theirs + 1e-9


def test_spectra_are_those_of_the_three_bonds() -> None:
    layer = conv(6, 5, (3, 2)).layer
    ordered = layer.get_parameter("weight").detach().permute(1, 2, 3, 0)
    spectra = TT.spectra(TT.factor(white(layer).sides))
    for spectrum, rows in zip(spectra, (5, 15, 30), strict=True):
        values = torch.linalg.svdvals(ordered.reshape(rows, -1)).square()
        torch.testing.assert_close(spectrum[: len(values)], values, rtol=1e-9, atol=1e-12)


def test_at_full_outer_ranks_it_is_spatial() -> None:
    case = conv(6, 5)
    top = TT.max_ranks(case.spec)
    for rank in (2, 7, 12):
        ours, theirs = formed(TT, case, (top[0], rank, top[2])), formed(SPATIAL, case, (rank,))
        torch.testing.assert_close(ours(case.inputs), theirs(case.inputs), atol=1e-9, rtol=0)


def test_shrinking_an_untuned_train_is_near_the_train_at_those_ranks() -> None:
    for case in (conv(8, 6, bias=False), conv(5, 7)):
        full = formed(TT, case, TT.max_ranks(case.spec))
        for ranks in ((5, 12, 5), (4, 9, 5), (3, 4, 3)):
            assert case.share(resized(TT, case, full, ranks)) < 1.25 * case.share(formed(TT, case, ranks)) + 1e-3


def test_shrinking_a_tuned_train_loses_more_the_lower_its_ranks() -> None:
    case = conv(8, 6)
    parent = tuned(formed(TT, case, TT.max_ranks(case.spec)), 0.1)
    before = case.rows(parent(case.inputs).detach())
    variance = float((before - before.mean(dim=0)).pow(2).sum())
    lost = []
    for ranks in (TT.max_ranks(case.spec), (6, 15, 8), (5, 12, 7), (4, 9, 5), (3, 4, 3)):
        after = case.rows(resized(TT, case, parent, ranks)(case.inputs).detach())
        lost.append(float((after - before).pow(2).sum()) / variance)
    assert lost == sorted(lost)
    assert lost[0] < 1e-20
    assert lost[2] < 0.12
    assert lost[-1] < 0.7
