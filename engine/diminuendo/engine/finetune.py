"""Fine-tuning: the owner's loss plus distillation from the original, one cycle, moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from diminuendo.engine import tree
from diminuendo.engine.descent import Descent, quiet
from diminuendo.engine.original import Lesson
from diminuendo.engine.precision import autocast, widened
from diminuendo.engine.randomness import Randomness
from diminuendo.engine.score import check_shapes
from diminuendo.engine.search.work import OWN
from diminuendo.engine.task import Losses, MakeOptimizer, MakeScheduler, Recipe, summed
from diminuendo.engine.teacher import Missing, distillation

WATCHED = 8
"""On a GPU the loss is looked at after so many steps: each look waits for the device."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """What a tuning did.

    Attributes:
        samples: Training samples seen.
        diverged: The loss or a weight stopped being finite; the weights are worthless.
    """

    samples: int
    diverged: bool


class Teaching(Protocol):
    """Where lessons come from: `Teacher`, `StreamTeacher`."""

    logits: Callable[[Any], Tensor]

    def on(self, inputs: Any, *, bf16: bool = False) -> Tensor:
        """The original's logits on any number of inputs."""

    def extent(self, start: float, epochs: float, batch_size: int) -> tuple[int, int]:
        """Samples and steps of so many passes, after so many others."""

    def lessons(
        self, start: float, epochs: float, batch_size: int, generator: torch.Generator, *, bf16: bool = False
    ) -> Generator[Lesson, None, None]:
        """Batches of so many passes, after so many others, with the original's logits on them."""


def finetune(
    model: nn.Module,
    teacher: Teaching,
    loss: Callable[[Any, Any], Losses],
    recipe: Recipe,
    *,
    epochs: float,
    rate: float,
    seed: int,
    start: float = 0.0,
    optimizer: MakeOptimizer | None = None,
    scheduler: MakeScheduler | None = None,
    bf16: bool = False,
    parts: int = 1,
) -> Tuning:
    """Tune a network in place; it ends with the averaged weights, in eval mode.

    BatchNorm statistics are those of the last steps: re-estimate them afterwards, since the averaged weights have
    none of their own.

    Args:
        loss: (outputs, targets) -> scalar or mapping of scalars, as `Task.loss_of`. Outputs are never narrower than
            float32 because of `bf16`.
        epochs: Passes over the training data, or a part of one, at least a step.
        rate: Peak learning rate, relative to the recipe's or to the optimizer's own.
        seed: Of the order of samples and of dropout. The global random state is left as it was.
        start: Passes that the weights have had: the data goes on where they ended.
        optimizer: See `Task.optimizer`.
        scheduler: See `Task.scheduler`.
        bf16: Whether forwards are under bfloat16's autocast.
        parts: Micro-batches of each step, whose gradients are added up: more take less memory. The loss is taken to be
            a mean over samples, and BatchNorm goes by each of them.

    Returns:
        What was done. It ends within a few steps when the loss is no longer finite.

    Raises:
        TaskError: The loss is no scalar, nothing that can be trained bears on it, the logits have another shape than
            the original's, or optimizer or scheduler are not such.
    """
    if epochs <= 0 or not any(p.requires_grad for p in model.parameters()):
        return Tuning(0, diverged=False)
    samples, steps = teacher.extent(start, epochs, recipe.batch_size)
    generator = torch.Generator().manual_seed(seed)
    devices = sorted({p.get_device() for p in model.parameters() if p.is_cuda})
    watched = WATCHED if devices else 1
    with Randomness(seed, devices), quiet():
        missing = Missing(recipe.tau)
        descent = Descent(
            model, recipe, steps, rate=rate, optimizer=optimizer, scheduler=scheduler, distance=lambda: missing.value
        )
        model.train()
        with closing(teacher.lessons(start, epochs, recipe.batch_size, generator, bf16=bf16)) as lessons:
            for step, lesson in enumerate(lessons, start=1):
                count, first = len(lesson.wanted), missing if step == 1 else None
                value = descent.step_by_parts(
                    len(part.wanted)
                    / count
                    * value_of(model, part, loss, teacher.logits, recipe, bf16=bf16, missing=first)
                    for part in lesson.split(parts)
                )
                if step % watched == 0 and not math.isfinite(float(value)):
                    return Tuning(step * recipe.batch_size, diverged=True)
    finite = descent.finish()
    model.eval()
    return Tuning(samples, diverged=not finite)


def value_of(
    model: nn.Module,
    lesson: Lesson,
    loss: Callable[[Any, Any], Losses],
    logits: Callable[[Any], Tensor],
    recipe: Recipe,
    *,
    bf16: bool,
    missing: Missing | None = None,
) -> Tensor:
    """What is made small on a batch: the owner's loss and the distillation.

    Args:
        missing: Is told of the batch.
    """
    with autocast(model, enabled=bf16):
        outputs = tree.call(model, lesson.inputs)
    if bf16:
        outputs = widened(outputs)
    found = logits(outputs)
    check_shapes(lesson.wanted, found)
    if missing is not None:
        missing.add(found, lesson.wanted)
    own = OWN if recipe.own is None else recipe.own
    return own * summed(loss(outputs, lesson.targets)) + distillation(found, lesson.wanted, recipe.tau)
