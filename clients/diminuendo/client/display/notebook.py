"""The live view in a notebook: the terminal's picture as HTML, drawn again in place by IPython's display handle.

IPython is no dependency: a kernel has it.
"""

from __future__ import annotations

import io
import sys
import threading
from dataclasses import replace
from types import TracebackType
from typing import Any

from rich.console import Console

from diminuendo.client.cluster import Evaluator
from diminuendo.client.display.frame import Frame
from diminuendo.client.display.view import View, advance
from diminuendo.client.types import Event

WIDTH, HEIGHT = 110, 24
SPACING_S, CLOCK_S = 0.5, 1.0
"""Least time between two pictures, and when the clock is drawn again though nothing has changed."""
_HTML = '<pre style="white-space: pre; overflow-x: auto; line-height: 1.2">{code}</pre>'


def in_kernel() -> bool:
    """Whether this is the kernel of a notebook, which can draw again what it has shown."""
    if "IPython" not in sys.modules:  # it is the kernel that imports it
        return False
    import IPython

    return getattr(IPython.get_ipython(), "kernel", None) is not None  # type: ignore[no-untyped-call,unused-ignore]


class NotebookDisplay:
    """Shows a job in the output of a cell; a context manager. Its last picture stays there."""

    def __init__(self, view: View) -> None:
        """Show `view` in the cell that runs."""
        self.view = view
        self._frame = Frame(view)
        self._news, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._draw, name="display", daemon=True)
        self._handle: Any = None

    def __enter__(self) -> NotebookDisplay:
        """Start drawing."""
        from IPython.display import display

        self._handle = display(self._picture(), raw=True, display_id=True)  # type: ignore[no-untyped-call,unused-ignore]
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Draw a last time."""
        self._over.set()
        self._news.set()
        self._thread.join()
        self._handle.update(self._picture(), raw=True)

    def show(self, event: Event) -> None:
        """Draw the job after this event."""
        self._set(advance(self.view, event))

    def say(self, *, note: str = "", trouble: str = "") -> None:
        """Show a note until the next event."""
        self._set(replace(self.view, note=note or self.view.note, trouble=trouble))

    def working(self, evaluators: tuple[Evaluator, ...] | None) -> None:
        """Show what works on the job now; None where that is not known any more. From any thread."""
        if evaluators != self._frame.evaluators:
            self._frame.evaluators = evaluators
            self._news.set()

    def _set(self, view: View) -> None:
        self.view = self._frame.view = view
        self._news.set()

    def _picture(self) -> dict[str, str]:
        """The frame in both forms that a notebook may keep."""
        console = Console(
            file=io.StringIO(), record=True, width=WIDTH, height=HEIGHT, color_system="truecolor", force_jupyter=False
        )
        console.print(self._frame)
        html = console.export_html(inline_styles=True, code_format=_HTML, clear=False)
        return {"text/html": html, "text/plain": console.export_text()}

    def _draw(self) -> None:
        while not self._over.is_set():
            news = self._news.wait(CLOCK_S)
            self._news.clear()
            if not self._over.is_set():
                self._handle.update(self._picture(), raw=True)
                self._over.wait(SPACING_S if news else 0.0)
