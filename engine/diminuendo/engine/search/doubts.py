"""What is doubtful about a job before its search: the original, its classes, and what its evaluation data can tell."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from diminuendo.engine.search.state import Request
from diminuendo.engine.search.work import Labels, Prepared

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""

CHANGED = 0.125
"""Share of the samples whose value a compression changes: 10 to 15 % of predictions, as measured at small drops."""

NAMED = 8
"""Most classes that a message names."""

Doubt = tuple[str, str]
"""(reason in UPPER_SNAKE_CASE, message)."""


def hopeless(prepared: Prepared) -> str | None:
    """Why there is nothing to keep: the original guesses. None when that is not certain.

    An original that guesses loses nothing whatever is done to it: the smallest network there is would be certified.
    It is taken to guess when its accuracy cannot be told from that of a guess among all classes, and surely is nearer
    to that than to perfection; on a few samples even a good network may fail the first of both alone.
    """
    labels = prepared.labels
    if labels is None or not _at_chance(prepared, labels):
        return None
    guess, (_, high) = 1 / labels.classes, _accuracy(prepared)
    if high >= (1 + guess) / 2:
        return None
    return f"model: {_no_better(prepared, labels)}, so that there is nothing to keep; {_REMEDY}"


def doubts(request: Request, prepared: Prepared) -> Iterator[Doubt]:
    """What the owner should know before the search; the job goes on."""
    yield from prepared.notes
    labels = prepared.labels
    if labels is not None:
        yield from _of_chance(prepared, labels)
        yield from _of_classes(labels)
    if request.delta is not None:
        yield from _of_noise(request.delta, prepared)


_REMEDY = "check that its weights are the trained ones, the order of the classes, and how inputs are prepared"


def _of_chance(prepared: Prepared, labels: Labels) -> Iterator[Doubt]:
    if _at_chance(prepared, labels):
        yield (
            "ORIGINAL_AT_CHANCE",
            f"model: {_no_better(prepared, labels)}; bring more evaluation samples, or {_REMEDY}",
        )
    elif labels.top1 and _accuracy(prepared)[0] <= labels.majority:
        yield (
            "ORIGINAL_AT_MAJORITY",
            f"model: its {prepared.metric} of {prepared.baseline:.2f} on {prepared.search_samples:,} samples cannot be "
            f"told from {100 * labels.majority:.2f}, which who always answers the commonest class has, so that a "
            "network that knows nothing else may pass for one that loses nothing; bring a metric that weighs classes",
        )


def _at_chance(prepared: Prepared, labels: Labels) -> bool:
    return labels.top1 and _accuracy(prepared)[0] <= 1 / labels.classes


def _no_better(prepared: Prepared, labels: Labels) -> str:
    return (
        f"its {prepared.metric} of {prepared.baseline:.2f} on {prepared.search_samples:,} samples cannot be told from "
        f"that of a guess among {labels.classes:,} classes, {100 / labels.classes:.2f}"
    )


def _accuracy(prepared: Prepared) -> tuple[float, float]:
    """The original's accuracy, 0 to 1: its 95 % interval (Wilson 1927)."""
    share, count = prepared.baseline / 100, prepared.search_samples
    centre = (share + Z95**2 / (2 * count)) / (1 + Z95**2 / count)
    margin = Z95 * math.sqrt(share * (1 - share) / count + Z95**2 / (4 * count**2)) / (1 + Z95**2 / count)
    return centre - margin, centre + margin


def _of_classes(labels: Labels) -> Iterator[Doubt]:
    """Classes that a half lacks, in one warning."""
    parts = []
    if labels.unseen:
        parts.append(f"the search half has no samples of {_named(labels.unseen)}, so that it sees no loss on them")
    if labels.unjudged:
        them = "them" if labels.unjudged == labels.unseen else _named(labels.unjudged)
        parts.append(f"the sealed half has none of {them}, so that the certificate says nothing of them")
    if parts:
        yield (
            "CLASSES_MISSING",
            f"evaluation: {'; '.join(parts)} ({labels.classes:,} classes in all); bring at least 2 samples of each",
        )


def _named(classes: Sequence[int]) -> str:
    names = ", ".join(map(str, classes[:NAMED]))
    rest = f" and {len(classes) - NAMED:,} others" if len(classes) > NAMED else ""
    return f"class{'es' if len(classes) > 1 else ''} {names}{rest}"


def _of_noise(delta: float, prepared: Prepared) -> Iterator[Doubt]:
    half = noise(delta, prepared)
    if half > delta:
        yield (
            "DELTA_BELOW_NOISE",
            f"delta: {delta:g} is less than the noise of the evaluation data: on {prepared.sealed_samples:,} sealed "
            f"samples the 95 % interval of a drop is about {_points(half)} points to either side; about "
            f"{_rounded(2 * needed(delta, prepared)):,} evaluation samples would do, or a delta of {half:.2g}",
        )


def _points(value: float) -> str:
    """With two digits that count: metrics that are no shares may be far below 1."""
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def noise(delta: float, prepared: Prepared) -> float:
    """Half the width of the drop's 95 % interval to be expected on the sealed half, in points, at a drop of delta.

    As `diminuendo.engine.score.verdict` takes it, of paired values of which a share differs.
    """
    count = prepared.sealed_samples
    size = count + 2.0
    if prepared.hits:
        centre = delta / 100 * count / size
        square = (_share(delta, prepared) * count + 1.0) / size
        return 100 * Z95 * math.sqrt(max(0.0, square - centre**2) / size)
    return Z95 * math.sqrt(_variance(delta, prepared) / count)


def needed(delta: float, prepared: Prepared) -> int:
    """Sealed samples whose noise is delta."""
    return math.ceil(_variance(delta, prepared) * (Z95 / delta) ** 2)


def _variance(delta: float, prepared: Prepared) -> float:
    """Of the paired differences, in points squared.

    Hits and misses differ by 100 where they differ. Of other values a share is taken to be drawn anew.
    """
    if prepared.hits:
        return 100**2 * (_share(delta, prepared) - (delta / 100) ** 2)
    return 2 * CHANGED * prepared.deviation**2


def _share(delta: float, prepared: Prepared) -> float:
    """Share of the samples that are hit by one network alone.

    At a drop of delta no more can be than delta and twice the original's misses: each sample that is newly hit was
    missed before.
    """
    hit = prepared.baseline / 100
    misses = 1 - hit if prepared.higher_is_better else hit
    return min(CHANGED, 2 * misses + delta / 100)


def _rounded(count: int) -> int:
    """Up to two digits that count."""
    step = int(10 ** max(0, len(str(count)) - 2))
    return -(-count // step) * step
