"""One plain line for each step and state: for logs, pipes and terminals that cannot move the cursor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import TracebackType

from diminuendo.client.cluster import Evaluator
from diminuendo.client.display import text
from diminuendo.client.display.view import View, advance
from diminuendo.client.types import Event, Leased, StateChanged, StepCommitted, WarningRaised


class PlainDisplay:
    """Writes a job's progress as lines; a context manager, like `LiveDisplay`."""

    def __init__(self, write: Callable[[str], None], view: View) -> None:
        """Write lines (without their end) with `write`."""
        self.view = view
        self._write = write
        self._said = ""

    def __enter__(self) -> PlainDisplay:
        """Nothing to start."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to end."""

    def show(self, event: Event) -> None:
        """Write what the event says, if a person wants to know it."""
        self.view = advance(self.view, event)
        line = self._line(event)
        if line:
            self._write(f"{text.clock(self.view.elapsed_s(event.time)):>7}  {line}")

    def say(self, *, note: str = "", trouble: str = "") -> None:
        """Write a note, once while it stays the same."""
        self.view = replace(self.view, trouble=trouble)
        said = text.one_line(trouble or note)
        if said and said != self._said:
            self._write(f"{'':>7}  {said}")
        self._said = said

    def working(self, evaluators: tuple[Evaluator, ...] | None) -> None:
        """Evaluators come and go too often for lines."""

    def _line(self, event: Event) -> str:
        match event:
            case StateChanged():
                reason = text.one_line(event.reason)
                return f"{event.state.value}: {reason}" if reason else event.state.value
            case StepCommitted():
                return self._step(event)
            case WarningRaised():
                return f"warning {event.reason}: {text.one_line(event.message)}"
            case Leased():
                return f"leased by {text.one_line(event.coordinator)}"
        return ""

    def _step(self, event: StepCommitted) -> str:
        progress = event.progress
        head = f"{progress.stage.value:<8} {progress.works_done}/{progress.works_expected}"
        best = f"  best {text.best_line(progress.best, self.view.delta)}" if progress.best else ""
        summary = text.one_line(event.summary)
        return f"{head}  {summary}{best}" if summary else f"{head}{best}"
