"""Tries a few steps of tuning on the original: what type of products and what order of weights are fastest here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diminuendo.engine import tree
from diminuendo.engine.descent import Descent, quiet
from diminuendo.engine.finetune import value_of
from diminuendo.engine.modules import copied, evaluating
from diminuendo.engine.original import Lesson
from diminuendo.engine.precision import autocast, device_of, has_bf16_units, is_image, lay_out, widened
from diminuendo.engine.randomness import Randomness
from diminuendo.engine.score import divergence
from diminuendo.engine.search.work import Numerics
from diminuendo.engine.stopwatch import clock_of
from diminuendo.engine.task import Task

ROUNDS = 3
"""Steps of each way that are timed, in turn, after one to warm up."""

CLEARLY = 0.75
"""A way is taken in place of another when each of its steps takes at most this share of the other's beside it: what is
decided must not hang on noise."""

NEAR = 1e-2
"""Most divergence of a way's logits from those in the network's own type, in nats per sample."""

_STEPS = 1000
"""Steps that a tuning would have, of which the first are taken: for schedulers."""


@dataclass(frozen=True)
class Pace:
    """How a tuning computes fastest, and the seconds of a step of it on the original.

    Attributes:
        notes: (reason, message) of what its owner should know of a training loop of theirs.
        weighed: Whether the weight of the owner's loss makes a difference.
    """

    numerics: Numerics
    step_s: float
    notes: tuple[tuple[str, str], ...] = ()
    weighed: bool = True


def ways(model: nn.Module, inputs: object) -> list[Numerics]:
    """What may be fastest for a network on this device; the first is what is taken unless another one is clearly so."""
    kinds = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.is_floating_point()})
    dtype = " and ".join(kinds) or "float32"
    images = is_image(inputs)
    layouts = (True, False) if images and any(p.dim() == 4 for p in model.parameters()) else (images,)
    types = (False, True) if kinds == ["float32"] and has_bf16_units(device_of(model)) else (False,)
    return [Numerics(dtype, bf16, channels_last) for channels_last in layouts for bf16 in types]


def fastest(model: nn.Module, task: Task, lesson: Lesson, tried: list[Numerics]) -> Pace:
    """Time steps of every way on copies of a network.

    Args:
        model: The original; not changed.
        task: Gives loss, recipe and optimizer.
        lesson: A batch.
        tried: As of `ways`.

    Raises:
        Exception: Whatever the owner's code raises in the first way; a way other than that is left out where it raises.
    """
    devices = sorted({p.get_device() for p in model.parameters() if p.is_cuda})
    with Randomness(0, devices), quiet():
        first = _Attempt(model, task, lesson, tried[0])
        attempts = [first, *(found for way in tried[1:] if (found := _attempt(model, task, lesson, way, first)))]
        for _ in range(ROUNDS if attempts[1:] else 1):
            for attempt in attempts:
                attempt.step()
            attempts = [first, *(other for other in attempts[1:] if min(other.seconds) < min(first.seconds))]
    best = attempts[choice([attempt.seconds for attempt in attempts])]
    return Pace(best.numerics, min(best.seconds))


def choice(seconds: Sequence[Sequence[float]]) -> int:
    """Which way to take, by the times of the steps of each: the first one, unless another is clearly faster."""
    best = 0
    for index, own in enumerate(seconds):
        if all(a <= CLEARLY * b for a, b in zip(own, seconds[best], strict=True)):
            best = index
    return best


class _Attempt:
    """A copy of a network that is tuned in one way."""

    def __init__(self, model: nn.Module, task: Task, lesson: Lesson, numerics: Numerics) -> None:
        self.numerics = numerics
        self.seconds: list[float] = []
        self._task, self._lesson, self._clock = task, lesson, clock_of(lesson.inputs)
        self._model = copied(model)
        lay_out(self._model, numerics.channels_last)
        self.logits = self._logits()
        self._model.train()
        trained = any(p.requires_grad for p in model.parameters())
        self._descent = (
            Descent(self._model, task.recipe, _STEPS, optimizer=task.optimizer, scheduler=task.scheduler)
            if trained
            else None
        )
        self.value = 0.0
        self.step()
        self.seconds.clear()  # that was to warm up

    def step(self) -> None:
        """Take a step, and its time."""
        start = self._clock.mark()
        if self._descent is not None:
            bf16 = self.numerics.bf16
            task = self._task
            value = value_of(self._model, self._lesson, task.loss_of, task.logits, task.recipe, bf16=bf16)
            self._descent.step(value)
            self.value = float(value.detach())
        self.seconds.append(1e-3 * self._clock.ms(start, self._clock.mark()))

    def _logits(self) -> Tensor:
        with evaluating(self._model), torch.no_grad(), autocast(self._model, enabled=self.numerics.bf16):
            return self._task.logits(widened(tree.call(self._model, self._lesson.inputs)))


def _attempt(model: nn.Module, task: Task, lesson: Lesson, numerics: Numerics, first: _Attempt) -> _Attempt | None:
    """An attempt at another way; None where the network cannot be computed like that, or gives something else."""
    try:
        found = _Attempt(model, task, lesson, numerics)
        apart = divergence(first.logits, found.logits)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # noqa: BLE001 - types that do not fit together, in the owner's code or in torch's
        return None
    near = math.isfinite(apart) and apart <= NEAR
    return found if near and math.isfinite(found.value) == math.isfinite(first.value) else None
