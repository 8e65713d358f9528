"""Whether what is found of a sample hangs on the other samples of its batch: with the network, or with the metric.

Legend: N samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from diminuendo.engine import tree
from diminuendo.engine.counting import buffers_kept
from diminuendo.engine.modules import evaluating
from diminuendo.engine.score import joined_scores, scores_of
from diminuendo.engine.task import Samples, Task, TaskError
from diminuendo.engine.usercode import UserCodeError, user_code

SAMPLES = 61
"""That are looked at, as one batch and as two: no other dimension is likely to be a multiple of it."""

NEAR, NARROW = 1e-2, 5e-2
"""Differences of logits that rounding may make, relative to the largest: batches of other sizes are summed in other
orders. The second one is of logits of less than 32 bits."""

ALIKE = 1e-3
"""And of a metric on the very same outputs."""

Doubt = tuple[str, str]
"""(reason in UPPER_SNAKE_CASE, message)."""


def doubts(model: nn.Module, task: Task, samples: Samples) -> Iterator[Doubt]:
    """What the owner should know of how network and metric take batches.

    A network whose outputs are others each time is not held to it.

    Args:
        model: The original; left as it was.
        samples: A few.
    """
    if len(samples) < 2:
        return
    half = len(samples) // 2
    with evaluating(model), buffers_kept(model), torch.no_grad():
        whole = tree.call(model, samples.inputs)
        logits = task.logits(whole)
        yield from _of_metric(task, whole, samples, half)
        parts = [tree.take(samples.inputs, place) for place in (slice(0, half), slice(half, len(samples)))]
        apart = _gap(logits, [task.logits(tree.call(model, part)) for part in parts])
        near = NARROW if logits.dtype in (torch.bfloat16, torch.float16) else NEAR
        if apart <= near or _gap(logits, [task.logits(tree.call(model, samples.inputs))]) > near:
            return
    yield (
        "MODEL_DEPENDS_ON_BATCH",
        f"model: its logits on {len(samples)} samples are others in two batches than in one, by {100 * apart:.2g} % of "
        "the largest, so that scores hang on how samples fall into batches; check for BatchNorm without running "
        "statistics, and for what is computed over the first dimension",
    )


def _of_metric(task: Task, outputs: Any, samples: Samples, half: int) -> Iterator[Doubt]:
    """The metric of a batch, and of its two halves with the same outputs."""
    metric, count = task.metric, len(samples)
    try:
        with user_code(f"metric {metric.name!r}"):
            whole = scores_of(metric, task.scored(outputs), samples.targets)
            parts = [
                scores_of(metric, task.scored(_rows(outputs, place, count)), tree.take(samples.targets, place))
                for place in (slice(0, half), slice(half, count))
            ]
            apart = joined_scores(metric, parts)
    except (TaskError, UserCodeError):  # the outputs cannot be cut like that; else it has been said before
        return
    if whole.shape != apart.shape:
        return
    gaps = (whole - apart).abs() > ALIKE * whole.abs().max()
    others = int(gaps.reshape(count, -1).any(dim=1).sum())
    if others:
        yield (
            "METRIC_DEPENDS_ON_BATCH",
            f"metric: {metric.name!r} gives something else for {others} of {count} samples when their batch is cut in "
            "two, with the same outputs; it is asked batch by batch, so that its figure hangs on how samples fall into "
            "batches: return what each sample has by itself, and leave what needs all of them to SetMetric.value",
        )


def _rows(outputs: Any, place: slice, count: int) -> Any:
    """What belongs to some samples: rows of tensors that have as many for each; others are left whole."""

    def cut(tensor: Tensor) -> Tensor:
        if not tensor.dim() or not len(tensor) or len(tensor) % count:
            return tensor
        each = len(tensor) // count
        return tensor[place.start * each : place.stop * each]

    return tree.combine(cut, outputs)


def _gap(logits: Tensor, parts: list[Tensor]) -> float:
    """Largest difference, relative to the largest logit; 0 where they cannot be compared."""
    others = torch.cat(parts)
    if logits.shape != others.shape or not logits.numel():
        return 0.0
    gaps = (logits.to(torch.float64) - others.to(torch.float64)).abs()
    finite = logits.abs()[logits.isfinite()]
    found = float(gaps[gaps.isfinite()].max()) if bool(gaps.isfinite().any()) else 0.0
    return found / max(float(finite.max()), 1e-12) if len(finite) else 0.0
