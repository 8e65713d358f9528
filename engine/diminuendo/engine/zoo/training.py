"""Trains a network on images from random weights, in steps that can be stopped and taken up again anywhere.

Every random number is keyed by the seed and by the epoch or step that it is for, so that a state needs no state of a
generator: weights, momentum and the number of steps are all. On a CPU with the same number of threads, a training that
was stopped ends with the same bits as one that was not.

Legend: N samples, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from diminuendo.engine.modules import evaluating
from diminuendo.engine.score import outputs_of
from diminuendo.engine.task import Samples, TaskError, top1_score
from diminuendo.engine.zoo.recipes import TrainingRecipe

EVALUATION_BATCH = 256


class StoppedError(Exception):
    """The training was asked to stop; its state is that after the last whole step."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a training depends on, beside its data's content: a state of another one cannot be taken up.

    Attributes:
        source: The network, e.g. ``zoo:resnet18``.
        recipe: How it is trained.
        seed: Of weights, order and augmentation.
        bf16: Whether forwards are computed in bfloat16, where that is safe.
        samples: N of the training data.
    """

    source: str
    recipe: TrainingRecipe
    seed: int
    bf16: bool
    samples: int

    def differing(self, other: dict[str, Any]) -> str:
        """The first setting that is not the same in a state, with both values; empty when all are."""
        own = asdict(self)
        mine = {**own.pop("recipe"), **own}
        theirs = {**other.get("recipe", {}), **other}
        for name, value in mine.items():
            if theirs.get(name) != value:
                return f"{'recipe' if name == 'name' else name} was {theirs.get(name)!r} and is now {value!r}"
        return ""


@dataclass(frozen=True, slots=True)
class Epoch:
    """What an epoch brought.

    Attributes:
        number: From 1.
        loss: Mean over its training samples, augmented, while the weights changed.
        train_top1: In percent, of the same forwards.
        test_top1: In percent, after it.
        rate: Learning rate of its last step.
        samples_per_s: Of training alone; of the part in this process.
    """

    number: int
    loss: float
    train_top1: float
    test_top1: float
    rate: float
    samples_per_s: float


@dataclass
class Progress:
    """Where a training is.

    Attributes:
        step: Steps taken.
        sums: (2,) float64: loss and points of top-1, summed over the samples of the running epoch. On the network's
            device, so that no step waits for it.
        seen: Samples of the running epoch.
        epochs: Epochs that are over.
    """

    step: int = 0
    sums: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.float64))
    seen: int = 0
    epochs: list[Epoch] = field(default_factory=list)

    def means(self) -> tuple[float, float]:
        """Loss and top-1 of the running epoch so far."""
        loss, top1 = (self.sums / max(1, self.seen)).tolist()
        return loss, top1


def fresh(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A network with torch's own random weights for a seed; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def accuracy(model: nn.Module, samples: Samples) -> float:
    """Top-1 accuracy in percent, in eval mode."""
    return float(top1_score(outputs_of(model, samples.inputs), samples.targets).mean())


def generator(seed: int, what: str, number: int) -> torch.Generator:
    """The generator of one use: order of an epoch, augmentation of a step."""
    digest = hashlib.sha256(f"{seed} {what} {number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@dataclass
class Training:
    """A training that can be stopped after any step.

    Example:
        training = Training(model, train, test, settings, augment)
        training.load_state_dict(state)  # to go on
        training.run(on_epoch=print)

    Attributes:
        model: Trained in place, on the device of the samples.
        train: (N, C, H, W) inputs and (N,) classes.
        test: Judged after each epoch; nothing is chosen by it.
        augment: (inputs, generator) -> inputs of a batch.
    """

    model: nn.Module
    train: Samples
    test: Samples
    settings: Settings
    augment: Callable[[Tensor, torch.Generator], Tensor]
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        """Lay the network out as it trains fastest, and make its optimizer."""
        recipe = self.settings.recipe
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # the stub lacks it
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=recipe.rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
            foreach=True,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch; the last may be smaller."""
        return math.ceil(len(self.train) / self.settings.recipe.batch_size)

    def run(
        self,
        *,
        on_epoch: Callable[[Epoch], None] = lambda _: None,
        on_step: Callable[[Progress], None] = lambda _: None,
        save: Callable[[], None] = lambda: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Train to the end, from wherever it is.

        Args:
            on_epoch: Called after each epoch.
            on_step: Called after each step.
            save: Called when the state is worth keeping: after an epoch's last step, and after its evaluation.
            stop: Asked after each step and each batch of the evaluation.

        Raises:
            StoppedError: `stop` said so.
            TaskError: The loss is no longer finite.
        """
        while len(self.progress.epochs) < self.settings.recipe.epochs:
            number = len(self.progress.epochs) + 1
            speed = self._train_epoch(number, on_step, stop)
            if not math.isfinite(self.progress.means()[0]):
                raise TaskError(
                    f"the loss of epoch {number} is not finite; train with a smaller --rate, or with --no-bf16"
                )
            save()
            self._close_epoch(number, speed, stop)
            save()
            on_epoch(self.progress.epochs[-1])

    def _train_epoch(self, number: int, on_step: Callable[[Progress], None], stop: Callable[[], bool]) -> float:
        """Take the steps of an epoch that are left; returns samples per second."""
        order = torch.randperm(len(self.train), generator=generator(self.settings.seed, "order", number))
        batches = torch.split(order, self.settings.recipe.batch_size)
        start, seen = time.perf_counter(), self.progress.seen
        self.model.train()
        for index in batches[self.progress.step - (number - 1) * self.steps_per_epoch :]:
            self._step(index)
            on_step(self.progress)
            if stop():
                raise StoppedError
        return (self.progress.seen - seen) / max(1e-9, time.perf_counter() - start)

    def _step(self, index: Tensor) -> None:
        """One step of SGD on a batch; a batch of one sample, which has no variance for BatchNorm, is left out."""
        progress, settings = self.progress, self.settings
        if len(index) > 1 or len(self.train) == 1:
            for group in self.optimizer.param_groups:
                group["lr"] = self._rate(progress.step)
            batch = self.train.take(index.to(self.train.targets.device))
            inputs = self.augment(batch.inputs, generator(settings.seed, "augment", progress.step))
            outputs = self._forward(inputs)
            loss = functional.cross_entropy(outputs, batch.targets, label_smoothing=settings.recipe.smoothing)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            hits = top1_score(outputs.detach(), batch.targets).sum()
            progress.sums = progress.sums.to(hits.device) + torch.stack([loss.detach().double() * len(index), hits])
            progress.seen += len(index)
        progress.step += 1

    def _rate(self, step: int) -> float:
        return self.settings.recipe.rate_at(step / (self.settings.recipe.epochs * self.steps_per_epoch))

    def _forward(self, inputs: Tensor) -> Tensor:
        """(N, K) float32 logits."""
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=self.settings.bf16):
            outputs: Tensor = self.model(inputs)
        return outputs.to(torch.float32)

    def _close_epoch(self, number: int, speed: float, stop: Callable[[], bool]) -> None:
        """Judge the network on the test samples, and begin the next epoch's sums."""
        progress = self.progress
        hits = 0.0
        with torch.inference_mode(), evaluating(self.model):
            for start in range(0, len(self.test), EVALUATION_BATCH):
                part = slice(start, start + EVALUATION_BATCH)
                hits += float(top1_score(self._forward(self.test.inputs[part]), self.test.targets[part]).sum())
                if stop():
                    raise StoppedError
        loss, train_top1 = progress.means()
        epoch = Epoch(
            number=number,
            loss=loss,
            train_top1=train_top1,
            test_top1=hits / len(self.test),
            rate=self._rate(progress.step - 1),
            samples_per_s=speed,
        )
        self.progress = Progress(step=progress.step, epochs=[*progress.epochs, epoch])

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs: plain values and tensors."""
        return {
            "settings": asdict(self.settings),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Raises:
            TaskError: It is of a training with other settings, or not whole.
        """
        try:
            difference = self.settings.differing(state["settings"])
            if difference:
                raise TaskError(f"the state is of another training: {difference}; give the same settings")
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            values = {name: state["progress"][name] for name in (f.name for f in fields(Progress))}
            self.progress = Progress(**{**values, "epochs": [Epoch(**epoch) for epoch in values["epochs"]]})
        except (AttributeError, KeyError, TypeError, RuntimeError) as error:
            text = " ".join(str(error).split())
            raise TaskError(f"the state cannot be taken up ({type(error).__name__}: {text})") from error
