"""What an evaluator keeps in memory for one source: task, split, teacher, reference outputs, factors, weights."""

from __future__ import annotations

import traceback
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from diminuendo.engine import tree, weights, zoo
from diminuendo.engine.counting import buffers_kept
from diminuendo.engine.digest import Digest
from diminuendo.engine.modules import (
    CopyError,
    UninitializedError,
    check_initialized,
    copied,
    evaluating,
    unwrapped,
)
from diminuendo.engine.score import BATCH, NotFiniteError, outputs_of, scores_of
from diminuendo.engine.search.rng import keyed
from diminuendo.engine.store import ArtifactStore
from diminuendo.engine.survey.calibrate import Calibration
from diminuendo.engine.survey.discover import Discovery, discover
from diminuendo.engine.task import Samples, Task, TaskError
from diminuendo.engine.teacher import Teacher
from diminuendo.engine.zoo.catalog import UnknownNetworkError

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Where everything is computed; Ray shows an evaluator only the GPU that it was given."""

LEAST_EVALUATION_SAMPLES = 20
CALIBRATION_SAMPLES = 500
"""Training samples for each of the calibration's two parts."""

CACHED_BYTES = 512 * 2**20
"""Most memory for tensors read from the store."""


class UserCodeError(Exception):
    """Raised by a worker when the owner's code raised; never retried.

    Attributes:
        traceback_text: The owner's traceback.
    """

    def __init__(self, message: str, traceback_text: str) -> None:
        """What was called, and what it raised."""
        super().__init__(message)
        self.traceback_text = traceback_text


@contextmanager
def user_code(what: str) -> Iterator[None]:
    """Turn what the owner's code raises into UserCodeError; memory errors and what names its remedy pass through."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, UserCodeError, TaskError):
        raise
    except Exception as error:
        raise UserCodeError(f"{what}: {type(error).__name__}: {error}", traceback.format_exc()) from error


def fast(model: nn.Module, inputs: Any) -> nn.Module:
    """The same module with its 4-dimensional weights in channels-last order, when it takes images and nothing else.

    Convolutions and BatchNorm are faster that way on CPUs and GPUs alike: 1.5 times for a whole step of tuning.
    """
    if isinstance(inputs, Tensor) and inputs.dim() == 4:
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.dim() == 4 and tensor.layout == torch.strided:
                tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return model


def resolve(source: str, tasks: Mapping[str, Task]) -> Task:
    """The task of a source, e.g. ``zoo:digits``.

    Raises:
        UserCodeError: There is no such source.
    """
    if source in tasks:
        return tasks[source]
    kind, _, name = source.partition(":")
    if kind != "zoo":
        raise UserCodeError(f"source {source!r} is of no known kind; say zoo:NAME", "")
    try:
        return zoo.task(name)
    except UnknownNetworkError as error:
        raise UserCodeError(str(error), "") from error


@dataclass
class Cache:
    """Tensors read from the store, the last used ones within a bound on memory."""

    store: ArtifactStore
    _held: OrderedDict[str, dict[str, Tensor]] = field(default_factory=OrderedDict)
    _bytes: int = 0

    def tensors(self, sha256: str) -> dict[str, Tensor]:
        """Named tensors stored under a sha256; ArtifactMissingError when the store lacks them."""
        if sha256 not in self._held:
            self._held[sha256] = weights.from_bytes(self.store.get(sha256))
            self._bytes += tree.size_bytes(self._held[sha256])
        self._held.move_to_end(sha256)
        while self._bytes > CACHED_BYTES and len(self._held) > 1:
            _, dropped = self._held.popitem(last=False)
            self._bytes -= tree.size_bytes(dropped)
        return self._held[sha256]


@dataclass
class Workbench:
    """One task, split for the search, with everything that is computed once.

    Attributes:
        seed: Of the split of the evaluation data.
        model: The original, in eval mode; a copy of the owner's.
        train: Training samples, on the model's device.
        evaluation: Evaluation samples, on the model's device.
    """

    task: Task
    seed: int
    model: nn.Module = field(init=False, repr=False)
    train: Samples = field(init=False, repr=False)
    evaluation: Samples = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the task and take a copy of its network, in eval mode and in the layout that tunes fastest."""
        if len(self.task.evaluation) < LEAST_EVALUATION_SAMPLES:
            raise TaskError(
                f"evaluation: {len(self.task.evaluation)} samples cannot be split into a search and a sealed half; "
                f"bring at least {LEAST_EVALUATION_SAMPLES} that the network was not trained on"
            )
        if not len(self.task.train):
            raise TaskError("train: there are no training samples; fine-tuning and the survey need some")
        with user_code("copying the network"):
            self.model = self._copy().to(DEVICE)
        self.train, self.evaluation = self.task.train.to(DEVICE), self.task.evaluation.to(DEVICE)

    def _copy(self) -> nn.Module:
        """The owner's network without what is around it, in eval mode and in the layout that tunes fastest."""
        try:
            inner = unwrapped(self.task.model)
            check_initialized(inner)
            return fast(copied(inner).eval(), self.task.train.inputs)
        except (UninitializedError, CopyError) as error:
            raise TaskError(f"model: {error}") from error

    @cached_property
    def halves(self) -> tuple[Tensor, Tensor]:
        """Indices of the search and of the sealed half: a random split, stratified where targets are classes."""
        targets = self.evaluation.targets
        order = torch.from_numpy(keyed(self.seed, "split").permutation(len(self.evaluation)))
        if isinstance(targets, Tensor) and targets.dim() == 1 and not targets.dtype.is_floating_point:
            order = order[torch.argsort(targets.cpu()[order], stable=True)]
        return order[0::2].sort().values, order[1::2].sort().values

    @cached_property
    def search_half(self) -> Samples:
        """The samples that steer the search."""
        return self.evaluation.take(self.halves[0])

    @cached_property
    def sealed_half(self) -> Samples:
        """The samples that only the certificate sees."""
        return self.evaluation.take(self.halves[1])

    @property
    def example(self) -> Any:
        """Inputs of one sample."""
        return tree.take(self.search_half.inputs, slice(0, 1))

    @cached_property
    def _original(self) -> tuple[Tensor, Tensor]:
        return self.measure(self.model, self.search_half)

    @property
    def reference(self) -> Tensor:
        """Logits of the original on the search half."""
        return self._original[1]

    @property
    def baseline(self) -> float:
        """The original's metric on the search half."""
        return float(self._original[0].mean())

    def measure(self, model: nn.Module, samples: Samples) -> tuple[Tensor, Tensor]:
        """The metric of each sample, (N,) float64, and the logits of all.

        Raises:
            NotFiniteError: A logit or a value of the metric is NaN or infinite (logits of minus infinity rule a class
                out).
        """
        scores: list[Tensor] = []
        logits: list[Tensor] = []
        with user_code("the network's forward"), evaluating(model), buffers_kept(model), torch.no_grad():
            for batch in samples.batches(BATCH):
                outputs = tree.call(model, batch.inputs)
                logits.append(self._logits(outputs))
                with user_code(f"metric {self.task.metric.name!r}"):
                    scores.append(scores_of(self.task.metric, self.task.scored(outputs), batch.targets))
        return torch.cat(scores), torch.cat(logits)

    def _logits(self, outputs: Any) -> Tensor:
        with user_code("the task's logits"):
            logits = self.task.logits(outputs)
            if bool((logits.isnan() | logits.isposinf()).any()):
                raise NotFiniteError("logits: they are NaN or infinite on evaluation samples; check those inputs")
        return logits

    @cached_property
    def discovery(self) -> Discovery:
        """Layers that can be compressed, and why others cannot."""
        return discover(self.model, self.search_half.inputs)

    @cached_property
    def calibration(self) -> Calibration:
        """On training inputs for BatchNorm statistics, and others for the divergence."""
        inputs = self.training_inputs(2 * CALIBRATION_SAMPLES)
        half = tree.count(inputs) // 2
        statistics = tree.take(inputs, slice(0, max(1, half)))
        held_out = tree.take(inputs, slice(half, None))  # of one sample both are that
        logits = self.task.logits
        return Calibration(self.model, held_out, outputs_of(self.model, held_out, part=logits), statistics, logits)

    @cached_property
    def teacher(self) -> Teacher:
        """The original's logits on training batches."""
        return Teacher(self.model, self.train, self.task.augment, self.seed, self.task.logits)

    def training_inputs(self, count: int) -> Any:
        """(min(count, N), ...) training inputs, a fixed random choice."""
        order = keyed(self.seed, "training inputs").permutation(len(self.train))
        return tree.take(self.train.inputs, torch.from_numpy(order[:count]))

    @cached_property
    def digest(self) -> str:
        """sha256 over the network's weights, the data, the split, the metric and the recipe."""
        metric = self.task.metric
        digest = Digest(repr((self.task.source, metric.name, metric.higher_is_better, self.task.recipe, self.seed)))
        for name, value in self.model.state_dict().items():
            digest.add(name, value)
        for name, samples in (("train", self.task.train), ("evaluation", self.task.evaluation)):
            digest.add(f"{name}.inputs", samples.inputs)
            digest.add(f"{name}.targets", samples.targets)
        return digest.hexdigest()
