"""Fine-tuning: the owner's loss plus distillation from the original, one cycle, moving average of the weights."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diminuendo.engine import tree
from diminuendo.engine.score import check_shapes
from diminuendo.engine.task import Recipe, TaskError
from diminuendo.engine.teacher import Teacher, distillation

WARM = 0.15
"""Share of the cycle in which the rate rises."""

AVERAGED = 0.1
"""Share of a short tuning that the moving average of the weights looks back over."""

_NARROW = (torch.bfloat16, torch.float16)


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


class _Descent:
    """Nesterov SGD on a network's trainable weights, and their moving average.

    Weights narrower than float32 are stepped on and averaged in float32, in which a small step is not rounded away.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, steps: int) -> None:
        self._clip = recipe.clip
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._wide = [nn.Parameter(p.detach().float()) if p.dtype in _NARROW else p for p in self._parameters]
        self._optimizer = torch.optim.SGD(
            self._wide,
            lr=recipe.rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.momentum > 0,
            foreach=True,
        )
        self._average = [p.detach().clone() for p in self._wide]
        self._decay = min(recipe.ema, max(0.0, 1.0 - 1.0 / max(1.0, AVERAGED * steps)))

    def step(self, loss: Tensor, rate: float) -> None:
        """One step down the gradient of a loss."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        for parameter in self._parameters:
            parameter.grad = None
        if not loss.requires_grad:
            raise TaskError("loss: no weight that is trained bears on it or on the logits; compute it from the outputs")
        loss.backward()  # type: ignore[no-untyped-call]
        for parameter, wide in zip(self._parameters, self._wide, strict=True):
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.to_dense()
            if wide is not parameter:
                wide.grad = None if parameter.grad is None else parameter.grad.float()
        torch.nn.utils.clip_grad_norm_(self._wide, self._clip, foreach=True)
        self._optimizer.step()
        wide_values = [p.detach() for p in self._wide]
        self._write(wide_values)
        torch._foreach_lerp_(self._average, wide_values, 1.0 - self._decay)

    def finish(self) -> bool:
        """Leave the averages in the network; whether they are finite."""
        with torch.no_grad():
            torch._foreach_copy_([p.detach() for p in self._wide], self._average)
        self._write(self._average)
        return all(bool(torch.isfinite(p).all()) for p in self._parameters)

    def _write(self, values: list[Tensor]) -> None:
        """Round values into the narrow weights."""
        for parameter, wide, value in zip(self._parameters, self._wide, values, strict=True):
            if wide is not parameter:
                parameter.detach().copy_(value)


def finetune(
    model: nn.Module,
    teacher: Teacher,
    loss: Callable[[Any, Any], Tensor],
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
        loss: (outputs, targets) -> scalar, as `Task.loss_of`.
        rate: Peak learning rate, relative to the recipe's.
        seed: Of the order of samples, the choice of augmented copies, and dropout. The global random state is left
            as it was.

    Raises:
        TaskError: The loss is no scalar, nothing that can be trained bears on it, or the logits have another shape
            than the original's.
    """
    total = epochs * math.ceil(len(teacher.train) / recipe.batch_size)
    if total == 0 or not any(p.requires_grad for p in model.parameters()):
        return Tuning(0, diverged=False)
    generator = torch.Generator().manual_seed(seed)
    offset = int(torch.randint(0, 2**31 - 1, (), generator=generator))
    devices = sorted({p.get_device() for p in model.parameters() if p.is_cuda})
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        # Layers before a quantized one get no gradient: they stay as they are, which is measured.
        warnings.filterwarnings("ignore", message="quantized::.*autograd kernel was not registered")
        torch.manual_seed(seed)
        descent = _Descent(model, recipe, total)
        model.train()
        step = 0
        for epoch in range(epochs):
            inputs, reference = teacher.epoch(offset + epoch)
            order = torch.randperm(len(teacher.train), generator=generator)
            losses = torch.zeros((), dtype=torch.float64)
            for index in torch.split(order, recipe.batch_size):
                if len(index) == 1 and len(order) > 1:
                    continue  # one sample has no variance for BatchNorm
                batch = tree.take(inputs, index)
                wanted = teacher.on(batch) if reference is None else teacher.taken(reference, index)
                outputs = tree.call(model, batch)
                value = _owners(loss, outputs, tree.take(teacher.train.targets, index))
                value = value + _towards(wanted, teacher.logits(outputs), recipe.tau)
                descent.step(value, recipe.rate * rate * one_cycle(step / total))
                losses = value.detach() + losses.to(value.device)
                step += 1
            if not math.isfinite(float(losses)):
                return Tuning(step * recipe.batch_size, diverged=True)
    finite = descent.finish()
    model.eval()
    return Tuning(epochs * len(teacher.train), diverged=not finite)


def _owners(loss: Callable[[Any, Any], Tensor], outputs: Any, targets: Any) -> Tensor:
    """The owner's loss of a batch."""
    value = loss(outputs, targets)
    if not isinstance(value, Tensor) or value.numel() != 1:
        found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise TaskError(f"loss: it returned {found}; return one number, as a tensor")
    return value.reshape(())


def _towards(wanted: Tensor, logits: Tensor, tau: float) -> Tensor:
    """The distillation of a batch."""
    check_shapes(wanted, logits)
    return distillation(logits, wanted, tau)
