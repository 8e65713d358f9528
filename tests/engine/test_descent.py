from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LambdaLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
)

from diminuendo.engine.descent import Descent, one_cycle
from diminuendo.engine.task import Recipe, TaskError

RECIPE = Recipe(rate=0.1, momentum=0.0, weight_decay=0.0, ema=0.0, clip=1e9)


def weight(value: float = 1.0) -> nn.Linear:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(value)
    return model


def slope(model: nn.Linear) -> Tensor:
    """A loss with gradient 1."""
    return model.weight.sum()


def steps_of(model: nn.Linear, descent: Descent, count: int) -> list[float]:
    """How far the weight goes down in each step."""
    values = [float(model.weight.detach())]
    for _ in range(count):
        descent.step(slope(model))
        values.append(float(model.weight.detach()))
    return [a - b for a, b in pairwise(values)]


def test_the_recipes_rates_are_one_cycle() -> None:
    model = weight()
    found = steps_of(model, Descent(model, RECIPE, 5, rate=0.5), 5)
    assert found == pytest.approx([0.5 * 0.1 * one_cycle(k / 5) for k in range(5)], rel=1e-4)


def test_the_groups_of_ones_own_optimizer_keep_their_rates_ratio() -> None:
    model = nn.Sequential(weight(), weight())

    def make(parameters: list[nn.Parameter]) -> Optimizer:
        groups: list[dict[str, Any]] = [{"params": parameters[:1], "lr": 0.3}, {"params": parameters[1:]}]
        return SGD(groups, lr=0.02)

    descent = Descent(model, RECIPE, 4, rate=2.0, optimizer=make)
    before = [p.detach().clone() for p in model.parameters()]
    descent.step(sum((p.sum() for p in model.parameters()), torch.zeros(())))
    moved = [float(b - p.detach()) for b, p in zip(before, model.parameters(), strict=True)]
    assert moved == pytest.approx([2 * 0.3 * one_cycle(0), 2 * 0.02 * one_cycle(0)], rel=1e-4)


def test_ones_own_scheduler_is_stepped_once_a_step() -> None:
    told: list[int] = []

    def halving(optimizer: Optimizer, steps: int) -> LRScheduler:
        told.append(steps)
        return LambdaLR(optimizer, lambda step: 0.5**step)

    model = weight()
    found = steps_of(model, Descent(model, RECIPE, 3, rate=0.5, scheduler=halving), 3)
    assert found == pytest.approx([0.05, 0.025, 0.0125], rel=1e-4)
    assert told == [3]


@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer, steps: OneCycleLR(optimizer, max_lr=0.1, total_steps=steps),
        lambda optimizer, steps: CosineAnnealingLR(optimizer, steps),
        lambda optimizer, steps: ConstantLR(optimizer),
    ],
)
def test_torchs_schedulers_last_as_long_as_the_steps(make: Callable[[Optimizer, int], LRScheduler]) -> None:
    model = weight()
    descent = Descent(model, RECIPE, 3, optimizer=lambda parameters: SGD(parameters, 0.1), scheduler=make)
    assert all(step >= 0 for step in steps_of(model, descent, 3))


def test_an_optimizer_may_leave_parameters_alone() -> None:
    model = nn.Sequential(weight(), weight())
    descent = Descent(model, RECIPE, 1, optimizer=lambda parameters: Adam(parameters[1:], 0.1))
    descent.step(sum((p.sum() for p in model.parameters()), torch.zeros(())))
    assert descent.finish()
    assert [float(p.detach()) == 1.0 for p in model.parameters()] == [True, False]


def test_the_gradient_is_clipped_for_any_optimizer() -> None:
    model = weight()
    recipe = Recipe(clip=0.25, ema=0.0)
    descent = Descent(
        model, recipe, 1, optimizer=lambda ps: SGD(ps, 1.0), scheduler=lambda o, steps: ConstantLR(o, 1.0)
    )
    assert steps_of(model, descent, 1) == pytest.approx([0.25], rel=1e-4)


def test_the_weights_end_as_their_moving_average() -> None:
    model = weight(0.0)
    recipe = Recipe(rate=1.0, momentum=0.0, weight_decay=0.0, ema=0.5, clip=1e9)
    descent = Descent(model, recipe, 20, scheduler=lambda o, steps: ConstantLR(o, 1.0))
    steps_of(model, descent, 3)
    assert descent.finish()
    # 0, -1, -2, -3 with decay 1/2: ((0 - 1) / 2 - 2) / 2 - 3, halved.
    assert float(model.weight.detach()) == pytest.approx(((-0.5 - 2) / 2 - 3) / 2)


class Strange:
    param_groups: tuple[Any, ...] = ()


STRANGER = nn.Parameter(torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": lambda ps: Strange()}, r"^optimizer: it returned a Strange, not a torch\.optim\.Optimizer"),
        (
            {"optimizer": lambda ps: SGD([STRANGER], 0.1)},
            r"^optimizer: 1 of its parameters, the first of shape \(2, 3\), are not the candidate's",
        ),
        ({"optimizer": lambda ps: torch.optim.LBFGS(ps)}, r"^optimizer: a LBFGS wants a closure"),
        ({"scheduler": lambda o, steps: None}, r"^scheduler: it returned a NoneType, not an LRScheduler"),
        ({"scheduler": lambda o, steps: ReduceLROnPlateau(o)}, r"^scheduler: a ReduceLROnPlateau wants a score"),
        (
            {"scheduler": lambda o, steps: ConstantLR(SGD([STRANGER], 0.1))},
            r"^scheduler: it is of another optimizer",
        ),
    ],
)
def test_what_is_no_optimizer_or_scheduler_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        Descent(weight(), RECIPE, 3, **changes)
