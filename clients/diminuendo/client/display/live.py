"""The live view on a terminal: a picture of the job, drawn again in place when something has changed."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from diminuendo.client.cluster import Evaluator
from diminuendo.client.display import text
from diminuendo.client.display.frame import Frame
from diminuendo.client.display.view import View, advance
from diminuendo.client.types import Event

SPACING_S, CLOCK_S = 0.5, 1.0
"""Least time between two pictures, and when the clock is drawn again though nothing has changed: drawing costs."""


class LiveDisplay:
    """Shows a job in place on a terminal; a context manager. Its last picture stays on the screen."""

    def __init__(self, console: Console, view: View) -> None:
        """Show `view` on the console."""
        self.view = view
        self._console = console
        self._frame = Frame(view)
        self._live = Live(self._frame, console=console, auto_refresh=False, vertical_overflow="crop")
        self._news, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._draw, name="display", daemon=True)

    def __enter__(self) -> LiveDisplay:
        """Start drawing."""
        self._live.start(refresh=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Draw a last time, let go of the terminal, and write the warnings that passed by."""
        self._over.set()
        self._news.set()
        self._thread.join()
        self._live.stop()
        for line in dict.fromkeys(f"warning {item.reason}: {item.message}" for item in self.view.warnings):
            self._console.print(Text(text.one_line(line), style="yellow"))

    def show(self, event: Event) -> None:
        """Draw the job after this event."""
        self._frame.said = ""
        self._set(advance(self.view, event))

    def say(self, *, note: str = "", trouble: str = "") -> None:
        """Show a note until the next event, or until something works on the job."""
        self._frame.said = note
        self._set(replace(self.view, trouble=trouble))

    def working(self, evaluators: tuple[Evaluator, ...] | None) -> None:
        """Show what works on the job now; None where that is not known any more. From any thread."""
        if evaluators != self._frame.evaluators:
            self._frame.evaluators = evaluators
            self._frame.said = "" if evaluators else self._frame.said
            self._news.set()

    def _set(self, view: View) -> None:
        self.view = view
        self._frame.view = view
        self._news.set()

    def _draw(self) -> None:
        while not self._over.is_set():
            news = self._news.wait(CLOCK_S)
            self._news.clear()
            if not self._over.is_set():
                self._live.refresh()
                self._over.wait(SPACING_S if news else 0.0)
