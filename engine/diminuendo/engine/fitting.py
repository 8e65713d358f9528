"""Training loops of the owner's: run in place of ours, checked, and tried once to see what they make of a request."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diminuendo.engine import tree
from diminuendo.engine.descent import quiet
from diminuendo.engine.finetune import Teaching, Tuning, value_of
from diminuendo.engine.modules import copied
from diminuendo.engine.original import Lesson
from diminuendo.engine.precision import device_of
from diminuendo.engine.randomness import Randomness
from diminuendo.engine.search.work import Numerics
from diminuendo.engine.task import Fit, Recipe, Samples, Task, TaskError
from diminuendo.engine.tryout import Pace
from diminuendo.engine.usercode import user_code

TRIED = 64
"""Training samples that a loop is tried on, about."""

QUICK_S = 5.0
"""A loop that took longer at its first trial, which is to warm up, is not timed again."""

MANIFOLD = 4.0
"""Times the samples that were asked for from which a loop is said to go by passes of its own."""


@dataclass(frozen=True)
class Asked:
    """What a loop is asked for.

    Attributes:
        epochs: As of `Fit`.
        rate: As of `Fit`.
        seed: Of the global random numbers inside, which are left as they were, and of the order of samples.
        start: As of `Fit`.
    """

    epochs: float
    rate: float
    seed: int
    start: float


def fitted(model: nn.Module, task: Task, teacher: Teaching, recipe: Recipe, asked: Asked, samples: int) -> Tuning:
    """Tune a network in place by the task's own loop; it ends in eval mode, and nothing else of it is changed.

    Args:
        recipe: Gives batch size, temperature and the weight of the owner's loss to `Fit.batches` and `Fit.loss`.
        samples: Of the training data.

    Raises:
        TaskError: It replaced weights or changed their kind, or returned another network.
        UserCodeError: The loop raised.
    """
    return _Session(model, task, teacher, recipe, asked, samples).run()


class _Session:
    """One call of the owner's loop, and what it is lent."""

    def __init__(
        self, model: nn.Module, task: Task, teacher: Teaching, recipe: Recipe, asked: Asked, samples: int
    ) -> None:
        self._model, self._task, self._teacher, self._recipe, self._asked = model, task, teacher, recipe, asked
        self._wanted = max(1, round(asked.epochs * samples))
        self._device = device_of(model)
        self._lesson: Lesson | None = None
        self._generator = torch.Generator().manual_seed(asked.seed)
        self._open = ExitStack()
        self.losses = 0

    def run(self) -> Tuning:
        """See `fitted`."""
        model, task = self._model, self._task
        if task.fit is None or self._asked.epochs <= 0 or not any(p.requires_grad for p in model.parameters()):
            return Tuning(0, diverged=False)
        before = _kinds(model)
        trained = [(p, p.requires_grad) for p in model.parameters()]
        devices = sorted({p.get_device() for p in model.parameters() if p.is_cuda})
        with Randomness(self._asked.seed, devices), quiet(), torch.enable_grad(), self._open:
            model.train()
            with user_code("fit"):
                found = task.fit(model, self._request())
        _check(model, found, before)
        for parameter, flag in trained:
            parameter.requires_grad_(flag)
            parameter.grad = None
        model.to(self._device).eval()
        numbers = (t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point() or t.is_complex())
        finite = all(bool(torch.isfinite(each).all()) for each in numbers)
        return Tuning(self._wanted, diverged=not finite)

    def _request(self) -> Fit:
        return Fit(
            epochs=self._asked.epochs,
            rate=self._asked.rate,
            seed=self._asked.seed,
            start=self._asked.start,
            train=self._task.train,
            device=self._device,
            teacher=self._logits,
            loss=self._loss,
            batches=self._batches,
        )

    def _logits(self, inputs: Any) -> Tensor:
        """The original's logits; those that came with a batch are not computed again."""
        if self._lesson is not None and inputs is self._lesson.inputs:
            return self._lesson.wanted.clone()  # out of inference mode
        return self._teacher.on(inputs).clone()

    def _loss(self, network: nn.Module, inputs: Any, targets: Any) -> Tensor:
        self.losses += 1
        lesson = Lesson(inputs, targets, self._logits(inputs))
        return value_of(network, lesson, self._task.loss_of, self._teacher.logits, self._recipe, bf16=False)

    def _batches(self, size: int | None = None) -> Iterator[Samples]:
        size = self._recipe.batch_size if size is None else size
        if size < 1:
            raise TaskError(f"fit: batches of {size} samples were asked for; give a size of at least 1")
        lessons = self._teacher.lessons(self._asked.start, self._asked.epochs, size, self._generator)
        return self._given(self._open.enter_context(closing(lessons)))

    def _given(self, lessons: Iterator[Lesson]) -> Iterator[Samples]:
        """Batches until there were as many samples as are wanted: lessons come in blocks."""
        given = 0
        for lesson in lessons:
            self._lesson = lesson
            yield Samples(lesson.inputs, lesson.targets)
            given += tree.count(lesson.inputs)
            if given >= self._wanted:
                return


def _kinds(model: nn.Module) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and type of all that a network learns."""
    return {name: (parameter.shape, parameter.dtype) for name, parameter in model.named_parameters()}


def _check(model: nn.Module, returned: object, before: dict[str, tuple[torch.Size, torch.dtype]]) -> None:
    """Refuse what has not been done in place."""
    remedy = "train the network that it is given in place, and return nothing"
    if isinstance(returned, nn.Module) and returned is not model:
        raise TaskError(f"fit: it returned another network, a {type(returned).__name__}; {remedy}")
    after = _kinds(model)
    if changed := sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)):
        named = ", ".join(changed[:4]) + (f" and {len(changed) - 4} others" if changed[4:] else "")
        raise TaskError(f"fit: weights are others than before, or of another shape or type: {named}; {remedy}")


@dataclass
class _Count:
    """Samples that went through a network while it was in training mode."""

    seen: int = 0

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module.training and torch.is_grad_enabled():
            first = next((leaf for leaf in tree.leaves((args, kwargs)) if leaf.dim()), None)
            self.seen += 0 if first is None else len(first)


def tried(model: nn.Module, task: Task, teacher: Teaching, recipe: Recipe, samples: int, numerics: Numerics) -> Pace:
    """Run the owner's loop on a copy of the original for a small part of a pass, and see what it does and takes.

    Time is taken by the samples that went through the network, since a loop may round passes as it likes.

    Args:
        model: The original; not changed.
        samples: Of the training data.
        numerics: That it is tuned in.

    Raises:
        TaskError: As of `fitted`.
        UserCodeError: The loop raised.
    """
    epochs = min(1.0, max(2, min(TRIED, samples)) / samples)
    student = copied(model)
    before = [p.detach().clone() for p in student.parameters()]
    if not any(p.requires_grad for p in student.parameters()):
        return Pace(numerics, 0.0)
    seconds, seen, losses = 0.0, 0, 0
    for _ in range(2):
        count = _Count()
        session = _Session(student, task, teacher, recipe, Asked(epochs, 1.0, 0, 0.0), samples)
        hook = student.register_forward_pre_hook(count, with_kwargs=True)
        start = time.perf_counter()
        session.run()
        seconds, seen, losses = _waited(student, start), count.seen, session.losses
        hook.remove()
        if seconds > QUICK_S:
            break
    idle = all(torch.equal(one, two) for one, two in zip(before, student.parameters(), strict=True))
    wanted = max(1, round(epochs * samples))
    step_s = seconds * recipe.batch_size / (seen or wanted)
    return Pace(numerics, step_s, tuple(_doubts(epochs, wanted, seen, idle=idle)), weighed=losses > 0)


def _waited(model: nn.Module, start: float) -> float:
    if device_of(model).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _doubts(epochs: float, wanted: int, seen: int, *, idle: bool) -> Iterator[tuple[str, str]]:
    remedy = "a search asks for parts of a pass, too: take Fit.batches(), or stop after Fit.epochs times the samples"
    if idle:
        yield "FIT_CHANGES_NOTHING", f"fit: asked for {epochs:.2g} passes it changed no weight; {remedy}"
    elif seen > MANIFOLD * wanted and epochs < 1.0:
        yield (
            "FIT_EXCEEDS_EPOCHS",
            f"fit: asked for {epochs:.2g} passes, {wanted:,} samples, it trained on {seen:,}; passes are counted as "
            f"asked for, and {remedy}",
        )
