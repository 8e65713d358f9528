"""Ready-made metrics of a set of samples, for `Task.metric`: `rmse`, `f1`, `auc`, `mean_iou`, `perplexity`.

Those that are shares are in points, 0 to 100, so that a delta of 1 is a hundredth. Where a network gives more than one
tensor, `of` is a function that takes the one that the metric is about.

Legend: N samples, C classes, T positions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from diminuendo.engine.task import IGNORED, SetMetric, TaskError, logits_of

Take = Callable[[Any], Tensor]

__all__ = ["auc", "f1", "mean_iou", "perplexity", "rmse"]


def rmse(*, of: Take = logits_of) -> SetMetric:
    """Root of the mean squared error over all values, in the targets' own unit; less is better.

    Args:
        of: outputs -> (N, ...) predictions. Targets are (N, ...) of as many values for each sample.
    """
    return SetMetric("rmse", partial(_squared_errors, of), _root_of_mean, higher_is_better=False)


def _squared_errors(of: Take, outputs: Any, targets: Tensor) -> Tensor:
    found = of(outputs)
    if found.numel() != targets.numel() or len(found) != len(targets):
        raise TaskError(
            f"metric 'rmse': predictions of shape {tuple(found.shape)} for targets of shape {tuple(targets.shape)}; "
            "give as many of each"
        )
    errors = found.to(torch.float64).reshape(len(targets), -1) - targets.to(torch.float64).reshape(len(targets), -1)
    return errors.square().mean(dim=1)


def _root_of_mean(errors: Tensor) -> float:
    return float(errors.mean().sqrt())


def f1(classes: int = 2, *, of: Take = logits_of) -> SetMetric:
    """F1, the harmonic mean of precision and recall, in points.

    Args:
        classes: 2: of class 1 alone. More: the mean over the classes (macro), each by itself; one that is neither among
            targets nor among predictions is left out.
        of: outputs -> (N, C, ...) logits, of which the largest is the prediction; for two classes also (N,) or (N, 1)
            ones, positive for class 1. Targets are (N, ...) class indices; positions of -100 are left out.
    """
    _check_classes("f1", classes)
    return SetMetric("f1", partial(_hits, "f1", classes, of), _binary_f1 if classes == 2 else _macro_f1)


def mean_iou(classes: int, *, of: Take = logits_of) -> SetMetric:
    """Mean over classes of intersection over union, in points, as of semantic segmentation.

    Intersections and unions are summed over all samples first. A class that is neither among targets nor among
    predictions is left out.

    Args:
        classes: C.
        of: outputs -> (N, C, ...) logits, of which the largest is the prediction. Targets are (N, ...) class indices of
            the same positions; those of -100 are left out.
    """
    _check_classes("mean_iou", classes)
    return SetMetric("mean_iou", partial(_hits, "mean_iou", classes, of), _mean_iou)


def _check_classes(name: str, classes: int) -> None:
    if type(classes) is not int or classes < 2:
        raise TaskError(f"metric {name!r}: {classes!r} classes; give the number of classes, at least 2")


def _hits(name: str, classes: int, of: Take, outputs: Any, targets: Tensor) -> Tensor:
    """(N, 3, C): of each class positions that are hit, predicted and wanted."""
    logits = of(outputs)
    if classes == 2 and (logits.dim() == 1 or logits.shape[1] == 1):
        found = (logits.reshape(len(logits), -1) > 0).to(torch.int64)
    else:
        _check_columns(name, logits, classes)
        found = logits.argmax(dim=1).reshape(len(logits), -1)
    wanted = _rows(name, targets, found).to(torch.int64)
    counted = wanted != IGNORED
    if bool((wanted[counted] < 0).any()) or bool((wanted[counted] >= classes).any()):
        raise TaskError(
            f"metric {name!r}: targets reach from {int(wanted[counted].min())} to {int(wanted[counted].max())} for "
            f"{classes} classes; give indices below that, or {IGNORED} for what is left out"
        )
    hit = counted & (found == wanted)
    pairs = ((wanted, hit), (found, counted), (wanted, counted))
    return torch.stack([_tally(index, weights, classes) for index, weights in pairs], dim=1)


def _tally(index: Tensor, weights: Tensor, classes: int) -> Tensor:
    """(N, C) sums of weights at the classes that an (N, T) index names."""
    counts = torch.zeros(len(index), classes, dtype=torch.float64, device=index.device)
    return counts.scatter_add_(1, index.clamp(min=0), weights.to(torch.float64))


def _check_columns(name: str, logits: Tensor, classes: int) -> None:
    if logits.dim() < 2 or logits.shape[1] != classes:
        raise TaskError(
            f"metric {name!r}: logits of shape {tuple(logits.shape)} for {classes} classes; give the number of classes "
            "that dimension 1 has, or `of`, which takes such logits from the outputs"
        )


def _rows(name: str, targets: Any, found: Tensor) -> Tensor:
    """Targets as (N, T), of as many positions as were found."""
    if not isinstance(targets, Tensor) or targets.numel() != found.numel():
        shape = tuple(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
        raise TaskError(
            f"metric {name!r}: targets of shape {shape} for predictions of shape {tuple(found.shape)}; give one class "
            "index for each"
        )
    return targets.reshape(len(found), -1)


def _sums(counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    hit, found, wanted = counts.sum(dim=0)
    return hit, found, wanted


def _binary_f1(counts: Tensor) -> float:
    hit, found, wanted = (each[1] for each in _sums(counts))
    return float(100.0 * 2 * hit / (found + wanted)) if float(found + wanted) else 0.0


def _macro_f1(counts: Tensor) -> float:
    hit, found, wanted = _sums(counts)
    there = found + wanted > 0
    return float(100.0 * (2 * hit / (found + wanted))[there].mean()) if bool(there.any()) else 0.0


def _mean_iou(counts: Tensor) -> float:
    hit, found, wanted = _sums(counts)
    union = found + wanted - hit
    there = union > 0
    return float(100.0 * (hit / union)[there].mean()) if bool(there.any()) else 0.0


def auc(*, of: Take = logits_of) -> SetMetric:
    """Area under the ROC curve of two classes, in points: how often a sample of class 1 scores above one of class 0.

    Equal scores count half. Samples of one class alone have none.

    Args:
        of: outputs -> (N,) or (N, 1) scores, or (N, 2) logits, whose difference is the score. Targets are (N,) of 0 and
            1.
    """
    return SetMetric("auc", partial(_score_and_label, of), _area)


def _score_and_label(of: Take, outputs: Any, targets: Tensor) -> Tensor:
    logits = of(outputs)
    rows = logits.reshape(len(logits), -1).to(torch.float64)
    if rows.shape[1] > 2 or targets.numel() != len(rows):
        raise TaskError(
            f"metric 'auc': logits of shape {tuple(logits.shape)} for targets of shape {tuple(targets.shape)}; give "
            "one score, or two logits, and one target of 0 or 1 for each sample"
        )
    labels = targets.reshape(-1).to(torch.float64)
    if not bool(((labels == 0) | (labels == 1)).all()):
        raise TaskError(
            "metric 'auc': targets are not 0 and 1 alone; give 1 for what is looked for, and 0 for the rest"
        )
    return torch.stack([rows[:, -1] - rows[:, 0] if rows.shape[1] == 2 else rows[:, 0], labels], dim=1)


def _area(pairs: Tensor) -> float:
    """By ranks, equal ones shared (Mann and Whitney 1947)."""
    scores, positive = pairs[:, 0], pairs[:, 1] == 1
    _, place, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).to(torch.float64)
    ranks = (ends - (counts - 1) / 2)[place]
    ones, others = int(positive.sum()), int((~positive).sum())
    if not ones or not others:
        return float("nan")
    above = float(ranks[positive].sum()) - ones * (ones + 1) / 2
    return 100.0 * above / (ones * others)


def perplexity(*, of: Take = logits_of) -> SetMetric:
    """The exponential of the mean cross-entropy over positions, as of language models; less is better.

    Args:
        of: outputs -> (N, T, C) or (N * T, C) logits, the classes last, or (N, C). Targets are (N, T) or (N,) class
            indices of the same positions; those of -100 are left out.
    """
    return SetMetric("perplexity", partial(_surprise, of), _exponential, higher_is_better=False)


def _surprise(of: Take, outputs: Any, targets: Tensor) -> Tensor:
    """(N, 2): the sum of the cross-entropies of a sample's positions, and how many they are."""
    logits = of(outputs)
    rows = logits.reshape(-1, logits.shape[-1]).to(torch.float32)
    if len(rows) != targets.numel():
        raise TaskError(
            f"metric 'perplexity': logits of shape {tuple(logits.shape)} for targets of shape {tuple(targets.shape)}; "
            "give (N, T, C) logits for (N, T) targets"
        )
    wanted = targets.reshape(-1).to(torch.int64)
    losses = functional.cross_entropy(rows, wanted, reduction="none", ignore_index=IGNORED).to(torch.float64)
    counted = (wanted != IGNORED).to(torch.float64)
    return torch.stack([each.reshape(len(targets), -1).sum(dim=1) for each in (losses, counted)], dim=1)


def _exponential(sums: Tensor) -> float:
    losses, count = sums.sum(dim=0)
    return float((losses / count).exp())
