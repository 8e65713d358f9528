"""The state of a display, computed from events alone. Knows no terminal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from diminuendo.client.types import (
    AttemptLost,
    Candidate,
    EvaluationFinished,
    Event,
    JobState,
    Leased,
    Progress,
    StateChanged,
    StepCommitted,
    WarningRaised,
)

_RECENT = 12
_WAITING = "waiting for a coordinator; evaluators take some seconds to start"
_LEASED = "the search has started"
_NO_PROGRESS = Progress()


@dataclass(frozen=True, slots=True)
class View:
    """Everything that a display shows of one job.

    Attributes:
        title: The job's name, or the source of an inline run.
        delta: Tolerance in points; None while it is not known, and where there is a target.
        target: The most that a figure may be, in words; empty where there is a delta.
        recent: The last evaluations, oldest first.
        warnings: All warnings, oldest first.
        started: Time of the first event.
        ended: Time of the event that made the state final.
        alert: The warning that came last, until the next step.
        note: What is going on when nothing else can be shown.
        trouble: Set while the connection to the server is lost.
    """

    title: str
    delta: float | None = None
    state: JobState = JobState.QUEUED
    reason: str = ""
    progress: Progress = _NO_PROGRESS
    summary: str = ""
    recent: tuple[EvaluationFinished, ...] = ()
    warnings: tuple[WarningRaised, ...] = ()
    alert: str = ""
    started: datetime | None = None
    ended: datetime | None = None
    note: str = _WAITING
    trouble: str = ""
    target: str = ""

    @property
    def best(self) -> Candidate | None:
        """The best candidate inside delta on the search half, or within the target, so far."""
        return self.progress.best

    def elapsed_s(self, now: datetime) -> float:
        """Seconds from the first event to the end, or to `now`; never negative."""
        if self.started is None:
            return 0.0
        return max(0.0, ((self.ended or now) - self.started).total_seconds())


def advance(view: View, event: Event) -> View:
    """The view after one more event. Events of unknown kinds change nothing but the clock."""
    view = replace(view, started=view.started or event.time, trouble="")
    match event:
        case StateChanged():
            ended = event.time if event.state.final else None
            return replace(view, state=event.state, reason=event.reason, ended=ended, note=_note_of(event.state))
        case Leased():
            return replace(view, note=_LEASED)
        case StepCommitted():
            return replace(view, progress=event.progress, summary=event.summary, note="", alert="")
        case EvaluationFinished():
            return replace(view, recent=(*view.recent, event)[-_RECENT:], note="")
        case AttemptLost():
            return replace(view, note=f"{event.subject}: attempt {event.attempt} was lost ({event.cause})")
        case WarningRaised():
            alert = f"warning {event.reason}: {event.message}"
            return replace(view, warnings=(*view.warnings, event), alert=alert)
    return view


def _note_of(state: JobState) -> str:
    if state is JobState.QUEUED:
        return _WAITING
    if state in (JobState.CANCELLING, JobState.PAUSING):
        return "waiting for the coordinator to let go"
    if state is JobState.PAUSED:
        return "nobody works on it until it is resumed"
    return _LEASED if state is JobState.RUNNING else ""
