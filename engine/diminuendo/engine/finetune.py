"""Fine-tuning: the owner's loss plus distillation from the original, one cycle, moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from diminuendo.engine.score import outputs_of
from diminuendo.engine.task import Recipe, Samples

MAX_COPIES = 16
COPIES_BYTES = 256 * 2**20
"""Most augmented copies of the training data that are kept with the original's outputs, and most memory for them."""

WARM = 0.15
"""Share of the cycle in which the rate rises."""

AVERAGED = 0.1
"""Share of a short tuning that the moving average of the weights looks back over."""


@dataclass
class Teacher:
    """The original's outputs on training batches, computed once for each augmented copy of the data.

    Augmentation draws from a generator keyed by the copy, so that every process has the same copies. Data too large
    for copies is augmented batch by batch.

    Attributes:
        model: The original network.
        train: Training samples.
        augment: (inputs, generator) -> inputs; None: one copy, as it is.
        seed: Of the copies.
    """

    model: nn.Module
    train: Samples
    augment: Callable[[Tensor, torch.Generator], Tensor] | None
    seed: int
    _copies: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def copies(self) -> int:
        """How many copies are kept; 0 when the data is too large for even one."""
        each = self.train.inputs.element_size() * self.train.inputs.numel()
        fitting = COPIES_BYTES // max(1, each)
        return min(fitting, 1 if self.augment is None else MAX_COPIES)

    def epoch(self, number: int) -> tuple[Tensor, Tensor | None]:
        """Inputs of a whole epoch, and the original's outputs on them when they are kept."""
        if self.copies == 0:
            return self._augmented(number), None
        copy = number % self.copies
        if copy not in self._copies:
            inputs = self._augmented(copy)
            self._copies[copy] = (inputs, outputs_of(self.model, inputs))
        return self._copies[copy]

    def _augmented(self, copy: int) -> Tensor:
        if self.augment is None:
            return self.train.inputs
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + copy) % 2**63)
        return self.augment(self.train.inputs, generator)


@dataclass(frozen=True, slots=True)
class Tuning:
    """What a tuning did.

    Attributes:
        samples: Training samples seen.
        diverged: The loss or a weight stopped being finite; the weights are worthless.
    """

    samples: int
    diverged: bool


def one_cycle(progress: float) -> float:
    """Rate at 0 <= progress <= 1 relative to its peak: a linear rise, then half a cosine down to 0."""
    if progress < WARM:
        return (progress + 0.01) / (WARM + 0.01)
    return 0.5 * (1.0 + math.cos(math.pi * (progress - WARM) / (1.0 - WARM)))


def distillation(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """tau^2 KL(teacher || student) of the softmax at temperature tau over dimension 1 (Hinton et al. 2015)."""
    log_student = functional.log_softmax(student / tau, dim=1)
    log_teacher = functional.log_softmax(teacher / tau, dim=1)
    return functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * tau**2


def finetune(
    model: nn.Module,
    teacher: Teacher,
    loss: Callable[[Tensor, Tensor], Tensor],
    recipe: Recipe,
    *,
    epochs: int,
    rate: float,
    seed: int,
) -> Tuning:
    """Tune a network in place; it ends with the averaged weights, in eval mode.

    BatchNorm statistics are those of the last steps: re-estimate them afterwards, since the averaged weights have
    none of their own.

    Args:
        rate: Peak learning rate, relative to the recipe's.
        seed: Of the order of samples and the choice of augmented copies.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = epochs * math.ceil(len(teacher.train) / recipe.batch_size)
    if total == 0 or not parameters:
        return Tuning(0, diverged=False)
    optimizer = torch.optim.SGD(
        parameters,
        lr=recipe.rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0,
        foreach=True,
    )
    average = [p.detach().clone() for p in parameters]
    decay = min(recipe.ema, max(0.0, 1.0 - 1.0 / max(1.0, AVERAGED * total)))
    generator = torch.Generator().manual_seed(seed)
    offset = int(torch.randint(0, 2**31 - 1, (), generator=generator))
    model.train()
    step = 0
    for epoch in range(epochs):
        inputs, reference = teacher.epoch(offset + epoch)
        order = torch.randperm(len(inputs), generator=generator)
        losses = torch.zeros((), dtype=torch.float64, device=inputs.device)
        for index in torch.split(order, recipe.batch_size):
            if len(index) == 1 and len(inputs) > 1:
                continue  # one sample has no variance for BatchNorm
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate * rate * one_cycle(step / total)
            batch = inputs[index]
            target_outputs = outputs_of(teacher.model, batch) if reference is None else reference[index]
            outputs = model(batch)
            value = loss(outputs, teacher.train.targets[index]) + distillation(outputs, target_outputs, recipe.tau)
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, recipe.clip, foreach=True)
            optimizer.step()
            torch._foreach_lerp_(average, [p.detach() for p in parameters], 1.0 - decay)
            losses += value.detach()
            step += 1
        if not math.isfinite(float(losses)):
            return Tuning(step * recipe.batch_size, diverged=True)
    with torch.no_grad():
        torch._foreach_copy_([p.detach() for p in parameters], average)
    model.eval()
    finite = all(bool(torch.isfinite(p).all()) for p in parameters)
    return Tuning(epochs * len(teacher.train), diverged=not finite)
