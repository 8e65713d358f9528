"""Lessons on training data that is streamed: the original runs beside its student."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any

import torch
from torch import Tensor, nn

from diminuendo.engine.data import Stream
from diminuendo.engine.original import Lesson, Original, augmented
from diminuendo.engine.search.rng import keyed_seed
from diminuendo.engine.task import Augment, logits_of


class StreamTeacher(Original):
    """The original's logits on batches as they come.

    Attributes:
        train: Where they come from.
        augment: (inputs, generator) -> inputs of a batch; None: as they are.
    """

    def __init__(
        self, model: nn.Module, train: Stream, augment: Augment | None, logits: Callable[[Any], Tensor] = logits_of
    ) -> None:
        """Nothing is read yet."""
        super().__init__(model, logits)
        self.train, self.augment = train, augment

    def extent(self, start: float, epochs: float, batch_size: int) -> tuple[int, int]:
        """Samples and steps of so many passes. The batches are the loader's."""
        steps = max(1, round(epochs * self.train.steps))
        return round(len(self.train) * steps / self.train.steps), steps

    def lessons(
        self, start: float, epochs: float, batch_size: int, generator: torch.Generator, *, bf16: bool = False
    ) -> Generator[Lesson, None, None]:
        """Batches of so many passes with the original's logits, as of `Teacher.lessons`: each pass in a new order."""
        seed = int(torch.randint(2**62, (), generator=generator))
        _, steps = self.extent(start, epochs, batch_size)
        with self.beside(), closing(self.train.batches(seed)) as batches:
            for step, batch in zip(range(steps), batches, strict=False):
                if len(batch) == 1 and len(self.train) > 1:
                    continue
                inputs = augmented(self.augment, batch.inputs, keyed_seed(seed, "augment", step))
                yield Lesson(inputs, batch.targets, self.at_once(inputs, bf16=bf16))
