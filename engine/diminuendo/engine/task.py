"""What the owner brings: a trained network, its data, its loss and its metric."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset

from diminuendo.engine import tree
from diminuendo.engine.digest import Digest

IGNORED = -100
"""Class index of a position that the default loss and metric leave out, as in `torch.nn.functional.cross_entropy`."""


class TaskError(ValueError):
    """A task that cannot be worked on; the message names the field, the value and the remedy."""


@dataclass(frozen=True)
class Samples:
    """Samples in memory.

    Attributes:
        inputs: As the network takes them: an (N, ...) tensor, or a nested value of such tensors. A tuple stands for
            positional and a mapping for keyword arguments, see `diminuendo.engine.tree`.
        targets: As loss and metric take them: an (N, ...) tensor, or a nested value of such tensors.
    """

    inputs: Any
    targets: Any

    def __post_init__(self) -> None:
        """Refuse what is not N samples throughout."""
        counts = {}
        for name in ("inputs", "targets"):
            try:
                counts[name] = tree.count(getattr(self, name))
            except ValueError as error:
                raise TaskError(
                    f"{name}: {error} (got {type(getattr(self, name)).__name__}); give tensors whose first dimension "
                    "counts the samples, alone or in tuples, lists, mappings or dataclasses"
                ) from None
        if counts["inputs"] != counts["targets"]:
            raise TaskError(
                f"targets: {counts['targets']} for {counts['inputs']} inputs (shapes {_shapes(self.targets)} and "
                f"{_shapes(self.inputs)}); give one target for each sample"
            )

    def __len__(self) -> int:
        """Number of samples."""
        return tree.count(self.inputs)

    def take(self, index: Tensor | slice) -> Samples:
        """The samples at these indices, in this order."""
        return Samples(tree.take(self.inputs, index), tree.take(self.targets, index))

    def head(self, count: int) -> Samples:
        """The first samples, at most so many."""
        return self.take(slice(0, count))

    def batches(self, size: int) -> Generator[Samples, None, None]:
        """Batches of at most `size` samples, in order."""
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))

    def to(self, device: torch.device | str) -> Samples:
        """The samples on a device, without the graph that made them."""
        return Samples(tree.to(tree.detach(self.inputs), device), tree.to(tree.detach(self.targets), device))

    @property
    def classes(self) -> Tensor | None:
        """(N,) targets, where they are class indices."""
        targets = self.targets
        whole = isinstance(targets, Tensor) and targets.dim() == 1 and not targets.dtype.is_floating_point
        return targets if whole else None

    def same(self, other: Samples) -> bool:
        """Whether all tensors have the same values."""
        pairs = zip(tree.leaves((self.inputs, self.targets)), tree.leaves((other.inputs, other.targets)), strict=False)
        return len(self) == len(other) and all(
            a.shape == b.shape and torch.allclose(a, b, rtol=0.0, atol=0.0, equal_nan=True) for a, b in pairs
        )

    def add_to(self, digest: Digest, name: str) -> None:
        """Tell a digest all of it."""
        digest.add(f"{name}.inputs", self.inputs)
        digest.add(f"{name}.targets", self.targets)


Data = Samples | DataLoader[Any] | Dataset[Any]
"""Samples in memory; or what gives (inputs, targets): a loader in batches, a dataset sample by sample."""


def _shapes(value: Any) -> str:
    return ", ".join(str(tuple(tensor.shape)) for tensor in tree.leaves(value))


def logits_of(outputs: Any) -> Tensor:
    """What is compared with the original's outputs unless a task says otherwise.

    Returns:
        The outputs themselves when they are a tensor; else their ``logits`` (a key or an attribute); else their first
        floating-point tensor of two dimensions or more.

    Raises:
        TaskError: There is none; the message says what the outputs are.
    """
    named = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    others = (leaf for leaf in tree.leaves(outputs) if leaf.dim() > 1 and leaf.is_floating_point())
    for value in (outputs, named, *others):
        if isinstance(value, Tensor) and value.dim() and not value.is_complex():
            return value
    raise TaskError(
        f"logits: no (N, C, ...) tensor of real numbers was found in the network's outputs ({_described(outputs)}); "
        "give Task.logits, a function that takes it from them"
    )


def _described(outputs: Any) -> str:
    found = f"{type(outputs).__name__}"
    return f"{found} of shapes {_shapes(outputs)}" if next(tree.leaves(outputs), None) is not None else found


def _aligned(logits: Tensor, targets: Any) -> Tensor:
    """Class indices as `logits` have their rows: (N, T) ones as (N * T,) where those are (N * T, C).

    Raises:
        TaskError: One of them is not what cross-entropy and top1 are made for.
    """
    if logits.dim() < 2:
        raise TaskError(
            "logits: cross-entropy and top1 take one value for each class, (N, C, ...), not shape "
            f"{tuple(logits.shape)}; give Task.logits, or Task.loss and Task.metric of your own"
        )
    if not isinstance(targets, Tensor):
        raise TaskError(
            f"targets: cross-entropy and top1 take a tensor of class indices, not a {type(targets).__name__}; give "
            "Task.loss and Task.metric"
        )
    indices = targets if targets.is_floating_point() else targets.to(torch.int64)
    rows = len(logits)
    return indices.flatten() if len(indices) != rows and indices.numel() == rows else indices


@dataclass(frozen=True)
class Metric:
    """A metric that is a mean over samples.

    Attributes:
        name: What it is called in reports, e.g. ``top1``.
        score: (outputs, targets) -> (N,) value of each sample of a batch, in points (0 to 100 for an accuracy).
            Outputs are what the network returns in eval mode.
        higher_is_better: Its direction.
    """

    name: str
    score: Callable[[Any, Any], Tensor]
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be reported or called."""
        _check_named(self.name)
        _check_function("metric.score", self.score, "(outputs, targets) -> (N,) value of each sample")


@dataclass(frozen=True)
class SetMetric:
    """A metric of a whole set of samples that is no mean over them: F1, AUC, mAP, mean IoU, RMSE, perplexity, R2.

    What each sample adds is taken batch by batch, and the metric of it once for all samples. The root of the mean
    squared error, for instance, of (N, 1) outputs and targets::

        SetMetric(
            "rmse",
            statistics=lambda outputs, targets: (outputs - targets).square().flatten(),
            value=lambda errors: float(errors.mean().sqrt()),
            higher_is_better=False,
        )

    `diminuendo.engine.metrics` has the common ones ready.

    Attributes:
        name: What it is called in reports, e.g. ``mean_iou``.
        statistics: (outputs, targets) of a batch -> (N, ...) what each sample adds, as numbers: counts, a score and a
            label, an error. Of a sample alone, whatever else is in its batch. Outputs are what the network returns in
            eval mode.
        value: (N, ...) float64 statistics of any samples, in any order -> the metric, in the points that delta is
            given in. It is called many times, on samples drawn with repetition, to see how far chance moves it: draws
            that it raises on or that give no finite number are left out.
        higher_is_better: Its direction.
    """

    name: str
    statistics: Callable[[Any, Any], Tensor]
    value: Callable[[Tensor], float]
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be reported or called."""
        _check_named(self.name)
        _check_function("metric.statistics", self.statistics, "(outputs, targets) -> (N, ...) what each sample adds")
        _check_function("metric.value", self.value, "(N, ...) statistics -> one number")


AnyMetric = Metric | SetMetric


def _check_named(name: Any) -> None:
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise TaskError(f"metric.name: {name!r} cannot be shown in a report; give a short name such as 'top1'")


def _check_function(field: str, value: Any, example: str) -> None:
    if not callable(value):
        raise TaskError(f"{field}: a {type(value).__name__} is not a function; give {example}")


def top1_score(logits: Tensor, targets: Tensor) -> Tensor:
    """How often the largest logit is the target's.

    Args:
        logits: (N, C), (N, C, ...), or (N * T, C).
        targets: (N,), (N, ...) or (N, T) class indices; positions of -100 are left out.

    Returns:
        (N,) of 100.0 or 0.0; where a sample has several positions, 100 times their share.
    """
    wanted = _aligned(logits, targets)
    hits = (logits.argmax(dim=1) == wanted).to(torch.float64) * 100.0
    if targets.dim() == 1:
        return hits
    counted = (wanted != IGNORED).reshape(len(targets), -1)
    return (hits.reshape(len(targets), -1) * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)


TOP1 = Metric("top1", top1_score)


@dataclass(frozen=True)
class Recipe:
    """How candidates are fine-tuned: Nesterov momentum, one-cycle cosine, EMA, distillation.

    Attributes:
        rate: Peak learning rate.
        weight_decay: Of weights whose steps are not orthogonalised.
        orthogonal: Whether steps on the weight matrices of linear layers and convolutions are orthogonalised, see
            `engine.orthogonal`; otherwise all is plain SGD.
        tau: Temperature of the distillation.
        own: Weight of the owner's loss beside the distillation. None: a search tries 0.03 and 1 on one candidate and
            goes on with the better. Labels that the original itself does not fit are learned by heart; where it fits
            them they help.
        ema: Decay of the weights' moving average per step, at most; shorter tunings average over less.
        clip: Largest norm of the gradient.
    """

    rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 1e-4
    batch_size: int = 64
    tau: float = 4.0
    own: float | None = None
    ema: float = 0.99
    clip: float = 5.0
    orthogonal: bool = True


Losses = Tensor | Mapping[str, Tensor]
"""A loss, or named ones that are added up: numbers as tensors."""


def summed(loss: Any) -> Tensor:
    """A loss as one number: itself, or the sum of named ones.

    Raises:
        TaskError: It is something else; says what.
    """
    if isinstance(loss, Mapping) and loss:
        return torch.stack([_number(f"loss {name!r}", part) for name, part in loss.items()]).sum()
    return _number("loss", loss)


def _number(what: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise TaskError(f"{what}: it returned {found}; return one number, as a tensor, or a mapping of such numbers")
    return value.reshape(())


class Batches(Protocol):
    """What gives the batches of a tuning."""

    def __call__(self, size: int | None = None) -> Iterator[Samples]:
        """Batches of so many passes as are asked for; of `size` samples at most, None: of the recipe's."""


@dataclass(frozen=True)
class Fit:
    """What a training loop of the owner's is asked to do, and what it may use; see `Task.fit`.

    A loop that is as ours but for the optimizer::

        def fit(network, fit):
            optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3 * fit.rate)
            for batch in fit.batches():
                optimizer.zero_grad()
                fit.loss(network, batch.inputs, batch.targets).backward()
                optimizer.step()

    Attributes:
        epochs: Passes over the training data that are wanted, or a part of one: 0.25 is a quarter of the samples.
        rate: What learning rates are to be multiplied by: 1 unless a search tries gentler or stronger tunings.
        seed: Of whatever is drawn; torch's, Python's and NumPy's global random numbers follow it already.
        start: Passes that these weights have had before.
        train: The task's training data, as it was given.
        device: Where the network is, and where its inputs and targets are to be.
        teacher: inputs of a batch -> the original's logits on them, without gradient, on the device.
        loss: (network, inputs, targets) of a batch -> scalar, what our own tuning makes small: the owner's loss and
            the distance from the original. Runs the network.
        batches: Training samples on the device in a seeded order, augmented as the task says, `epochs` passes of them:
            `batches()` in the recipe's batch size, `batches(size)` in another one, at most so large.
    """

    epochs: float
    rate: float
    seed: int
    start: float
    train: Data
    device: torch.device
    teacher: Callable[[Any], Tensor]
    loss: Callable[[nn.Module, Any, Any], Tensor]
    batches: Batches


Augment = Callable[[Any, torch.Generator], Any]
MakeOptimizer = Callable[[list[nn.Parameter]], Optimizer]
MakeScheduler = Callable[[Optimizer, int], LRScheduler]


@dataclass(frozen=True)
class Task:
    """A compression task.

    Attributes:
        model: The trained network. Never changed.
        train: Training samples; fine-tuning and covariances use them. A loader is read with its own settings (batch
            size, order, collate_fn, number of workers), a dataset by items (input, target). What fits into memory is
            read once, unless the dataset augments; other data is streamed.
        evaluation: Samples that the network was not trained on, at least 20; one half steers the search, the
            other is sealed for the certificate. As `train`; what does not fit into memory is read by index.
        loss: (outputs, targets) -> scalar, or a mapping of scalars that are added up; of what the network returns in
            training mode. The default, and it alone, is given the logits in place of the outputs.
        metric: What delta is about: a mean over samples (`Metric`), or any other figure of a set of them (`SetMetric`).
            `TOP1`, and it alone, is given the logits in place of the outputs.
        augment: (inputs, generator) -> inputs of a training batch; None: as they are.
        recipe: How candidates are fine-tuned.
        name: For people.
        source: How the network is built again by `load`, e.g. ``zoo:digits``; empty when `load` is to be given it.
        logits: outputs -> (N, C, ...) the part of them that is held against the original's, by the KL divergence
            over dimension 1; where C is 1, as in a regression, by the squared difference. A language model says
            ``lambda outputs: outputs.logits.flatten(0, 1)``, a regression of many values
            ``lambda outputs: outputs.unsqueeze(1)``. What the metric looks at is to be in it: a head that is not costs
            nothing to harm, as far as the survey can see.
        optimizer: parameters -> what steps on them, e.g. ``lambda parameters: torch.optim.AdamW(parameters, 1e-3)``;
            None: as the recipe has it. Its rates rise and fall over the steps as the recipe's does, unless there is a
            scheduler.
        scheduler: (optimizer, steps) -> what sets its rates, called once after each of so many steps; None: one cycle.
        forward: (network, inputs) -> outputs of a batch, wherever the network is run; None: the network is called, see
            `diminuendo.engine.tree.call`.
        fit: (network, fit) -> None, a training loop in place of ours, which trains the network in place; see `Fit`.
            Every candidate is tuned by it, and the original for comparison. Optimizer and scheduler are then its own
            matter, bfloat16 is not tried, BatchNorm's statistics stay as it leaves them, and where memory runs out it
            is not run again in smaller batches. Weights that it leaves NaN or infinite count as diverged. It must train
            what requires a gradient and nothing else, replace no module, and draw random numbers from torch's, Python's
            or NumPy's global generators or one of `Fit.seed` alone, so that a job can be repeated.
    """

    model: nn.Module
    train: Data
    evaluation: Data
    loss: Callable[[Any, Any], Losses] = functional.cross_entropy
    metric: AnyMetric = TOP1
    augment: Augment | None = None
    recipe: Recipe = Recipe()
    name: str = "task"
    source: str = ""
    logits: Callable[[Any], Tensor] = logits_of
    optimizer: MakeOptimizer | None = None
    scheduler: MakeScheduler | None = None
    forward: Callable[[nn.Module, Any], Any] | None = None
    fit: Callable[[nn.Module, Fit], None] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be called."""
        examples = {
            "loss": "(outputs, targets) -> scalar",
            "logits": "outputs -> (N, C, ...) tensor",
            "augment": "(inputs, generator) -> inputs, or None",
            "optimizer": "lambda parameters: torch.optim.AdamW(parameters, lr=1e-3), or None",
            "scheduler": "lambda optimizer, steps: lr_scheduler.CosineAnnealingLR(optimizer, steps), or None",
            "forward": "(network, inputs) -> outputs, or None",
            "fit": "(network, fit) -> None, which trains the network in place, or None",
        }
        for name, example in examples.items():
            value = getattr(self, name)
            if value is not None or name in ("loss", "logits"):
                _check_function(name, value, example)
        if not isinstance(self.metric, Metric | SetMetric):
            raise TaskError(
                f"metric: a {type(self.metric).__name__} is neither a Metric nor a SetMetric; give Metric(name, score) "
                "for a mean over samples, SetMetric(name, statistics, value) for any other"
            )

    def loss_of(self, outputs: Any, targets: Any) -> Tensor:
        """The loss of a batch."""
        if self.loss is not functional.cross_entropy:
            return summed(self.loss(outputs, targets))
        logits = self.logits(outputs)
        return functional.cross_entropy(logits, _aligned(logits, targets))

    @property
    def by_top1(self) -> bool:
        """Whether the metric is how often the largest logit is the target's."""
        return isinstance(self.metric, Metric) and self.metric.score is top1_score

    def scored(self, outputs: Any) -> Any:
        """What the metric is given of the outputs."""
        return self.logits(outputs) if self.by_top1 else outputs
