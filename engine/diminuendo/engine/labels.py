"""Which classes the data is labelled with, and which of them a half of the evaluation data lacks.

Legend: N samples, C classes.
"""

from __future__ import annotations

from collections import Counter

from torch import Tensor

from diminuendo.engine.search.work import Labels


def labels_of(
    train: Tensor | None, search: Tensor | None, sealed: Tensor | None, logits: Tensor, *, top1: bool
) -> Labels | None:
    """What is known of the classes.

    Args:
        train: (N,) class indices of the training data, or of what is known of it; None where it has none.
        search: Of the search half.
        sealed: Of the sealed half.
        logits: (N, C) of the search half.
        top1: Whether the metric is how often the largest logit is the target's.

    Returns:
        None where targets are no class indices of these logits.
    """
    if search is None or sealed is None or logits.dim() != 2 or logits.shape[1] < 2:
        return None
    count = logits.shape[1]
    had = _counts(search, count)
    if had is None or not had:
        return None
    judged, trained = _counts(sealed, count), {} if train is None else _counts(train, count)
    if judged is None or trained is None:
        return None
    return Labels(
        classes=count,
        majority=max(had.values()) / len(search),
        unseen=tuple(sorted((judged.keys() | trained.keys()) - had.keys())),
        unjudged=tuple(sorted((had.keys() | trained.keys()) - judged.keys())),
        top1=top1,
    )


def _counts(targets: Tensor, classes: int) -> dict[int, int] | None:
    """Samples of each class, those that are left out (negative ones) left out; None where one is no class."""
    counted = Counter(targets.tolist())
    if max(counted, default=0) >= classes:
        return None
    return {index: count for index, count in counted.items() if index >= 0}
