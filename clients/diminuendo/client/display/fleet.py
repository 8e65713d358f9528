"""A fleet as it runs: its state computed from updates alone, drawn in place on a terminal, told in lines elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from types import TracebackType

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.constrain import Constrain
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from diminuendo.client.display import text
from diminuendo.client.display.lines import STATE_STYLES, line_of_cells
from diminuendo.client.errors import DiminuendoError
from diminuendo.client.fleet.fleet import Fleet
from diminuendo.client.fleet.models import FleetInfo, FleetUpdate
from diminuendo.client.fleet.results import ModelRow, Totals, row_of, totals_of
from diminuendo.client.types import JobInfo, JobState

_ROWS, _WIDE, _WIDEST = 10, 100, 120
_CROWD = 20
"""Changes at a time of which only the counts are told, in lines."""

_AT_WORK = (JobState.RUNNING, JobState.CANCELLING, JobState.PAUSING)
LOST = "the connection to the server was lost; trying again, the jobs go on"


@dataclass(frozen=True)
class FleetView:
    """Everything that a display shows of a fleet. What is derived is computed once: frames are drawn more often.

    Attributes:
        jobs: The newest job of each model, by its name.
        known: Whether everything has been told for now.
        trouble: Set while the connection to the server is lost.
    """

    fleet: FleetInfo
    jobs: Mapping[str, JobInfo] = field(default_factory=dict)
    known: bool = False
    trouble: str = ""

    @cached_property
    def running(self) -> list[JobInfo]:
        """Jobs that are worked on, the one that was begun first before the others."""
        late = datetime.max.replace(tzinfo=UTC)
        found = [job for job in self.jobs.values() if job.state in _AT_WORK]
        return sorted(found, key=lambda job: (job.start_time or late, job.model))

    @cached_property
    def last_failed(self) -> JobInfo | None:
        """The job that failed last."""
        early = datetime.min.replace(tzinfo=UTC)
        failed = [job for job in self.jobs.values() if job.state is JobState.FAILED]
        return max(failed, key=lambda job: (job.end_time or early, job.model), default=None)

    @cached_property
    def ended(self) -> int:
        """How many jobs have ended."""
        return sum(job.state.final for job in self.jobs.values())

    @cached_property
    def counts(self) -> list[tuple[str, str]]:
        """Models by state in words, each with its style: of those that succeeded how many are not inside delta, too."""
        states = Counter(job.state for job in self.jobs.values())
        words = [
            (f"{states[state]} {state.value.lower()}", STATE_STYLES.get(state, ""))
            for state in JobState
            if states[state]
        ]
        outside = sum(job.result is not None and not job.result.inside_delta for job in self.jobs.values())
        return [*words, (f"{outside} of them outside", "yellow")] if outside else words

    @cached_property
    def totals(self) -> Totals:
        """Sums over the results whose figures are known."""
        results = (job.result for job in self.jobs.values() if job.result)
        return totals_of((result.original, result.compressed) for result in results)

    @cached_property
    def _span(self) -> tuple[datetime | None, datetime | None]:
        """When the first job was begun, and when the last one ended."""
        begun = [job.start_time for job in self.jobs.values() if job.start_time]
        ended = [job.end_time for job in self.jobs.values() if job.end_time]
        return min(begun, default=None), max(ended, default=None)

    @property
    def over(self) -> bool:
        """Whether every job has ended."""
        return self.known and self.ended == len(self.jobs)

    def elapsed_s(self, now: datetime) -> float:
        """Seconds since the first job was begun, to `now` or to the end of the last one; never negative."""
        begun, ended = self._span
        end = ended if self.over and ended else now
        return max(0.0, (end - begun).total_seconds()) if begun else 0.0


def advance(view: FleetView, update: FleetUpdate) -> FleetView:
    """The view after one more update."""
    before = {} if update.begins else view.jobs
    jobs = {**before, **{job.model: job for job in update.jobs}}
    return FleetView(update.fleet, jobs, known=update.caught_up or (view.known and not update.begins))


def totals_line(totals: Totals) -> str:
    """What was saved, in a line; empty while nothing is known."""
    if not totals.models:
        return ""
    models = "1 model" if totals.models == 1 else f"{totals.models} models"
    return (
        f"{totals.params:,} -> {totals.params_after:,} params ({_ratio(totals.params, totals.params_after)}),"
        f" {totals.size_mb_saved:.2f} of {totals.size_mb:.2f} MB saved, by {models}"
    )


def _ratio(before: float, after: float) -> str:
    return text.times(before / after) if after > 0 else "all of it"


class FleetFrame:
    """Draws one view: a fixed number of lines, steady from 60 columns up; the clock goes on between updates."""

    def __init__(self, view: FleetView, *, rows: int = _ROWS, now: Callable[[], datetime] | None = None) -> None:
        """Draw `view` with this many lines for models."""
        self.view = view
        self._rows = rows
        self._now = now or (lambda: datetime.now(UTC))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The frame at the console's present width."""
        width = min(options.max_width, _WIDEST)
        parts: list[RenderableType] = [self._head(), self._bar(), self._counts(), Text()]
        parts += [self._models(width), self._totals(), self._foot()]
        yield Constrain(Group(*parts), width)

    def _head(self) -> RenderableType:
        view = self.view
        row = line_of_cells("left", "right", flexible=0)
        state = "ENDED" if view.over else "RUNNING" if view.running else "WAITING" if view.known else "READING"
        style = "green" if view.over else "cyan" if view.running else "yellow"
        row.add_row(
            Text(text.one_line(view.fleet.name), style="bold"),
            Text.assemble((state, style), f"  {text.clock(view.elapsed_s(self._now()))}"),
        )
        return row

    def _bar(self) -> RenderableType:
        ended = self.view.ended
        models = max(len(self.view.jobs), self.view.fleet.models)
        row = line_of_cells("left", "right", flexible=0)
        row.add_row(ProgressBar(total=max(1, models), completed=ended), Text(f"{ended} of {models} models ended"))
        return row

    def _counts(self) -> RenderableType:
        line = Text(", ").join(Text(words, style=style) for words, style in self.view.counts)
        line.no_wrap, line.overflow = True, "ellipsis"
        return line

    def _models(self, width: int) -> RenderableType:
        """The models that run, padded so that the frame keeps its height; at its end how many have no room."""
        wide = width >= _WIDE
        table = Table(box=None, expand=True, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("model", ratio=2, no_wrap=True, overflow="ellipsis")
        if wide:
            table.add_column("source", ratio=1, no_wrap=True, overflow="ellipsis")
        table.add_column("stage", width=8, no_wrap=True)
        table.add_column("works", justify="right", width=9, no_wrap=True)
        for name in ("params", "MACs") if wide else ("params",):
            table.add_column(name, justify="right", width=8, no_wrap=True)
        table.add_column("drop", justify="right", width=13, no_wrap=True, overflow="ellipsis")
        running = self.view.running
        room = self._rows if len(running) <= self._rows else self._rows - 1
        for job in running[:room]:
            table.add_row(*_cells(job, wide=wide))
        if running[room:]:
            table.add_row(Text(f"and {len(running) - room} more", style="dim"))
        for _ in range(self._rows - min(len(running), self._rows)):
            table.add_row("")
        return table

    def _totals(self) -> RenderableType:
        line = totals_line(self.view.totals)
        return Text(line, style="green", no_wrap=True, overflow="ellipsis")

    def _foot(self) -> RenderableType:
        """One line: trouble, what failed last, or what is waited for."""
        if self.view.trouble:
            return Text(self.view.trouble, style="red", no_wrap=True, overflow="ellipsis")
        last = self.view.last_failed
        if last is not None:
            return Text(f"{last.model} failed: {row_of(last).reason}", style="red", no_wrap=True, overflow="ellipsis")
        waits = self.view.known and not self.view.over and not self.view.running
        line = "waiting for a coordinator; evaluators take some seconds to start" if waits else ""
        return Text(line, style="dim", no_wrap=True, overflow="ellipsis")


def _cells(job: JobInfo, *, wide: bool) -> list[RenderableType]:
    """A running model's line."""
    progress = job.progress
    best = progress.best if progress else None
    allowed = "" if job.delta is None else f" of {job.delta:g}"
    cells = [text.one_line(job.model), *([text.source(job.source)] if wide else [])]
    cells.append((progress.stage.value if progress else "") or job.state.value.lower())
    cells.append(f"{progress.works_done}/{progress.works_expected}" if progress and progress.works_expected else "")
    cells.append(text.times(best.params_ratio) if best else "")
    if wide:
        cells.append(text.times(best.macs_ratio) if best else "")
    cells.append(f"{text.points(best.drop)}{allowed}" if best else "")
    return [Text(cell) for cell in cells]


class LiveFleet:
    """Shows a fleet in place on a terminal, once a second; a context manager. Its last frame stays on the screen."""

    def __init__(self, console: Console, view: FleetView) -> None:
        """Show `view` on the console."""
        self._told = view
        self._frame = FleetFrame(view, rows=max(1, min(_ROWS, console.height - 8)))
        self._live = Live(self._frame, console=console, refresh_per_second=1, vertical_overflow="crop")

    @property
    def view(self) -> FleetView:
        """What is shown."""
        return self._frame.view

    def __enter__(self) -> LiveFleet:
        """Start drawing."""
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Draw a last time, and let go of the terminal."""
        self._live.stop()

    def show(self, update: FleetUpdate) -> None:
        """Draw the fleet after this update. One that is told anew is drawn once it is whole."""
        self._told = advance(self._told, update)
        if self._told.known or not self.view.known:
            self._frame.view = self._told

    def trouble(self, told: str) -> None:
        """Say that the connection is lost, until the next update."""
        self._frame.view = replace(self.view, trouble=told)


class PlainFleet:
    """Writes a fleet's changes as lines; a context manager, like `LiveFleet`."""

    def __init__(
        self, write: Callable[[str], None], view: FleetView, now: Callable[[], datetime] | None = None
    ) -> None:
        """Write lines (without their end) with `write`."""
        self.view = view
        self._write = write
        self._now = now or (lambda: datetime.now(UTC))
        self._told: dict[str, tuple[str, JobState]] = {}
        self._first = True

    def __enter__(self) -> PlainFleet:
        """Nothing to start."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to end."""

    def show(self, update: FleetUpdate) -> None:
        """Write what has changed since all was told last; of a crowd, and at first, the counts alone."""
        self.view = advance(self.view, update)
        if not update.caught_up:
            return
        now = {model: (job.name, job.state) for model, job in self.view.jobs.items()}
        changed = [model for model, state in sorted(now.items()) if self._told.get(model) != state]
        if self._first or len(changed) > _CROWD:
            self._line(", ".join(words for words, _ in self.view.counts) or "no models yet")
        else:
            for model in changed:
                self._line(self._of(self.view.jobs[model]))
        self._told, self._first = now, False

    def trouble(self, told: str) -> None:
        """Write that the connection is lost, once."""
        if told != self.view.trouble:
            self._write(f"{'':>7}  {told}")
        self.view = replace(self.view, trouble=told)

    def _line(self, told: str) -> None:
        self._write(f"{text.clock(self.view.elapsed_s(self._now())):>7}  {told}")

    def _of(self, job: JobInfo) -> str:
        more = f"  ({self.view.ended} of {len(self.view.jobs)} ended)" if job.state.final else ""
        return f"{text.one_line(job.model)}: {job.state.value}{_outcome(row_of(job))}{more}"


def _outcome(row: ModelRow) -> str:
    """How a model ended, behind its state."""
    if row.params_ratio is None or row.drop is None:
        return f", {row.reason}" if row.reason else ""
    inside = "inside" if row.inside else "nothing inside"
    return f", {text.times(row.params_ratio)} params, drop {text.points(row.drop)}, {inside} {row.wanted}"


def follow_fleet(fleet: Fleet, console: Console) -> FleetView:
    """Show a fleet until all its jobs have ended; returns it as it was told last."""
    view = FleetView(fleet.info())
    display: LiveFleet | PlainFleet
    if console.is_terminal and not console.is_dumb_terminal:
        display = LiveFleet(console, view)
    else:
        display = PlainFleet(lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True), view)

    def lost(_: DiminuendoError) -> None:
        display.trouble(LOST)

    with display:
        for update in fleet.watch(on_cut=lost):
            display.show(update)
    return display.view
