"""Feeds a display from the engine's own steps, for runs without a server. Imports no engine."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from diminuendo.client.cluster import Evaluator, EvaluatorState
from diminuendo.client.display.follow import Display
from diminuendo.client.types import (
    Candidate,
    EvaluationFinished,
    JobState,
    Progress,
    Stage,
    StateChanged,
    StepCommitted,
    WarningRaised,
)

if TYPE_CHECKING:
    from diminuendo.engine.search.drive import Done
    from diminuendo.engine.search.session import Best, Step
    from diminuendo.engine.search.work import Work


class InlineFeed:
    """Turns what the engine reports into the events that a server would log."""

    def __init__(self, display: Display) -> None:
        """Show everything on `display`."""
        self._display = display
        self._sequence = 0
        self._done: dict[str, Done] = {}

    def state(self, state: JobState, reason: str = "") -> None:
        """The run entered a state."""
        self._display.show(StateChanged(*self._stamp(), state, reason))

    def on_start(self, work: Work) -> None:
        """A work is begun; there is one evaluator, this process."""
        busy = Evaluator(
            "inline",
            EvaluatorState.BUSY,
            kind=work.question.kind,
            index=work.index,
            subject=work.subject,
            attempt=1,
            since=datetime.now(UTC),
        )
        self._display.working((busy,))

    def on_done(self, done: Done) -> None:
        """A work came back; it is shown when its step says what became of it."""
        self._done[done.work.key] = done

    def on_step(self, step: Step) -> None:
        """The search took a step."""
        done = self._done.pop(step.key, None)
        if done is not None:
            self._display.show(self._evaluation(done, step))
        progress = Progress(
            Stage(step.stage),
            step.index + 1,
            step.works_done,
            step.works_expected,
            _candidate(step.best),
            step.seconds_done,
            step.seconds_expected,
        )
        self._display.show(StepCommitted(*self._stamp(), step.index, progress, step.summary))
        for reason, message in step.warnings:
            self._display.show(WarningRaised(*self._stamp(), reason, message))

    def _evaluation(self, done: Done, step: Step) -> EvaluationFinished:
        question = done.work.question
        return EvaluationFinished(
            *self._stamp(),
            index=done.work.index,
            key=step.key,
            kind=question.kind,
            subject=done.work.subject,
            seconds=done.seconds,
            evaluator=done.evaluator,
            remembered=done.remembered,
            epochs=float(getattr(question, "epochs", 0)),
            candidate=_candidate(step.candidate),
        )

    def _stamp(self) -> tuple[int, datetime]:
        self._sequence += 1
        return self._sequence, datetime.now(UTC)


def _candidate(best: Best | None) -> Candidate | None:
    return None if best is None else Candidate(best.params_ratio, best.macs_ratio, best.drop)
