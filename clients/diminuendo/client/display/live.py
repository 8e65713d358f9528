"""The live view on a terminal: a fixed number of lines, redrawn in place, steady from 60 columns up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.constrain import Constrain
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from diminuendo.client.display import text
from diminuendo.client.display.view import View, advance
from diminuendo.client.types import EvaluationFinished, Event, JobState

_ROWS = 6
_WIDE, _WIDEST = 100, 120
STATE_STYLES = {
    JobState.QUEUED: "yellow",
    JobState.RUNNING: "cyan",
    JobState.CANCELLING: "yellow",
    JobState.PAUSING: "yellow",
    JobState.PAUSED: "yellow",
    JobState.CANCELLED: "magenta",
    JobState.SUCCEEDED: "green",
    JobState.FAILED: "red",
}


class Frame:
    """Draws one view; the clock goes on between events."""

    def __init__(self, view: View, *, rows: int = _ROWS, now: Callable[[], datetime] | None = None) -> None:
        """Draw `view` with this many lines for evaluations."""
        self.view = view
        self._rows = rows
        self._now = now or (lambda: datetime.now(UTC))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The frame at the console's present width."""
        width = min(options.max_width, _WIDEST)
        parts: list[RenderableType] = [self._head(), self._bar(), self._best()]
        parts += [Text(), self._evaluations(width), self._foot()]
        yield Constrain(Group(*parts), width)

    def _head(self) -> RenderableType:
        view = self.view
        row = line_of_cells("left", "right", flexible=0)
        count = len(view.warnings)
        warned = f"{count} warning{'s' if count > 1 else ''}  " if count else ""
        row.add_row(
            Text(text.one_line(view.title), style="bold"),
            Text.assemble(
                (warned, "yellow"),
                (view.state.value, STATE_STYLES.get(view.state, "")),
                f"  {text.clock(view.elapsed_s(self._now()))}",
            ),
        )
        return row

    def _bar(self) -> RenderableType:
        progress = self.view.progress
        row = line_of_cells("left", "left", "right", flexible=1)
        total = max(progress.works_expected, progress.works_done, 1)
        done = total if self.view.state is JobState.SUCCEEDED else progress.works_done
        works = f"{progress.works_done} of {progress.works_expected} works" if progress.works_expected else ""
        row.add_row(
            Text(f"{progress.stage.value or 'queued':<8}"),
            ProgressBar(total=total, completed=done),
            Text(works),
        )
        return row

    def _best(self) -> RenderableType:
        style = "green" if self.view.best else "dim"
        return Text.assemble("best      ", (text.best_line(self.view.best, self.view.delta, self.view.target), style))

    def _evaluations(self, width: int) -> RenderableType:
        """The last evaluations, newest last, padded so that the frame keeps its height."""
        wide = width >= _WIDE
        table = Table(box=None, expand=True, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("#", justify="right", width=4)
        table.add_column("kind", width=8, no_wrap=True)
        table.add_column("subject", ratio=1, no_wrap=True, overflow="ellipsis")
        table.add_column("epochs", justify="right", width=6)
        table.add_column("params", justify="right", width=7)
        if wide:
            table.add_column("MACs", justify="right", width=7)
        table.add_column("drop", justify="right", width=6)
        table.add_column("time", justify="right", width=8 if wide else 7)
        table.add_column("by", width=20 if wide else 6, no_wrap=True, overflow="ellipsis")
        shown = self.view.recent[-self._rows :]
        for done in shown:
            table.add_row(*_cells(done, wide=wide))
        for _ in range(self._rows - len(shown)):
            table.add_row("")
        return table

    def _foot(self) -> RenderableType:
        """One line: trouble, the last warning, or what is going on."""
        view = self.view
        if view.trouble:
            return Text(text.one_line(view.trouble), style="red", no_wrap=True, overflow="ellipsis")
        if view.alert and not view.state.final:
            return Text(text.one_line(view.alert), style="yellow", no_wrap=True, overflow="ellipsis")
        line = text.one_line(view.note or (view.reason if view.state.final else view.summary))
        return Text(line, style="dim", no_wrap=True, overflow="ellipsis")


def line_of_cells(*justify: str, flexible: int) -> Table:
    """A line of cells across the whole width, one of which takes what is left."""
    row = Table.grid(expand=True, padding=(0, 2, 0, 0))
    for index, side in enumerate(justify):
        row.add_column(
            justify="right" if side == "right" else "left",
            ratio=1 if index == flexible else None,
            no_wrap=True,
            overflow="ellipsis",
        )
    return row


def _cells(done: EvaluationFinished, *, wide: bool) -> list[RenderableType]:
    candidate = done.candidate
    figures = ["", ""] if candidate is None else [text.times(candidate.params_ratio), text.points(candidate.drop)]
    if candidate is None and done.kind == "evaluate":
        figures = ["diverged", ""]
    cells = [str(done.index), text.one_line(done.kind), text.one_line(done.subject), text.epochs(done), figures[0]]
    if wide:
        cells.append("" if candidate is None else text.times(candidate.macs_ratio))
    cells += [figures[1], text.took(done), text.one_line(done.evaluator if wide else _short(done.evaluator))]
    return [Text(cell) for cell in cells]


def _short(evaluator: str) -> str:
    """The end of an evaluator's name, where names differ: ``…r-1``."""
    return evaluator if len(evaluator) <= 6 else "…" + evaluator[-5:]


class LiveDisplay:
    """Shows a job in place on a terminal; a context manager. Its last frame stays on the screen."""

    def __init__(self, console: Console, view: View) -> None:
        """Show `view` on the console."""
        self.view = view
        rows = max(1, min(_ROWS, console.height - 7))
        self._console = console
        self._frame = Frame(view, rows=rows)
        self._live = Live(self._frame, console=console, refresh_per_second=4, vertical_overflow="crop")

    def __enter__(self) -> LiveDisplay:
        """Start drawing."""
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Draw a last time, let go of the terminal, and write the warnings that passed by."""
        self._live.stop()
        for line in dict.fromkeys(f"warning {item.reason}: {item.message}" for item in self.view.warnings):
            self._console.print(Text(text.one_line(line), style="yellow"))

    def show(self, event: Event) -> None:
        """Draw the job after this event."""
        self._set(advance(self.view, event))

    def say(self, *, note: str = "", trouble: str = "") -> None:
        """Show a note until the next event."""
        self._set(replace(self.view, note=note or self.view.note, trouble=trouble))

    def _set(self, view: View) -> None:
        self.view = view
        self._frame.view = view
