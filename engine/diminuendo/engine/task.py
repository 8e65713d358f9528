"""What the owner brings: a trained network, its data, its loss and its metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


class TaskError(ValueError):
    """A task that cannot be worked on; the message names the field, the value and the remedy."""


@dataclass(frozen=True)
class Samples:
    """Samples in memory.

    Attributes:
        inputs: (N, ...) float tensor, as the network takes it.
        targets: (N, ...) tensor, as loss and metric take it.
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.inputs)

    def take(self, index: Tensor) -> Samples:
        """The samples at these indices, in this order."""
        return Samples(self.inputs[index], self.targets[index])


@dataclass(frozen=True)
class Metric:
    """A metric that is a mean over samples.

    Attributes:
        name: What it is called in reports, e.g. ``top1``.
        score: (outputs, targets) -> (N,) value of each sample, in points (0 to 100 for an accuracy).
        higher_is_better: Its direction.
    """

    name: str
    score: Callable[[Tensor, Tensor], Tensor]
    higher_is_better: bool = True


def top1_score(outputs: Tensor, targets: Tensor) -> Tensor:
    """(N, C) logits and (N,) class indices -> (N,) of 100.0 where the largest logit is the target's, else 0."""
    return (outputs.argmax(dim=1) == targets).to(torch.float64) * 100.0


TOP1 = Metric("top1", top1_score)


@dataclass(frozen=True)
class Recipe:
    """How candidates are fine-tuned: SGD with Nesterov momentum, one-cycle cosine, EMA, distillation.

    Attributes:
        rate: Peak learning rate.
        tau: Temperature of the distillation.
        ema: Decay of the weights' moving average per step, at most; shorter tunings average over less.
        clip: Largest norm of the gradient.
    """

    rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 1e-4
    batch_size: int = 64
    tau: float = 4.0
    ema: float = 0.99
    clip: float = 5.0


@dataclass(frozen=True)
class Task:
    """A compression task.

    Attributes:
        model: The trained network. Never changed.
        train: Training samples; fine-tuning and covariances use them.
        evaluation: Samples that the network was not trained on, at least 20; one half steers the search, the
            other is sealed for the certificate.
        loss: (outputs, targets) -> scalar.
        metric: What delta is about.
        augment: (inputs, generator) -> inputs of a training batch; None: as they are.
        recipe: How candidates are fine-tuned.
        name: For people.
        source: How the network is built again by `load`, e.g. ``zoo:digits``; empty when `load` is to be given it.
    """

    model: nn.Module
    train: Samples
    evaluation: Samples
    loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy
    metric: Metric = TOP1
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None
    recipe: Recipe = Recipe()
    name: str = "task"
    source: str = ""
