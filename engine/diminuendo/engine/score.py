"""Scoring: outputs of a network, its metric, its divergence from the original, and paired intervals.

Legend: N samples, C classes.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from diminuendo.engine import tree
from diminuendo.engine.bootstrap import Draws, standard_error
from diminuendo.engine.counting import buffers_kept
from diminuendo.engine.modules import evaluating
from diminuendo.engine.search.work import Verdict
from diminuendo.engine.task import AnyMetric, Metric, SetMetric, TaskError

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


BATCH = 250
"""Samples in one forward. The same everywhere: logits may be laid out batch by batch."""


class NotFiniteError(TaskError):
    """Raised for outputs or scores that are not finite.

    Data or the owner's code is to blame where the original network gives them, else the candidate that does.
    """


def outputs_of(
    model: nn.Module, inputs: Any, *, batch_size: int = BATCH, part: Callable[[Any], Any] = lambda outputs: outputs
) -> Any:
    """Outputs of a network in eval mode, batch by batch; it is left as it was, modes and buffers included.

    Args:
        model: Takes a batch of inputs, see `diminuendo.engine.tree.call`.
        inputs: (N, ...) samples, or a nested value of them.
        batch_size: At most so many samples in a batch.
        part: outputs -> what of a batch's outputs is kept.

    Returns:
        What is kept of all batches: a nested value of (N, ...) tensors without gradient.
    """
    # Not in inference mode: what a network keeps of its forward could not be trained with afterwards.
    with evaluating(model), buffers_kept(model), torch.no_grad():
        return tree.concat([part(tree.call(model, batch)) for batch in tree.batches(inputs, batch_size)])


def scores_of(metric: AnyMetric, outputs: Any, targets: Any) -> Tensor:
    """What each sample of a batch adds to a metric.

    Returns:
        Of a `Metric` (N,) float64 values of the samples; of a `SetMetric` (N, ...) float64 statistics, on the CPU.

    Raises:
        TaskError: The metric returned something else than that.
        NotFiniteError: A number of it is not finite.
    """
    by_set = isinstance(metric, SetMetric)
    scores = metric.statistics(outputs, targets) if isinstance(metric, SetMetric) else metric.score(outputs, targets)
    count = tree.count(targets)
    fits = isinstance(scores, Tensor) and (scores.shape[:1] if by_set else scores.shape) == (count,)
    if not fits or scores.is_complex():
        found = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        wanted = "what each sample adds, shape (N, ...) with" if by_set else "one value for each sample, shape"
        wanted += f" N = {count}" if by_set else f" ({count},)"
        raise TaskError(f"metric {metric.name!r} returned {found} for {count} samples; return {wanted}")
    scores = scores.detach().to("cpu" if by_set else scores.device, torch.float64)
    if not bool(torch.isfinite(scores).all()):
        raise NotFiniteError(f"metric {metric.name!r} returned a value that is not finite; check it on a single batch")
    return scores


def joined_scores(metric: AnyMetric, batches: Sequence[Tensor]) -> Tensor:
    """The batches' `scores_of` together.

    Raises:
        TaskError: They differ in shape from batch to batch.
    """
    shapes = {tuple(scores.shape[1:]) for scores in batches}
    if len(shapes) > 1:
        raise TaskError(
            f"metric {metric.name!r} returned statistics of other shapes in other batches (of a sample "
            f"{', '.join(map(str, sorted(shapes)))}); return the same shape for every sample, padded where they differ"
        )
    return torch.cat(list(batches))


def value_of_metric(metric: AnyMetric, scores: Tensor) -> float:
    """The figure of a set of samples: of a `Metric` the mean.

    Args:
        scores: (N, ...) what each sample adds, as of `scores_of`.

    Raises:
        TaskError: A `SetMetric`'s value is no number.
        NotFiniteError: It is not finite.
    """
    if isinstance(metric, Metric):
        return float(scores.mean())
    value = _number(metric, metric.value(scores.clone()))  # an owner's function may sort in place
    if not math.isfinite(value):
        raise NotFiniteError(
            f"metric {metric.name!r} is {value} of {len(scores):,} samples; let SetMetric.value give a finite number"
        )
    return value


def _number(metric: SetMetric, found: Any) -> float:
    """A number of any kind as a float."""
    if isinstance(found, Tensor) and found.numel() == 1 and not found.is_complex():
        return float(found.detach())
    if isinstance(found, numbers.Real) and not isinstance(found, bool):
        return float(found)
    said = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
    raise TaskError(f"metric {metric.name!r}: its value is {said}; let SetMetric.value return one real number")


def rows_of(logits: Tensor) -> Tensor:
    """(N, C, ...) logits of any kind of number as (N * positions, C) floating-point ones; (N,) has C = 1."""
    if not logits.is_floating_point():
        logits = logits.to(torch.float32)
    return logits.unsqueeze(1) if logits.dim() < 2 else logits.movedim(1, -1).flatten(0, -2)


def variance(values: Tensor) -> Tensor:
    """Over all elements, as a divisor: 1 where there is none."""
    found = values.var(correction=0)
    return torch.where(found > 0, found, torch.ones_like(found))


def divergence(reference: Tensor, outputs: Tensor) -> float:
    """KL(reference || outputs) in nats, mean over samples and positions: of the softmax over dimension 1.

    One column has no softmax: its values are taken for the means of normal distributions with the variance of the
    reference's, whose divergence is half the squared difference in units of that.

    Args:
        reference: (N, C, ...), or (N,), of any kind of number.
        outputs: Of the same shape.

    Returns:
        At least 0; NaN when an output is not finite.

    Raises:
        TaskError: The shapes differ.
    """
    found = Divergence()
    found.add(reference, outputs)
    return found.value


class Divergence:
    """`divergence` of outputs that come in batches."""

    def __init__(self) -> None:
        """Of no samples yet."""
        self._rows = 0
        self._total = 0.0
        self._seen: list[Tensor] = []

    def add(self, reference: Tensor, outputs: Tensor) -> None:
        """Take in a batch; see `divergence`."""
        check_shapes(reference, outputs)
        p, q = rows_of(reference).to(torch.float64), rows_of(outputs).to(torch.float64)
        self._rows += len(p)
        if p.shape[1] == 1:
            self._seen.append(p)
            self._total += float((q - p).square().sum())
            return
        log_p, log_q = functional.log_softmax(p, dim=1), functional.log_softmax(q, dim=1)
        terms = torch.where(log_p == -math.inf, 0.0, log_p.exp() * (log_p - log_q))  # a class that is ruled out
        self._total += float(terms.sum())

    @property
    def value(self) -> float:
        """Nats per sample and position."""
        kl = self._total / self._rows
        if self._seen:
            kl /= 2 * float(variance(torch.cat(self._seen)))
        return max(0.0, kl) if math.isfinite(kl) else float("nan")


class Varying:
    """How much outputs vary over samples that come in batches, against a reference's.

    By the variance of the softmax, or of the value where there is one column, at each position by itself.
    """

    def __init__(self) -> None:
        """Of no samples yet."""
        self._reference = 0.0
        self._outputs = 0.0

    def add(self, reference: Tensor, outputs: Tensor) -> None:
        """Take in a batch."""
        self._reference += self._summed(reference)
        self._outputs += self._summed(outputs)

    @staticmethod
    def _summed(logits: Tensor) -> float:
        rows = rows_of(logits).to(torch.float64)
        values = rows if rows.shape[1] == 1 else rows.softmax(dim=1)
        samples = values.reshape(len(logits), -1)
        return float((samples - samples.mean(dim=0)).square().sum())

    @property
    def share(self) -> float:
        """Of the reference's variance; 1 where that has none, or is not finite."""
        share = self._outputs / self._reference if self._reference > 0 else 1.0
        return share if math.isfinite(share) else 1.0


def check_shapes(reference: Tensor, outputs: Tensor) -> None:
    """Refuse logits that cannot be compared.

    Raises:
        TaskError: Says both shapes.
    """
    if reference.shape != outputs.shape:
        raise TaskError(
            f"logits: shape {tuple(outputs.shape)} where the original network has {tuple(reference.shape)}; give "
            "Task.logits so that the same inputs give the same shape, in training mode too"
        )


def deviation_of(metric: AnyMetric, scores: Tensor) -> float:
    """Standard deviation of what a sample brings, in points: the metric's standard error times the root of N.

    Args:
        scores: (N, ...) as of `scores_of`.

    Raises:
        TaskError: A `SetMetric` has a value on hardly any draw of the samples.
    """
    if isinstance(metric, Metric):
        return float(scores.std(correction=0))
    draws = _draws(metric, scores)
    return math.sqrt(len(scores)) * standard_error(draws.of(scores))


def _draws(metric: SetMetric, scores: Tensor) -> Draws:
    return Draws(lambda drawn: _number(metric, metric.value(drawn)), scores)


def verdict(metric: AnyMetric, original: Tensor, candidate: Tensor) -> Verdict:
    """Compare two networks on the same samples, see `Comparison`.

    Args:
        metric: Gives the direction: a drop is a loss.
        original: (N, ...) what each sample adds with the original network.
        candidate: (N, ...) with the candidate.

    Returns:
        The candidate's metric, drop in points (positive is worse) and its 95 % interval.
    """
    return Comparison(metric, original).verdict(candidate)


class Comparison:
    """Compares networks with the original on the same samples.

    For a mean over samples the interval is that of Agresti and Min (2005) for paired proportions: two pseudo-samples,
    one half in each cell of the table, so that a handful of disagreements, or none, does not pass for certainty. For
    metrics that are not proportions the cells lie at the spread of the samples' values.

    Any other metric has no such sum. Its standard error is taken from a paired bootstrap: both networks on the same
    draws of samples with repetition. What the pseudo-samples add to the variance is the square of what one sample
    brings as it goes from one end of the spread to the other; so the same is added here, with what single samples
    bring as the metric falls without them. For a metric that is a mean in disguise the intervals are alike.
    """

    def __init__(self, metric: AnyMetric, original: Tensor) -> None:
        """Look at the original.

        Args:
            metric: Gives the direction: a drop is a loss.
            original: (N, ...) what each sample adds with the original network.
        """
        self._metric = metric
        self._sign = 1.0 if metric.higher_is_better else -1.0
        self._original = original
        self.original = value_of_metric(metric, original)
        """The original's metric."""
        if isinstance(metric, SetMetric):
            self._draws = _draws(metric, original)
            self._drawn = self._draws.of(original)
            self._influences = self._draws.influences(original)

    def verdict(self, candidate: Tensor) -> Verdict:
        """The candidate's metric, drop in points (positive is worse) and its 95 % interval; of (N, ...) scores."""
        if isinstance(self._metric, Metric):
            return self._of_mean(candidate)
        value = value_of_metric(self._metric, candidate)
        drop = (self.original - value) * self._sign
        error = standard_error(self._drawn - self._draws.of(candidate))
        influences = torch.cat([self._influences, self._draws.influences(candidate)])
        spread = float(influences.max() - influences.min()) if len(influences) else 0.0
        margin = Z95 * math.hypot(error, spread)
        return Verdict(value, drop, drop - margin, drop + margin)

    def _of_mean(self, candidate: Tensor) -> Verdict:
        losses = (self._original - candidate) * self._sign
        both = torch.cat([self._original, candidate])
        spread = float(both.max() - both.min())
        count = len(losses)
        # Half a pseudo-sample in each of the four cells: two at no difference, one each at -spread and +spread.
        size = count + 2.0
        centre = float(losses.sum()) / size
        square = (float((losses**2).sum()) + spread**2) / size
        margin = Z95 * math.sqrt(max(0.0, square - centre**2) / size)
        drop = float(losses.mean())
        return Verdict(float(candidate.mean()), drop, min(drop, centre - margin), max(drop, centre + margin))
