"""What is left of a job: the time, by its pace, and its budget. Pure; the time is given."""

from __future__ import annotations

from datetime import datetime

from diminuendo.client.display import text
from diminuendo.client.display.view import View
from diminuendo.client.types import JobState

_LEAST_WORKS, _LEAST_S = 3, 5.0
"""Of what the pace is told by."""


def left_s(view: View, now: datetime) -> float | None:
    """Seconds until the search ends: an estimate, by what is still expected and by the pace of the last works.

    Both are told in seconds of an evaluator, as far as the search knows them: a finalist takes many times what an early
    candidate does. Minutes of a budget and a deadline bound it. None while it cannot be told.
    """
    if view.state is not JobState.RUNNING or len(view.pace) < 2:
        return None
    (begin, before), (end, last) = view.pace[0], view.pace[-1]
    span = (end - begin).total_seconds()
    if last.works_done - before.works_done < _LEAST_WORKS or span < _LEAST_S:
        return None
    works = max(0, last.works_expected - last.works_done)
    done, ahead = float(last.works_done - before.works_done), float(works)
    if before.seconds_expected and last.seconds_expected:
        done, ahead = last.seconds_done - before.seconds_done, last.seconds_expected - last.seconds_done
    if done <= 0:
        return None
    following = ahead / max(1, works)
    quiet = max(0.0, (now - end).total_seconds())
    pace = max(span / done, (span + quiet) / (done + following))  # a work that takes longer than expected slows it
    expected = ahead * pace - min(quiet, following * pace)
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
