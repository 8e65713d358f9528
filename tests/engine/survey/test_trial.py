from __future__ import annotations

import random
from collections.abc import Callable

import numpy
import pytest
import torch
from torch import Tensor, nn

from diminuendo.engine.survey.trial import Trial
from diminuendo.engine.task import TaskError


class Stack(nn.Module):
    """Many layers; a class says which of them it looks at."""

    runs = 0

    def __init__(self, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        type(self).runs += 1
        for index in range(len(self.layers)):
            x = self.step(index, x)
        return x

    def step(self, index: int, x: Tensor) -> Tensor:
        return x + torch.tanh(self.layers[index](x))

    def is_dense(self, index: int) -> bool:
        return isinstance(self.layers[index], nn.Linear)


class TwoBad(Stack):
    """Two of the layers must be linear."""

    def step(self, index: int, x: Tensor) -> Tensor:
        return super().step(index, x) * (2.0 if index in (5, 40) and not self.is_dense(index) else 1.0)


class Pair(Stack):
    """Either of two layers can be replaced, but not both."""

    def step(self, index: int, x: Tensor) -> Tensor:
        return super().step(index, x) + (0.0 if self.is_dense(1) or self.is_dense(6) else 1.0)


def names(count: int) -> list[str]:
    return [f"layers.{index}" for index in range(count)]


def test_bad_layers_are_found_by_halves() -> None:
    torch.manual_seed(0)
    trial = Trial(TwoBad(64), torch.randn(2, 4))
    TwoBad.runs = 0
    found = trial.obstacles(names(64))
    assert found == dict.fromkeys(["layers.5", "layers.40"], "the network gives other outputs when it is replaced")
    # At each of 6 levels at most: two sets fail in eval mode, and two others and what is left of two do not, in both.
    assert TwoBad.runs <= 6 * (2 + 2 * (2 + 2)) < 64


def test_layers_that_cannot_be_replaced_together() -> None:
    torch.manual_seed(0)
    found = Trial(Pair(8), torch.randn(2, 4)).obstacles(names(8))
    assert {"layers.1", "layers.6"} <= set(found)
    assert set(found.values()) == {
        "the network gives other outputs when it is replaced (together with other layers)",
    }


def test_random_numbers_are_the_same_each_time_and_left_as_they_were() -> None:
    class Noisy(Stack):
        def step(self, index: int, x: Tensor) -> Tensor:
            noise = torch.rand(4) + random.random() + torch.tensor(numpy.random.rand(4), dtype=torch.float32)
            return super().step(index, x) + noise

    torch.manual_seed(0)
    model = Noisy(3)
    before = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()  # type: ignore[index]
    assert Trial(model, torch.ones(2, 4)).obstacles(names(3)) == {}
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert numpy.random.get_state()[1].tolist() == before[2]  # type: ignore[index]


def test_the_original_is_not_run_and_counters_do_not_matter() -> None:
    class Counter(Stack):
        def __init__(self, count: int) -> None:
            super().__init__(count)
            self.count = 0

        def step(self, index: int, x: Tensor) -> Tensor:
            self.count += 1
            return super().step(index, x) + self.count

    model = Counter(3)
    assert Trial(model, torch.ones(2, 4)).obstacles(names(3)) == {}
    assert model.count == 0


def test_networks_that_do_not_train_are_tried_in_eval_mode() -> None:
    class EvalOnly(TwoBad):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                raise RuntimeError("for inference only")
            return super().forward(x)

    torch.manual_seed(0)
    assert set(Trial(EvalOnly(8), torch.randn(2, 4)).obstacles(names(8))) == {"layers.5"}


def test_a_copy_that_uses_the_originals_weights_is_refused() -> None:
    class Holds(Stack):
        def __init__(self, count: int) -> None:
            super().__init__(count)
            weight = next(self.layers.parameters())
            self.scale: Callable[[Tensor], Tensor] = lambda x: x * weight.mean()

        def step(self, index: int, x: Tensor) -> Tensor:
            return super().step(index, self.scale(x))

    with pytest.raises(TaskError, match=r"uses 'layers\.0\.weight' of the original"):
        Trial(Holds(2), torch.ones(2, 4))
