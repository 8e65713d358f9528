from __future__ import annotations

import statistics

import pytest
import torch
from torch import Tensor

from diminuendo.engine import ridge


def rows(count: int, width: int, seed: int) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def last(count: int) -> Tensor:
    return torch.arange(count) >= count - count // 5


def test_what_is_linear_is_found_whatever_was_there() -> None:
    inputs, true = rows(400, 12, 0), rows(5, 12, 1)
    found = ridge.fitted(inputs, inputs @ true.T + 3.0, rows(5, 12, 2), last(400), centred=True)
    assert found is not None
    assert found.ridge == min(ridge.RIDGES)
    torch.testing.assert_close(found.weight.float(), true, atol=2e-3, rtol=0)
    torch.testing.assert_close(found.bias.float(), torch.full((5,), 3.0), atol=2e-3, rtol=0)


def test_without_a_constant_the_sum_of_squares_about_nought_is_least() -> None:
    inputs, targets = rows(300, 3, 0) + 1.0, rows(300, 2, 1) + 2.0
    found = ridge.fitted(inputs, targets, torch.zeros(2, 3), last(300), centred=False)
    assert found is not None
    best = torch.linalg.lstsq(inputs.double(), targets.double()).solution.T
    torch.testing.assert_close(found.weight, best, atol=1e-2, rtol=0)


@pytest.mark.parametrize("seed", range(5))
def test_where_the_rest_is_noise_the_true_weights_stay(seed: int) -> None:
    inputs, true = rows(60, 40, seed), rows(4, 40, seed + 10)
    noisy = inputs @ true.T + 5 * rows(60, 4, seed + 20)
    found = ridge.fitted(inputs, noisy, true, last(60), centred=True)
    assert found is None or found.ridge >= 1.0


def test_few_noisy_rows_are_fitted_less_than_they_could_be() -> None:
    shares = []
    for seed in range(20):
        inputs, true = rows(50, 40, seed), rows(4, 40, seed + 100)
        noisy = inputs @ true.T + 2 * rows(50, 4, seed + 200)
        found = ridge.fitted(inputs, noisy, torch.zeros(4, 40), last(50), centred=False)
        free = torch.linalg.lstsq(inputs, noisy).solution.T
        taken = torch.zeros_like(true) if found is None else found.weight
        shares.append(float((taken - true).norm()) / float((free - true).norm()))
    assert statistics.median(shares) < 0.8


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_values_that_are_not_finite_leave_what_is_there(wrong: float) -> None:
    inputs, targets = rows(30, 3, 0), rows(30, 2, 1)
    targets[4, 1] = wrong
    assert ridge.fitted(inputs, targets, torch.zeros(2, 3), last(30), centred=True) is None
    assert ridge.fitted(targets, inputs, torch.zeros(3, 2), last(30), centred=True) is None


@pytest.mark.parametrize("held", [False, True])
def test_without_rows_to_fit_or_to_choose_by_nothing_is_done(held: bool) -> None:
    inputs = rows(30, 3, 0)
    assert ridge.fitted(inputs, inputs, torch.zeros(3, 3), torch.full((30,), held), centred=True) is None


def test_inputs_that_say_nothing_are_left_alone() -> None:
    assert ridge.fitted(torch.zeros(30, 3), rows(30, 2, 1), rows(2, 3, 2), last(30), centred=False) is None
