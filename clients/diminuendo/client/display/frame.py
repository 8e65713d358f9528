"""One picture of a job on a terminal: so many lines, each as wide as there is room, steady while the job goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from diminuendo.client.cluster import Evaluator, EvaluatorState
from diminuendo.client.display import text
from diminuendo.client.display.chart import LEAST_HEIGHT, caption, chart
from diminuendo.client.display.cluster import STYLES as EVALUATOR_STYLES
from diminuendo.client.display.cluster import counts, doing, for_s
from diminuendo.client.display.left import left_line
from diminuendo.client.display.lines import STATE_STYLES
from diminuendo.client.display.view import View
from diminuendo.client.types import EvaluationFinished, JobState

WIDE, WIDEST, HIGHEST = 100, 160, 28
"""From how many columns on chart and evaluators are side by side, and the most columns and lines that are used."""

_FIXED = 5
"""Lines that are always there: title, stage, best, left; what is going on."""
_NAME = 10
_MIDDLE = 80


class Frame:
    """Draws a view; the clock goes on between events.

    Attributes:
        view: What is drawn.
        evaluators: What works on the job now; None while that is not known.
        said: What goes on until the first event or evaluator tells; empty: nothing.
    """

    def __init__(self, view: View, *, now: Callable[[], datetime] | None = None) -> None:
        """Draw `view`."""
        self.view = view
        self.evaluators: tuple[Evaluator, ...] | None = None
        self.said = ""
        self._now = now or (lambda: datetime.now(UTC))
        self._most = 1

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The frame at the console's present size; one line of it is left to whatever comes next."""
        yield from self.lines(
            min(options.max_width, WIDEST), min(console.height - 1, HIGHEST), ascii_only=options.ascii_only
        )

    def lines(self, width: int, height: int, *, ascii_only: bool = False) -> list[Text]:
        """Exactly so many lines, none wider than that, where there are at least 60 columns and 14 lines."""
        now = self._now()
        self._most = max(self._most, len(self.evaluators or ()))
        top = [self._head(width, now), self._bar(width, ascii_only=ascii_only), self._best(), self._left(width, now)]
        body = self._body(width, max(0, height - _FIXED), now, ascii_only=ascii_only)
        lines = [*top, *body, self._foot()]
        for line in lines:
            line.no_wrap = True
            line.truncate(width, overflow="ellipsis")
        return lines

    # --- the lines that are always there ---------------------------------------------------------------------

    def _head(self, width: int, now: datetime) -> Text:
        view = self.view
        count = len(view.warnings)
        state = Text.assemble(
            (f"{count} warning{'s' if count > 1 else ''}  " if count else "", "yellow"),
            (view.state.value, STATE_STYLES.get(view.state, "")),
            f"  {text.clock(view.elapsed_s(now))}",
        )
        return _pair(Text(text.one_line(view.title), style="bold"), state, width)

    def _bar(self, width: int, *, ascii_only: bool) -> Text:
        """How far it has come, and how many evaluations run."""
        progress = self.view.progress
        busy = sum(one.state is EvaluatorState.BUSY for one in self.evaluators or ())
        works = f"{progress.works_done} of {progress.works_expected} works" if progress.works_expected else ""
        if busy and not self.view.state.final:
            works += f"{', ' if works else ''}{busy} running"
        total = max(progress.works_expected, progress.works_done, 1)
        done = total if self.view.state is JobState.SUCCEEDED else progress.works_done
        cells = max(0, width - _NAME - len(works) - 2)
        full, mark = cells * done // total, "-" if ascii_only else "━"
        rest = Text(mark * (cells - full), style="dim")
        return Text.assemble(
            f"{progress.stage.value or 'queued':<{_NAME}}", (mark * full, "green"), rest, f"  {works}" if works else ""
        )

    def _best(self) -> Text:
        style = "green" if self.view.best else "dim"
        line = text.best_line(self.view.best, self.view.delta, self.view.target)
        return Text.assemble(f"{'best':<{_NAME}}", (line, style))

    def _left(self, width: int, now: datetime) -> Text:
        line = left_line(self.view, now, narrow=width < _MIDDLE)
        return Text.assemble(f"{'left':<{_NAME}}" if line else "", (line, "dim"))

    def _foot(self) -> Text:
        """One line: trouble, the last warning, or what is going on."""
        view = self.view
        if view.trouble:
            return Text(text.one_line(view.trouble), style="red")
        if view.alert and not view.state.final:
            return Text(text.one_line(view.alert), style="yellow")
        line = self.said or view.note or (view.reason if view.state.final else view.summary)
        return Text(text.one_line(line), style="dim")

    # --- what there is room for ------------------------------------------------------------------------------

    def _body(self, width: int, height: int, now: datetime, *, ascii_only: bool) -> list[Text]:
        """Chart, evaluators and the last evaluations, as much of each as there is room for."""
        if width >= WIDE:
            return self._side_by_side(width, height, now, ascii_only=ascii_only)
        most = max(1, height // 4)
        left = height - 1 - most
        drawn: list[Text] = []
        if left >= LEAST_HEIGHT + 1 + 4:
            drawn = self._chart(width, min(12, left - 4 - left // 5), ascii_only=ascii_only)
        evaluators = self._evaluators(width, min(self._most, most), now)
        return [*drawn, *evaluators, *self._recent(width, height - len(drawn) - len(evaluators))]

    def _side_by_side(self, width: int, height: int, now: datetime, *, ascii_only: bool) -> list[Text]:
        rows = min(16, height - 4 if height < 12 else height * 3 // 5)
        if rows < LEAST_HEIGHT + 1:
            return self._recent(width, height)
        half = width // 2 - 2
        left = self._chart(half, rows, ascii_only=ascii_only)
        right = self._evaluators(width - half - 3, rows - 1, now)
        right += [Text()] * (rows - len(right))
        both = [Text.assemble(_padded(one, half), "   ", two) for one, two in zip(left, right, strict=True)]
        return [*both, *self._recent(width, height - rows)]

    def _chart(self, width: int, height: int, *, ascii_only: bool) -> list[Text]:
        view = self.view
        drawn = chart(view.candidates, view.best, view.delta, width=width, height=height - 1, ascii_only=ascii_only)
        return [Text(caption(view.candidates, view.delta), style="dim"), *drawn]

    def _evaluators(self, width: int, rows: int, now: datetime) -> list[Text]:
        """A line that counts them, and so many lines more; those that were lost come first."""
        if self.evaluators is None or self.view.state.final:
            return [Text(), *[Text()] * rows]
        ordered = sorted(self.evaluators, key=lambda one: one.state is not EvaluatorState.LOST)
        shown = ordered if len(ordered) <= rows else ordered[: rows - 1]
        lines = [Text(f"evaluators: {counts(ordered) or 'none works on it now'}", style="dim")]
        lines += [_evaluator(one, width, now) for one in shown]
        if len(shown) < len(ordered):
            lines.append(Text(f"+{len(ordered) - len(shown)} more", style="dim"))
        return lines + [Text()] * (rows + 1 - len(lines))

    def _recent(self, width: int, rows: int) -> list[Text]:
        """The last evaluations, newest last, below their heading."""
        if rows < 2:
            return [Text()] * rows
        heading = ["#", "kind", "subject", "epochs", "params", "MACs", "drop", "time", "by"]
        columns = _columns(width)
        lines = [Text(_row(heading, columns), style="dim")]
        lines += [Text(_row(_cells(done, wide=width >= WIDE), columns)) for done in self.view.recent[1 - rows :]]
        return lines + [Text()] * (rows - len(lines))


def _evaluator(one: Evaluator, width: int, now: datetime) -> Text:
    style = EVALUATOR_STYLES.get(one.state, "")
    name = f"{_short(text.one_line(one.name), 12):<12}  "
    state = "" if one.state is EvaluatorState.BUSY else f"{one.state.value.lower()} "
    return _pair(Text.assemble(name, (state, style), doing(one)), Text(for_s(one, now)), width)


def _columns(width: int) -> list[int]:
    """Cells of each column of the evaluations; 0: it is left out. The third, the subject, takes what is left."""
    wide = width >= WIDE
    columns = [-4, 8, 0, -6, -8, -7 if wide else 0, -6, -8 if wide else -7, 20 if wide else 6 if width >= 72 else 0]
    columns[2] = width - sum(abs(cells) + 2 for cells in columns if cells)
    return columns


def _row(cells: Sequence[str], columns: Sequence[int]) -> str:
    """Cells below each other: those of negative columns are flush right."""
    parts = []
    for cell, size in zip(cells, columns, strict=True):
        if size:
            fitted = _short_right(cell, abs(size))
            gap = " " * (abs(size) - cell_len(fitted))
            parts.append(gap + fitted if size < 0 else fitted + gap)
    return "  ".join(parts)


def _cells(done: EvaluationFinished, *, wide: bool) -> list[str]:
    candidate = done.candidate
    params, macs, drop = ("", "", "")
    if candidate is not None:
        params, macs = text.times(candidate.params_ratio), text.times(candidate.macs_ratio)
        drop = text.points(candidate.drop)
    elif done.kind == "evaluate":
        params = "diverged"
    by = text.one_line(done.evaluator)
    return [
        str(done.index),
        text.one_line(done.kind),
        text.one_line(done.subject),
        text.epochs(done),
        params,
        macs,
        drop,
        text.took(done),
        by if wide else _short(by, 6),
    ]


def _pair(left: Text, right: Text, width: int) -> Text:
    """One at each end of a line; the left one gives way."""
    return Text.assemble(_padded(left, max(0, width - right.cell_len - 2)), "  ", right)


def _padded(line: Text, width: int) -> Text:
    fitted = line.copy()
    fitted.truncate(width, overflow="ellipsis", pad=True)
    return fitted


def _short(name: str, most: int) -> str:
    """The end of a name, where names differ: ``…r-1``."""
    return name if len(name) <= most else "…" + name[1 - most :]


def _short_right(cell: str, most: int) -> str:
    return cell if cell_len(cell) <= most else set_cell_size(cell, most - 1) + "…"
