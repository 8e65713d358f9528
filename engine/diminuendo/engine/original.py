"""The original network as its students' teacher: its logits on batches, without gradient, kept or taken beside."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from diminuendo.engine import tree
from diminuendo.engine.counting import buffers_kept
from diminuendo.engine.modules import evaluating
from diminuendo.engine.precision import autocast, widened
from diminuendo.engine.score import outputs_of
from diminuendo.engine.task import Augment, TaskError, logits_of


class Lesson(NamedTuple):
    """A batch of a tuning: inputs, targets, and the original's logits on the inputs."""

    inputs: Any
    targets: Any
    wanted: Tensor

    def split(self, parts: int) -> list[Lesson]:
        """As near to so many batches of the same size as two samples in each allow, in order."""
        count = len(self.wanted)
        parts = min(parts, max(1, count // 2))
        if parts == 1:
            return [self]
        cuts = [count * i // parts for i in range(parts + 1)]
        return [
            Lesson(*(tree.combine(lambda tensor, a=a, b=b: tensor[a:b], value) for value in self))
            for a, b in itertools.pairwise(cuts)
        ]


class Original:
    """The original network.

    Attributes:
        model: In inference mode, unless it cannot be run like that.
        logits: Takes them from the outputs, see `Task.logits`.
    """

    def __init__(self, model: nn.Module, logits: Callable[[Any], Tensor] = logits_of) -> None:
        """Of a network."""
        self.model = model
        self.logits = logits
        self._inference = True

    def on(self, inputs: Any, *, bf16: bool = False) -> Tensor:
        """The logits on any number of inputs; the network is left as it was.

        Args:
            bf16: Whether it computes under bfloat16's autocast; its outputs are never narrower than float32 for that.
        """

        def forward() -> Tensor:
            with autocast(self.model, enabled=bf16):
                found: Tensor = outputs_of(
                    self.model, inputs, part=lambda outputs: self.logits(widened(outputs) if bf16 else outputs)
                )
            return found

        return self._run(forward)

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Inside, the network may be asked `at_once`; afterwards it is as it was."""
        with evaluating(self.model), buffers_kept(self.model):
            yield

    def at_once(self, inputs: Any, *, bf16: bool = False) -> Tensor:
        """The logits on one batch, while the network is `beside`."""

        def forward() -> Tensor:
            with autocast(self.model, enabled=bf16):
                return self.logits(tree.call(self.model, inputs))

        return self._run(forward)

    def _run(self, forward: Callable[[], Tensor]) -> Tensor:
        if self._inference:
            try:
                with torch.inference_mode():
                    return forward()
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:  # a network that takes gradients in its forward, or one that raises in any mode
                self._inference = False
        with torch.no_grad():
            return forward()


def augmented(augment: Augment | None, inputs: Any, seed: int) -> Any:
    """Inputs by the owner's function and a seed.

    Raises:
        TaskError: Another number of them came back.
    """
    if augment is None:
        return inputs
    found = augment(inputs, torch.Generator().manual_seed(seed))
    if tree.count(found) != tree.count(inputs):
        raise TaskError(
            f"augment: {tree.count(found)} inputs came back for {tree.count(inputs)}; return one for each, in order"
        )
    return found
