"""The state of a display, computed from events alone. Knows no terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from diminuendo.client.types import (
    AttemptLost,
    Candidate,
    EvaluationFinished,
    Event,
    JobState,
    Leased,
    Progress,
    Stage,
    StateChanged,
    StepCommitted,
    Updated,
    WarningRaised,
)

_RECENT = 12
_CANDIDATES = 1000
_PACE = 33
_PACED = (Stage.EXPLORE, Stage.ANNEAL, Stage.CERTIFY)
"""Works before these take another time than the ones that are still to come."""
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
        budget: The most ``evaluations``, ``epochs``, ``minutes``; empty: without bounds.
        deadline: When the job is to end with its best model so far; None: it has no deadline.
        candidates: The latest plans that were tuned and scored, oldest first.
        evaluated: Plans that were tuned, those that diverged and those that were known among them.
        epochs: Of tuning, as far as it is told: of what was known it is not.
        all_epochs: Whether that is all.
        worked_s: Seconds that coordinators have worked on it, up to `working_since`.
        working_since: When it last began to run; None while it does not.
        pace: (time, progress) of the last steps since then, oldest first.
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
    budget: Mapping[str, float] = field(default_factory=dict)
    deadline: datetime | None = None
    candidates: tuple[Candidate, ...] = ()
    evaluated: int = 0
    epochs: float = 0.0
    all_epochs: bool = True
    worked_s: float = 0.0
    working_since: datetime | None = None
    pace: tuple[tuple[datetime, Progress], ...] = ()

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
            view = _worked(view, event)
            return replace(view, state=event.state, reason=event.reason, ended=ended, note=_note_of(event.state))
        case Leased():
            return replace(view, note=_LEASED)
        case StepCommitted():
            pace = (*view.pace, (event.time, event.progress)) if event.progress.stage in _PACED else ()
            view = replace(view, progress=event.progress, summary=event.summary, note="", alert="")
            return replace(view, pace=pace[-_PACE:])
        case EvaluationFinished():
            view = _evaluated(view, event) if event.kind == "evaluate" else view
            return replace(view, recent=(*view.recent, event)[-_RECENT:], note="")
        case Updated():
            return replace(view, deadline=event.deadline)
        case AttemptLost():
            return replace(view, note=f"{event.subject}: attempt {event.attempt} was lost ({event.cause})")
        case WarningRaised():
            alert = f"warning {event.reason}: {event.message}"
            return replace(view, warnings=(*view.warnings, event), alert=alert)
    return view


def _worked(view: View, event: StateChanged) -> View:
    """Book the time that ends with a change of state."""
    running = event.state in (JobState.RUNNING, JobState.PAUSING, JobState.CANCELLING)
    if running and view.working_since is not None:
        return view
    passed = 0.0 if view.working_since is None else (event.time - view.working_since).total_seconds()
    since = event.time if running else None
    return replace(view, worked_s=view.worked_s + passed, working_since=since, pace=())


def _evaluated(view: View, event: EvaluationFinished) -> View:
    """Count a plan that was tuned."""
    candidates = view.candidates
    if event.candidate is not None:
        candidates = (*candidates, event.candidate)[-_CANDIDATES:]
    return replace(
        view,
        candidates=candidates,
        evaluated=view.evaluated + 1,
        epochs=view.epochs + event.epochs,
        all_epochs=view.all_epochs and bool(event.epochs or not event.remembered),
    )


def _note_of(state: JobState) -> str:
    if state is JobState.QUEUED:
        return _WAITING
    if state in (JobState.CANCELLING, JobState.PAUSING):
        return "waiting for the coordinator to let go"
    if state is JobState.PAUSED:
        return "nobody works on it until it is resumed"
    return _LEASED if state is JobState.RUNNING else ""
