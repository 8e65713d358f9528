"""What is left of a job: the time, by its pace, and its budget. Pure; the time is given."""

from __future__ import annotations

from datetime import datetime

from diminuendo.client.display import text
from diminuendo.client.display.view import View
from diminuendo.client.types import JobState

_LEAST_WORKS, _LEAST_S = 3, 5.0
"""Of what the pace is told by."""


def left_s(view: View, now: datetime) -> float | None:
    """Seconds until the search ends: an estimate, by the works still expected and by the pace of the last ones.

    Minutes of a budget and a deadline bound it. None while it cannot be told.
    """
    if view.state is not JobState.RUNNING or len(view.pace) < 2:
        return None
    (first, before), (last, done) = view.pace[0], view.pace[-1]
    works, span = done - before, (last - first).total_seconds()
    if works < _LEAST_WORKS or span < _LEAST_S:
        return None
    quiet = max(0.0, (now - last).total_seconds())
    each = max(span / works, (span + quiet) / (works + 1))  # a work that takes longer than others slows the pace
    expected = max(0, view.progress.works_expected - done) * each - min(quiet, each)
    return max(0.0, min([expected, *_bounds(view, now)]))


def left_line(view: View, now: datetime, *, narrow: bool = False) -> str:
    """What is left, in words: ``about 3 min (estimate); of budget 28 evaluations, 170 epochs``.

    Args:
        view: Of the job.
        now: What time it is.
        narrow: Whether there are fewer than 80 columns.
    """
    if view.state.final:
        return ""
    seconds = left_s(view, now)
    parts = ["time not known yet" if seconds is None else f"{_about(seconds)} ({'est.' if narrow else 'estimate'})"]
    budget = _budget(view, now, "evals" if narrow else "evaluations")
    if budget:
        parts.append(f"{'' if narrow else 'of budget '}{', '.join(budget)}")
    if view.deadline is not None:
        parts.append(f"deadline in {text.clock(max(0.0, (view.deadline - now).total_seconds()))}")
    return "; ".join(parts)


def _bounds(view: View, now: datetime) -> list[float]:
    bounds = []
    if "minutes" in view.budget:
        bounds.append(60 * view.budget["minutes"] - _worked_s(view, now))
    if view.deadline is not None:
        bounds.append((view.deadline - now).total_seconds())
    return bounds


def _budget(view: View, now: datetime, evaluations: str) -> list[str]:
    """What is left of each part of the budget."""
    left = []
    for kind, most in view.budget.items():
        if kind == "evaluations":
            left.append(f"{max(0, most - view.evaluated):g} {evaluations}")
        elif kind == "epochs":
            spent = "" if view.all_epochs else "at most "
            left.append(f"{spent}{max(0.0, most - view.epochs):g} epochs")
        elif kind == "minutes":
            left.append(f"{text.clock(max(0.0, 60 * most - _worked_s(view, now)))} min")
    return left


def _worked_s(view: View, now: datetime) -> float:
    since = view.working_since
    return view.worked_s + (0.0 if since is None else max(0.0, (now - since).total_seconds()))


def _about(seconds: float) -> str:
    """A time as roughly as it is known."""
    if seconds < 60:
        return "under a minute"
    minutes = round(seconds / 60)
    return f"about {minutes} min" if minutes < 100 else f"about {minutes / 60:.1f} hours"
