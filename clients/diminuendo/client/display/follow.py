"""Follows a job on whatever display suits the stream, and opens that display."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from rich.console import Console

from diminuendo.client.display import text
from diminuendo.client.display.live import LiveDisplay
from diminuendo.client.display.plain import PlainDisplay
from diminuendo.client.display.view import View
from diminuendo.client.errors import DiminuendoError
from diminuendo.client.job import Job
from diminuendo.client.types import Event, JobInfo


class Display(Protocol):
    """Where a job's progress is shown."""

    def show(self, event: Event) -> None:
        """Show the job after this event."""
        ...

    def say(self, *, note: str = "", trouble: str = "") -> None:
        """Show a note until the next event."""
        ...


def open_display(console: Console, view: View) -> LiveDisplay | PlainDisplay:
    """A live display on a terminal, plain lines elsewhere."""
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
    info = job.info()
    with open_display(console, View(info.name, delta=info.delta, target=text.figures(info.target))) as display:

        def lost(_: DiminuendoError) -> None:
            on_cut()
            display.say(trouble="the connection to the server was lost; trying again, the job goes on")

        for event in job.watch(on_cut=lost):
            display.show(event)
    return job.info()
