"""Scoring: outputs of a network, its metric, its divergence from the original, and paired intervals.

Legend: N samples, C classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from diminuendo.engine.search.work import Verdict
from diminuendo.engine.task import Metric, TaskError

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


@torch.inference_mode()
def outputs_of(model: nn.Module, inputs: Tensor, *, batch_size: int = 256) -> Tensor:
    """Outputs of a network in eval mode, batch by batch; its mode is restored.

    Args:
        model: Takes a batch and returns (N, ...) outputs.
        inputs: (N, ...) samples.

    Returns:
        (N, ...) outputs, as an ordinary tensor without gradient.
    """
    training = model.training
    model.eval()
    try:
        parts = [model(batch) for batch in torch.split(inputs, batch_size)]
    finally:
        model.train(training)
    return torch.cat(parts).clone()


def scores_of(metric: Metric, outputs: Tensor, targets: Tensor) -> Tensor:
    """(N,) float64 value of each sample.

    Raises:
        TaskError: The metric returned another shape or a value that is not finite.
    """
    scores = metric.score(outputs, targets).to(torch.float64)
    if scores.shape != (len(outputs),):
        raise TaskError(
            f"metric {metric.name!r} returned shape {tuple(scores.shape)} for {len(outputs)} samples; "
            f"return one value for each sample, shape ({len(outputs)},)"
        )
    if not bool(torch.isfinite(scores).all()):
        raise TaskError(f"metric {metric.name!r} returned a value that is not finite; check it on a single batch")
    return scores


def divergence(reference: Tensor, outputs: Tensor) -> float:
    """KL(reference || outputs) of the softmax over dimension 1, in nats, mean over samples and positions.

    Not finite when an output is not.
    """
    log_p = functional.log_softmax(reference.to(torch.float64), dim=1)
    log_q = functional.log_softmax(outputs.to(torch.float64), dim=1)
    kl = (log_p.exp() * (log_p - log_q)).sum(dim=1).mean()
    return max(0.0, float(kl)) if math.isfinite(float(kl)) else float("nan")


def verdict(metric: Metric, original: Tensor, candidate: Tensor) -> Verdict:
    """Compare two networks on the same samples.

    The interval is that of Agresti and Min (2005) for paired proportions: two pseudo-samples, one half in each
    cell of the table, so that a handful of disagreements, or none, does not pass for certainty. For metrics that
    are not proportions the cells lie at the spread of the samples' values.

    Args:
        metric: Gives the direction: a drop is a loss.
        original: (N,) values of the original network.
        candidate: (N,) values of the candidate.

    Returns:
        Mean of the candidate, drop in points (positive is worse) and its 95 % interval.
    """
    sign = 1.0 if metric.higher_is_better else -1.0
    losses = (original - candidate) * sign
    both = torch.cat([original, candidate])
    spread = float(both.max() - both.min())
    count = len(losses)
    # Half a pseudo-sample in each of the four cells: two at no difference, one each at -spread and +spread.
    size = count + 2.0
    centre = float(losses.sum()) / size
    square = (float((losses**2).sum()) + spread**2) / size
    margin = Z95 * math.sqrt(max(0.0, square - centre**2) / size)
    drop = float(losses.mean())
    return Verdict(float(candidate.mean()), drop, min(drop, centre - margin), max(drop, centre + margin))
