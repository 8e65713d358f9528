"""What an evaluator keeps in memory for one source: task, split, teacher, reference outputs, factors, weights."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from diminuendo.engine import batching, surgery, tree, weights, zoo
from diminuendo.engine.counting import buffers_kept
from diminuendo.engine.data import Indexed, Stream
from diminuendo.engine.digest import Digest
from diminuendo.engine.fitting import tried
from diminuendo.engine.gather import evaluation, training
from diminuendo.engine.labels import labels_of
from diminuendo.engine.latency import LatencyCache, Timetable, default_folder
from diminuendo.engine.modules import (
    CopyError,
    UninitializedError,
    check_initialized,
    copied,
    evaluating,
    unwrapped,
    with_forward,
)
from diminuendo.engine.original import Lesson
from diminuendo.engine.precision import is_image, lay_out
from diminuendo.engine.refit import HEAD_SAMPLES, LAYER_SAMPLES, OUTPUT_BYTES, Head, head_of, refit
from diminuendo.engine.score import BATCH, NotFiniteError, joined_scores, scores_of, value_of_metric
from diminuendo.engine.search.rng import keyed, keyed_seed
from diminuendo.engine.search.work import Labels
from diminuendo.engine.store import ArtifactStore
from diminuendo.engine.streaming import StreamTeacher
from diminuendo.engine.survey.calibrate import Calibration
from diminuendo.engine.survey.discover import Discovery, discover
from diminuendo.engine.survey.norms import follow
from diminuendo.engine.task import Metric, Recipe, Samples, Task, TaskError
from diminuendo.engine.teacher import Teacher
from diminuendo.engine.tryout import Pace, fastest, ways
from diminuendo.engine.usercode import UserCodeError, user_code
from diminuendo.engine.zoo.catalog import UnknownNetworkError

__all__ = ["Cache", "UserCodeError", "Workbench", "fast", "resolve", "user_code"]

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Where everything is computed; Ray shows an evaluator only the GPU that it was given."""

LEAST_EVALUATION_SAMPLES = 20
EXAMPLES = 16
"""Evaluation samples on which it is seen what the network is made of."""

CALIBRATION_SAMPLES = 128
"""Training samples on which the calibration measures."""

BATCHNORM_SAMPLES = 2000
"""Training samples for BatchNorm's statistics."""

CACHED_BYTES = 512 * 2**20
"""Most memory for tensors read from the store."""


def fast(model: nn.Module, inputs: Any) -> nn.Module:
    """The same module with its 4-dimensional weights in channels-last order, when it takes images and nothing else.

    Convolutions and BatchNorm are faster that way on CPUs and GPUs alike: 1.5 times for a whole step of tuning.
    """
    if is_image(inputs):
        lay_out(model, channels_last=True)
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
        train: Training samples, on the model's device, or what puts them there.
        evaluation: Evaluation samples, likewise.
    """

    task: Task
    seed: int
    model: nn.Module = field(init=False, repr=False)
    train: Samples | Stream = field(init=False, repr=False)
    evaluation: Samples | Indexed = field(init=False, repr=False)
    _read: tuple[int, Samples] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the task, read its data, and take a copy of its network, laid out as it tunes fastest."""
        found = evaluation(self.task.evaluation)
        if len(found) < LEAST_EVALUATION_SAMPLES:
            raise TaskError(
                f"evaluation: {len(found)} samples cannot be split into a search and a sealed half; "
                f"bring at least {LEAST_EVALUATION_SAMPLES} that the network was not trained on"
            )
        train = training(self.task.train, self.task.recipe.batch_size)
        if not len(train):
            raise TaskError("train: there are no training samples; fine-tuning and the survey need some")
        with user_code("copying the network"):
            self.model = self._copy().to(DEVICE)
        self.train, self.evaluation = train.to(DEVICE), found.to(DEVICE)
        self.fast(self.model)

    def _copy(self) -> nn.Module:
        """The owner's network without what is around it, in eval mode, and run as its owner says."""
        try:
            inner = unwrapped(self.task.model)
            check_initialized(inner)
            return with_forward(copied(inner).eval(), self.task.forward)
        except (UninitializedError, CopyError) as error:
            raise TaskError(f"model: {error}") from error

    def fast(self, model: nn.Module) -> nn.Module:
        """The network, laid out as it computes fastest on this data."""
        return fast(model, self.example)

    @cached_property
    def recipe(self) -> Recipe:
        """The task's, with the batches of its loader."""
        size = self.task.train.batch_size if isinstance(self.task.train, DataLoader) else None
        return self.task.recipe if size is None else replace(self.task.recipe, batch_size=size)

    @cached_property
    def halves(self) -> tuple[Tensor, Tensor]:
        """Indices of the search and of the sealed half: a random split, stratified where targets are classes."""
        classes = self.evaluation.classes
        order = torch.from_numpy(keyed(self.seed, "split").permutation(len(self.evaluation)))
        if classes is not None:
            order = order[torch.argsort(classes.cpu()[order], stable=True)]
        return order[0::2].sort().values, order[1::2].sort().values

    @cached_property
    def search_half(self) -> Samples | Indexed:
        """The samples that steer the search."""
        return self.evaluation.take(self.halves[0])

    @cached_property
    def sealed_half(self) -> Samples | Indexed:
        """The samples that only the certificate sees."""
        return self.evaluation.take(self.halves[1])

    @cached_property
    def examples(self) -> Any:
        """Inputs of a few samples of the search half."""
        return self.search_half.head(EXAMPLES).inputs

    @property
    def example(self) -> Any:
        """Inputs of one sample."""
        return tree.take(self.examples, slice(0, 1))

    @cached_property
    def _original(self) -> tuple[Tensor, Tensor]:
        return self.measure(self.model, self.search_half)

    @property
    def reference(self) -> Tensor:
        """Logits of the original on the search half."""
        return self._original[1]

    @property
    def values(self) -> Tensor:
        """What each sample of the search half adds to the original's metric, see `measure`."""
        return self._original[0]

    @property
    def baseline(self) -> float:
        """The original's metric on the search half."""
        return self.value_of(self.values)

    def value_of(self, scores: Tensor) -> float:
        """The metric of samples, from what each adds to it.

        Raises:
            NotFiniteError: It is NaN or infinite.
        """
        with user_code(f"metric {self.task.metric.name!r}"):
            return value_of_metric(self.task.metric, scores)

    def labels(self, count: int) -> Labels | None:
        """Classes of the data; of streamed training data those of so many samples. None where targets are none."""
        train = self.train.classes if isinstance(self.train, Samples) else self._some(count).classes
        top1 = self.task.by_top1
        return labels_of(train, self.search_half.classes, self.sealed_half.classes, self.reference, top1=top1)

    def measure(self, model: nn.Module, samples: Samples | Indexed) -> tuple[Tensor, Tensor]:
        """What each sample adds to the metric, (N,) values or (N, ...) statistics, float64; and the logits of all.

        Raises:
            NotFiniteError: A logit or a value of the metric is NaN or infinite (logits of minus infinity rule a class
                out).
        """
        scores: list[Tensor] = []
        logits: list[Tensor] = []
        with (
            user_code("the network's forward"),
            evaluating(model),
            buffers_kept(model),
            torch.no_grad(),
            closing(samples.batches(BATCH)) as batches,
        ):
            for batch in batches:
                outputs = tree.call(model, batch.inputs)
                logits.append(self._logits(outputs))
                with user_code(f"metric {self.task.metric.name!r}"):
                    scores.append(scores_of(self.task.metric, self.task.scored(outputs), batch.targets))
        return joined_scores(self.task.metric, scores), torch.cat(logits)

    def notes(self) -> tuple[tuple[str, str], ...]:
        """(reason, message) of what the owner should know of network, metric and training loop."""
        some = self.search_half.head(batching.SAMPLES)
        with user_code("the network's forward"):
            found = tuple(batching.doubts(self.model, self.task, some))
        return found + self.pace.notes

    def _logits(self, outputs: Any) -> Tensor:
        with user_code("the task's logits"):
            logits = self.task.logits(outputs)
            if bool((logits.isnan() | logits.isposinf()).any()):
                raise NotFiniteError("logits: they are NaN or infinite on evaluation samples; check those inputs")
        return logits

    @cached_property
    def discovery(self) -> Discovery:
        """Layers that can be compressed, and why others cannot."""
        return discover(self.model, self.examples)

    @cached_property
    def absorbed(self) -> frozenset[str]:
        """Layers whose outputs go straight into a BatchNorm."""
        return follow(self.model, self.discovery.layers, self.examples).absorbing

    @cached_property
    def head(self) -> Head | None:
        """The layer that gives the logits, if one does."""
        names = [spec.name for spec in self.discovery.layers] + [name for name, _ in self.discovery.left_dense]
        name = head_of(self.model, names, self.examples, self.task.logits)
        if name is None:
            return None
        return Head(self.model, name, self.training_inputs(HEAD_SAMPLES), seed=keyed_seed(self.seed, "head"))

    def refit(self, candidate: nn.Module, reference: nn.Module, names: Collection[str], *, parts: int = 1) -> None:
        """Fit replaced layers to what the original's or a parent's give, each on what those before it leave.

        Args:
            candidate: Changed in place; it has to be settled afterwards.
            reference: The original, or the network that the candidate's weights are from.
            names: Of the layers.
            parts: By how much less memory it may take than it would.
        """
        with user_code("the network's forward"):
            refit(
                candidate,
                reference,
                names,
                self.training_inputs(LAYER_SAMPLES),
                absorbed=self.absorbed,
                batch_size=BATCH,
                seed=keyed_seed(self.seed, "refit"),
                output_bytes=OUTPUT_BYTES // parts,
            )

    def settle(self, model: nn.Module) -> None:
        """Re-estimate a network's BatchNorm, and fit its head to the original's logits."""
        with user_code("the network's forward"):
            surgery.reestimate_batchnorm(model, self.training_inputs(BATCHNORM_SAMPLES), BATCH)
            if self.head is not None:
                self.head.fit(model, self.training_inputs(HEAD_SAMPLES))

    @cached_property
    def calibration(self) -> Calibration:
        """On training inputs."""
        return Calibration(self.model, self.training_inputs(CALIBRATION_SAMPLES), self.task.logits)

    @cached_property
    def timetable(self) -> Timetable:
        """Times of the network and of forms of its layers; what was timed before on this device is known."""
        names = [spec.name for spec in self.discovery.layers]
        cache = LatencyCache(default_folder())
        return Timetable(self.model, names, self.example, self.fast, cache=cache)

    @cached_property
    def teacher(self) -> Teacher | StreamTeacher:
        """The original's logits on training batches."""
        task = self.task
        if isinstance(self.train, Stream):
            return StreamTeacher(self.model, self.train, task.augment, task.logits)
        return Teacher(self.model, self.train, task.augment, self.seed, task.logits)

    @cached_property
    def pace(self) -> Pace:
        """How tuning is fastest here, from a few steps of it on the original; the owner's own loop is only timed."""
        if self.task.fit is not None:
            way, count = ways(self.model, self.example)[0], len(self.train)
            return tried(self.model, self.task, self.teacher, self.recipe, count, way)
        some = self._some(min(max(2, self.recipe.batch_size), len(self.train)))
        lesson = Lesson(some.inputs, some.targets, self.teacher.on(some.inputs))
        return fastest(self.model, replace(self.task, recipe=self.recipe), lesson, ways(self.model, self.example))

    def training_inputs(self, count: int) -> Any:
        """(min(count, N), ...) training inputs, a fixed random choice; of streamed data at most `PART_BYTES`."""
        return self._some(count).inputs

    def _some(self, count: int) -> Samples:
        """Training samples, of which fewer are the first of more."""
        order = keyed(self.seed, "training inputs").permutation(len(self.train))
        if isinstance(self.train, Samples):
            return self.train.take(torch.from_numpy(order[:count]))
        if self._read is None or self._read[0] < count:
            self._read = count, self.train.some(order[:count].tolist())
        return self._read[1].head(count)

    @cached_property
    def digest(self) -> str:
        """sha256 over the network's weights, the data, the split, the metric, the recipe and the owner's functions."""
        task = self.task
        digest = Digest(repr((task.source, task.metric.name, task.metric.higher_is_better, self.recipe, self.seed)))
        for name, value in self.model.state_dict().items():
            digest.add(name, value)
        self.train.add_to(digest, "train")
        self.evaluation.add_to(digest, "evaluation")
        for name in ("loss", "augment", "logits", "optimizer", "scheduler", "forward", "fit"):
            digest.add_code(name, getattr(task, name))
        metric = task.metric
        for part in (metric.score,) if isinstance(metric, Metric) else (metric.statistics, metric.value):
            digest.add_code("metric", part)
        return digest.hexdigest()
