"""What a candidate is tuned towards: the original's logits on training samples, and how far away they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from diminuendo.engine import tree
from diminuendo.engine.original import Lesson, Original, augmented
from diminuendo.engine.score import rows_of, variance
from diminuendo.engine.search.rng import keyed, keyed_seed
from diminuendo.engine.task import Augment, Samples, logits_of

MAX_COPIES = 16
FEW_COPIES = 8
"""Most augmented copies of the training data; and most where only logits are kept of them, since there a copy is dear:
a forward of the original over all the data, and an augmentation each time it is used."""

PAIR, REPEATS = 2, 4
"""Dear copies are used two and two, each four times before the next two are made: three passes over one copy end as
near to the original as three over two, and the original's forwards cost as much as a pass of a small student."""

COPIES_BYTES = 256 * 2**20
"""Most memory for what is kept of the copies."""

BLOCKS = 32
LEAST_BLOCK = 64
"""Blocks of a pass over the training data, and the fewest samples in one unless it is the only one."""

WINDOW_BYTES = 256 * 2**20
"""Most memory for samples that are shuffled together, unless a block alone is larger."""

_PROBED = 3
_ALIKE = 1e-2
"""Samples from which it is seen whether logits come sample by sample, and how near they must be, relative to the
largest: the same sample in another batch is rounded differently."""

_NOTHING = 1e-12
"""Loss below which the original itself tells nothing apart."""


@dataclass(frozen=True)
class Window:
    """Samples that are shuffled together.

    Attributes:
        samples: Their inputs, augmented, and their targets.
        logits: The original's on the inputs, when they are kept.
    """

    samples: Samples
    logits: Tensor | None


class Teacher(Original):
    """The original's logits on training samples, computed once for each augmented copy of the data.

    A pass over the training data is cut into blocks, fixed random parts of it, so that a tuning may take part of a
    pass. Augmentation draws from a generator keyed by copy and block, so that every process has the same copies; the
    original sees each block of a copy once. Where its logits are too large to be kept, or belong to no one sample,
    every pass is augmented anew and the original runs beside the student.

    Attributes:
        train: Training samples.
        augment: (inputs, generator) -> inputs; None: one copy, as it is.
        seed: Of blocks and copies.
    """

    def __init__(
        self,
        model: nn.Module,
        train: Samples,
        augment: Augment | None,
        seed: int,
        logits: Callable[[Any], Tensor] = logits_of,
    ) -> None:
        """Keep nothing yet."""
        super().__init__(model, logits)
        self.train, self.augment, self.seed = train, augment, seed
        self._kept: dict[tuple[int, int, bool], tuple[Any, Tensor]] = {}

    @property
    def copies(self) -> int:
        """How many copies are kept; 0 when there is no room for even one."""
        return self._plan[0]

    @property
    def keeps_inputs(self) -> bool:
        """Whether the copies' inputs are kept too, and not the original's logits alone."""
        return self._plan[1]

    def copy_of(self, number: int) -> int:
        """The copy that a pass uses, by the pass's number."""
        if self.keeps_inputs:
            return number % self.copies
        return (number // (PAIR * REPEATS) * PAIR + number % PAIR) % self.copies

    @cached_property
    def _plan(self) -> tuple[int, bool]:
        if not self._rows:
            return 0, False
        logits = max(1, self._logits_bytes * len(self.train))
        wanted = 1 if self.augment is None else MAX_COPIES
        few = min(wanted, FEW_COPIES)
        whole = min(COPIES_BYTES // (logits + tree.size_bytes(self.train.inputs)), wanted)
        return (whole, True) if whole >= few else (min(COPIES_BYTES // logits, few), False)

    @cached_property
    def blocks(self) -> int:
        """Blocks of a pass."""
        most = max(1, len(self.train) // LEAST_BLOCK)
        return min(most, max(BLOCKS, math.ceil(tree.size_bytes(self.train.inputs) / WINDOW_BYTES)))

    @cached_property
    def _parts(self) -> tuple[Tensor, ...]:
        """Indices of each block's samples."""
        order = torch.from_numpy(keyed(self.seed, "blocks").permutation(len(self.train)))
        return torch.tensor_split(order, self.blocks)

    def extent(self, start: float, epochs: float, batch_size: int) -> tuple[int, int]:
        """Samples and steps of so many passes, after so many others."""
        sizes = self.window_sizes(*self._span(start, epochs))
        return sum(sizes), sum(math.ceil(size / batch_size) for size in sizes)

    def lessons(
        self, start: float, epochs: float, batch_size: int, generator: torch.Generator, *, bf16: bool = False
    ) -> Generator[Lesson, None, None]:
        """Batches of so many passes, after so many others, with the original's logits on them.

        Args:
            start: Passes that were had before: the data goes on where they ended.
            epochs: A part of a pass is rounded to whole blocks of it, at least one.
            batch_size: Of a window's last batch, if it is not smaller. A batch of one sample, which has no variance
                for BatchNorm, is left out.
            generator: Of the order.
            bf16: Whether the original computes under bfloat16's autocast, as its student does.
        """
        for window in self.windows(*self._span(start, epochs), bf16=bf16):
            order = torch.randperm(len(window.samples), generator=generator)
            with self.beside() if window.logits is None else nullcontext():
                for index in torch.split(order.to(_device(window.samples)), batch_size):
                    if len(index) == 1 and len(order) > 1:
                        continue
                    inputs = tree.take(window.samples.inputs, index)
                    if window.logits is None:
                        wanted = self.at_once(inputs, bf16=bf16)
                    else:
                        wanted = self.taken(window.logits, index)
                    yield Lesson(inputs, tree.take(window.samples.targets, index), wanted)

    def _span(self, start: float, epochs: float) -> tuple[int, int]:
        """The first block, and how many."""
        return round(start * self.blocks), max(1, round(epochs * self.blocks))

    def windows(self, start: int, count: int, *, bf16: bool = False) -> Iterator[Window]:
        """The samples of `count` blocks from number `start` on, block by block in each pass's own order."""
        for number, blocks in self._runs(start, count):
            yield self._window(number, blocks, bf16)

    def window_sizes(self, start: int, count: int) -> list[int]:
        """How many samples each of these windows has."""
        return [sum(len(self._parts[block]) for block in blocks) for _, blocks in self._runs(start, count)]

    def _runs(self, start: int, count: int) -> Iterator[tuple[int, list[int]]]:
        """Number of the pass and blocks of each window."""
        most = max(1, WINDOW_BYTES * self.blocks // max(1, tree.size_bytes(self.train.inputs)))
        while count > 0:
            number, place = divmod(start, self.blocks)
            size = min(count, self.blocks - place, most)
            order = keyed(self.seed, "pass", number).permutation(self.blocks)
            yield number, order[place : place + size].tolist()
            start, count = start + size, count - size

    def _window(self, number: int, blocks: list[int], bf16: bool) -> Window:
        index = torch.cat([self._parts[block] for block in blocks])
        targets = tree.take(self.train.targets, index)
        if self.copies == 0:
            inputs = tree.concat([self._augmented(number, block) for block in blocks])
            return Window(Samples(inputs, targets), None)
        found = [self._copied(self.copy_of(number), block, bf16) for block in blocks]
        inputs = tree.concat([inputs for inputs, _ in found])
        return Window(Samples(inputs, targets), torch.cat([logits for _, logits in found]))

    def _copied(self, copy: int, block: int, bf16: bool) -> tuple[Any, Tensor]:
        """Inputs of a block in a copy, and the original's logits on them."""
        kept = self._kept.get((copy, block, bf16))
        if kept is not None and self.keeps_inputs:
            return kept
        inputs = self._augmented(copy, block)
        logits = kept[1] if kept is not None else self.on(inputs, bf16=bf16)
        self._kept[copy, block, bf16] = (inputs if self.keeps_inputs else None, logits)
        return inputs, logits

    def taken(self, logits: Tensor, index: Tensor) -> Tensor:
        """Kept logits of the samples at these indices."""
        if self._rows == 1:
            return logits[index]
        return logits.reshape(-1, self._rows, *logits.shape[1:])[index].flatten(0, 1)

    @cached_property
    def _rows(self) -> int:
        """How many rows of the logits are each sample's, one sample after the other; 0 when they are not such."""
        count = min(_PROBED, len(self.train))
        together = self.on(tree.take(self.train.inputs, slice(0, count)))
        last = self.on(tree.take(self.train.inputs, slice(count - 1, count)))
        if len(together) != count * len(last):
            return 0
        apart = (together[-len(last) :] - last).abs().max() if last.numel() else torch.zeros(())
        return len(last) if bool(apart <= _ALIKE * last.abs().max()) else 0

    @cached_property
    def _logits_bytes(self) -> int:
        return tree.size_bytes(self.on(tree.take(self.train.inputs, slice(0, 1))))

    def _augmented(self, copy: int, block: int) -> Any:
        own = tree.take(self.train.inputs, self._parts[block])
        return augmented(self.augment, own, keyed_seed(self.seed, "copy", copy, block))


def _device(samples: Samples) -> torch.device:
    return next(tree.leaves(samples.inputs)).device


def distillation(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """What brings logits near the original's: tau^2 KL(teacher || student) at temperature tau (Hinton et al. 2015).

    The softmax is over dimension 1; the mean is over samples and positions. One column has no softmax: half the
    squared difference, in units of the teacher's variance, takes its place.

    Args:
        student: (N, C, ...), or (N,).
        teacher: Of the same shape.
    """
    student, teacher = rows_of(student), rows_of(teacher)
    wide = torch.promote_types(student.dtype, torch.float32)
    student, teacher = student.to(wide), teacher.to(wide)
    if student.shape[1] == 1:
        return (student - teacher).square().mean() / (2 * variance(teacher))
    least = torch.finfo(wide).min  # a class that is ruled out adds 0, and not infinity less infinity
    log_student = functional.log_softmax(student / tau, dim=1).clamp_min(least)
    log_teacher = functional.log_softmax(teacher / tau, dim=1).clamp_min(least)
    return functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * tau**2


class Missing:
    """How far logits are from the original's: 0 where they are the same, 1 where they say nothing, or worse than that.

    The root of the distillation's loss, relative to that of logits that are the same for every class, or, of one
    column, for every sample. 1 where that is no number.
    """

    def __init__(self, tau: float) -> None:
        """At a temperature."""
        self._tau = tau
        self._found = self._nothing = 0.0

    def add(self, student: Tensor, teacher: Tensor) -> None:
        """Take in a part of a batch."""
        student, teacher = rows_of(student.detach()), rows_of(teacher)
        nothing = teacher.mean().expand_as(teacher) if teacher.shape[1] == 1 else torch.zeros_like(teacher)
        self._found += len(teacher) * float(distillation(student, teacher, self._tau))
        self._nothing += len(teacher) * float(distillation(nothing, teacher, self._tau))

    @property
    def value(self) -> float:
        """Of all parts."""
        share = self._found / max(self._nothing, _NOTHING)
        return math.sqrt(min(1.0, max(0.0, share))) if math.isfinite(share) else 1.0
