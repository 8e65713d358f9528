"""Numbers and words as people read them, shared by every display."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from diminuendo.client.oneline import one_line as one_line
from diminuendo.client.types import Candidate, EvaluationFinished


def clock(seconds: float) -> str:
    """``0:07``, ``12:34``, ``1:02:03``."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def times(ratio: float) -> str:
    """A ratio of original to compressed: ``7.92x``."""
    return f"{ratio:.2f}x" if ratio < 1000 else f"{ratio:.0f}x"


def points(value: float) -> str:
    """Points of a metric, without a negative zero: ``0.62``; of a metric in small units ``0.0031``."""
    if round(value, 2):
        return f"{value:.2f}"
    return f"{value:.2g}" if abs(value) > _NOTHING else "0.00"


_NOTHING = 1e-6
"""What is less, in points, is no difference."""


def source(name: str) -> str:
    """``zoo:digits``; of a bundle as much of its sha256 as tells it from others: ``bundle:438aa3539dfc``."""
    kind, _, sha256 = name.partition(":")
    return f"{kind}:{sha256[:12]}" if kind == "bundle" and len(sha256) == 64 and "/" not in sha256 else name


def local_time(time: datetime | None) -> str:
    """Local time to the second; empty for none."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S") if time else ""


_UNITS = {"size": " MB", "memory": " MB", "latency": " ms"}


def figures(most: Mapping[str, float]) -> str:
    """Figures with their numbers and units: ``size 1.5 MB, macs 50,000,000``."""
    return ", ".join(
        f"{name} {value:g}{_UNITS[name]}" if name in _UNITS else f"{name} {value:,.0f}" for name, value in most.items()
    )


def best_line(best: Candidate | None, delta: float | None, target: str = "") -> str:
    """The best candidate so far against delta or target, in words."""
    if best is None:
        return f"nothing within {target} yet" if target else "nothing inside delta yet"
    allowed = "" if delta is None else f" of {delta:g}"
    return f"{times(best.params_ratio)} params, {times(best.macs_ratio)} MACs, drop {points(best.drop)}{allowed}"


def took(done: EvaluationFinished) -> str:
    """Seconds of an evaluation, or that it was known."""
    return "known" if done.remembered else f"{done.seconds:.1f} s"


def epochs(done: EvaluationFinished) -> str:
    """Epochs of an evaluation; empty when it tuned nothing."""
    return f"{round(done.epochs, 2):g}" if done.epochs else ""
