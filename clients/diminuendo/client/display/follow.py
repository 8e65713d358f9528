"""Follows a job on whatever display suits the stream, and opens that display."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console

from diminuendo.client.cluster import Evaluator
from diminuendo.client.display import text
from diminuendo.client.display.live import LiveDisplay
from diminuendo.client.display.notebook import NotebookDisplay, in_kernel
from diminuendo.client.display.plain import PlainDisplay
from diminuendo.client.display.view import View
from diminuendo.client.errors import DiminuendoError, ServerVersionError
from diminuendo.client.job import Job
from diminuendo.client.types import Event, JobInfo

ASK_S = 2.0
"""Time between two questions what the evaluators do."""


class Display(Protocol):
    """Where a job's progress is shown."""

    def show(self, event: Event) -> None:
        """Show the job after this event."""
        ...

    def say(self, *, note: str = "", trouble: str = "") -> None:
        """Show a note until the next event."""
        ...

    def working(self, evaluators: tuple[Evaluator, ...] | None) -> None:
        """Show what works on the job now; None where that is not known any more."""
        ...


LOST = "the connection to the server was lost; trying again, the job goes on"
"""What is said meanwhile."""


def view_of(info: JobInfo) -> View:
    """What is shown of a job before its first event."""
    return View(
        info.name,
        delta=info.delta,
        target=text.figures(info.target),
        budget=info.budget,
        deadline=info.deadline,
    )


def open_display(console: Console, view: View) -> LiveDisplay | NotebookDisplay | PlainDisplay:
    """A live display in a notebook and on a terminal, plain lines elsewhere."""
    if in_kernel():
        return NotebookDisplay(view)
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveDisplay(console, view)
    return PlainDisplay(lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True), view)


def follow(job: Job, console: Console, *, on_cut: Callable[[], None] = lambda: None) -> JobInfo:
    """Show the job until it has ended; returns it as it ended.

    Args:
        job: The job.
        console: Where it is shown.
        on_cut: Called each time that the connection was cut; what it raises ends the following.
    """
    with open_display(console, view_of(job.info())) as display, _asking(job, display):

        def lost(_: DiminuendoError) -> None:
            on_cut()
            display.say(trouble=LOST)

        for event in job.watch(on_cut=lost):
            display.show(event)
    return job.info()


@contextmanager
def _asking(job: Job, display: LiveDisplay | NotebookDisplay | PlainDisplay) -> Iterator[None]:
    """Inside, ask now and then what works on the job, and show it; nobody is asked for plain lines."""
    if isinstance(display, PlainDisplay):
        yield
        return
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                found = job.evaluators(timeout_s=ASK_S)
            except ServerVersionError:  # it will not learn it
                return
            except DiminuendoError:
                display.working(None)
            else:
                display.working(found)
            over.wait(ASK_S)

    threading.Thread(target=ask, name="evaluators", daemon=True).start()
    try:
        yield
    finally:
        over.set()  # an answer that is still to come is not waited for
