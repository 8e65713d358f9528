"""What a candidate is tuned towards: the original's logits on training batches, and how far away they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from diminuendo.engine import tree
from diminuendo.engine.score import outputs_of, rows_of, variance
from diminuendo.engine.task import Samples, TaskError, logits_of

MAX_COPIES = 16
COPIES_BYTES = 256 * 2**20
"""Most augmented copies of the training data that are kept with the original's logits, and most memory for them."""

_PROBED = 3
_ALIKE = 1e-2
"""Samples from which it is seen whether logits come sample by sample, and how near they must be, relative to the
largest: the same sample in another batch is rounded differently."""


@dataclass
class Teacher:
    """The original's logits on training batches, computed once for each augmented copy of the data.

    Augmentation draws from a generator keyed by the copy, so that every process has the same copies. Where data and
    logits are too large for copies, each epoch is augmented anew and the original runs beside the student.

    Attributes:
        model: The original network.
        train: Training samples.
        augment: (inputs, generator) -> inputs; None: one copy, as it is.
        seed: Of the copies.
        logits: Takes them from the outputs, see `Task.logits`.
    """

    model: nn.Module
    train: Samples
    augment: Callable[[Any, torch.Generator], Any] | None
    seed: int
    logits: Callable[[Any], Tensor] = logits_of
    _copies: dict[int, tuple[Any, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def copies(self) -> int:
        """How many copies are kept; 0 when there is no room for even one."""
        if not self._rows:
            return 0
        each = tree.size_bytes(self.train.inputs) + self._logits_bytes * len(self.train)
        return min(COPIES_BYTES // max(1, each), 1 if self.augment is None else MAX_COPIES)

    def epoch(self, number: int) -> tuple[Any, Tensor | None]:
        """Inputs of a whole epoch, and the original's logits on them when they are kept."""
        if self.copies == 0:
            return self._augmented(number), None
        copy = number % self.copies
        if copy not in self._copies:
            inputs = self._augmented(copy)
            self._copies[copy] = (inputs, self.on(inputs))
        return self._copies[copy]

    def on(self, inputs: Any) -> Tensor:
        """The original's logits on these inputs."""
        logits: Tensor = outputs_of(self.model, inputs, part=self.logits)
        return logits

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

    def _augmented(self, copy: int) -> Any:
        if self.augment is None:
            return self.train.inputs
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + copy) % 2**63)
        inputs = self.augment(self.train.inputs, generator)
        if tree.count(inputs) != len(self.train):
            raise TaskError(
                f"augment: {tree.count(inputs)} inputs came back for {len(self.train)}; return one for each, in order"
            )
        return inputs


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
