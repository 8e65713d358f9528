"""Tables of fleets: those of a project, the models of one, what came of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from diminuendo.client.display import text
from diminuendo.client.display.fleet import totals_line
from diminuendo.client.display.lines import STATE_STYLES
from diminuendo.client.fleet.models import FleetInfo, FleetModel, ModelStatus
from diminuendo.client.fleet.results import FleetReport, ModelRow, row_of
from diminuendo.client.types import DEFAULT_DELTA, Figures, JobInfo, JobState


def _table(*left: str, right: Sequence[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for name in left:
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def states_line(info: FleetInfo) -> str:
    """``3 queued, 9 succeeded, 1 of them outside``."""
    words = [f"{count} {state.value.lower()}" for state, count in info.states.items()]
    if info.outside:
        words.append(f"{info.outside} of them outside")
    return ", ".join(words)


def fleets_table(fleets: Iterable[FleetInfo], *, whole_names: bool) -> Table:
    """Fleets, one in a line."""
    table = _table("fleet")
    table.add_column("models", justify="right", no_wrap=True)
    for name in ("states", "labels", "created"):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for info in fleets:
        table.add_row(
            info.name if whole_names else info.fleet_id,
            str(info.models),
            states_line(info),
            Text(", ".join(f"{key}={value}" for key, value in sorted(info.labels.items()))),
            text.local_time(info.create_time),
        )
    return table


def models_table(jobs: Iterable[JobInfo]) -> Table:
    """The models of a fleet by name, each with its newest job."""
    table = _table("model", "source", "state", "stage", "asked for", right=("params", "drop"))
    table.add_column("job", no_wrap=True, overflow="ellipsis")
    for job in sorted(jobs, key=lambda job: job.model):
        figures = job.result or (job.progress.best if job.progress else None)
        stage = job.progress.stage.value if job.progress and not job.state.final else ""
        table.add_row(
            Text(job.model),
            Text(text.source(job.source)),
            _state(job.state, None if job.result is None else job.result.inside_delta),
            stage,
            row_of(job).wanted,
            text.times(figures.params_ratio) if figures else "",
            text.points(figures.drop) if figures else "",
            job.job_id,
        )
    return table


def asked_table(models: Iterable[FleetModel], sources: Mapping[str, str]) -> Table:
    """What a file asks for each model."""
    table = _table("model", "source", "asked for", "effort", "limits", "budget")
    for model in models:
        delta = DEFAULT_DELTA if model.delta is None else model.delta
        table.add_row(
            Text(model.name),
            Text(text.source(sources[model.name])),
            text.figures(model.target) if model.target else f"delta {delta:g}",
            f"{model.effort}, stage {model.stage}",
            text.figures(model.limits or {}),
            ", ".join(f"{most:g} {kind}" for kind, most in (model.budget or {}).items()),
        )
    return table


def show_statuses(console: Console, statuses: Sequence[ModelStatus]) -> None:
    """What came of each model of a submission or a retry, then why some did not get what was asked for."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    for _ in range(4):
        table.add_column(no_wrap=True, overflow="ellipsis")
    for status in statuses:
        word, style = came_of(status)
        state, name = ("", "") if status.job is None else (status.job.state.value.lower(), status.job.name)
        table.add_row(Text(status.model), Text(word, style=style), state, name)
    if statuses:
        console.print(table)
    for status in statuses:
        if status.refusal is not None:
            line = f"{status.model}: {text.one_line(status.refusal.message)}"
            console.print(Text(line, style=came_of(status)[1]), soft_wrap=True)
    console.print(Text(_statuses_line(statuses)))


def came_of(status: ModelStatus) -> tuple[str, str]:
    """What came of a model in a word or two, with its style."""
    if status.refusal is not None:
        return ("changed", "yellow") if status.differs else ("refused", "red")
    return ("created", "green") if status.created else ("already there", "dim")


def _statuses_line(statuses: Sequence[ModelStatus]) -> str:
    """``3 created, 10 already there, 1 refused``."""
    words = [came_of(status)[0] for status in statuses]
    return ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words)) or "no models"


def show_report(console: Console, report: FleetReport) -> None:
    """What came of every model, what was saved in all, and why models have no result."""
    table = _table(
        "model", "state", "metric", right=("original", "compressed", "drop", "of", "params", "after", "ratio")
    )
    table.add_column("MB saved", justify="right", no_wrap=True)
    for row in report.rows:
        table.add_row(*report_cells(row))
    totals = report.totals
    if totals.models:
        table.add_section()
        table.add_row(
            *("all", "", "", "", "", "", ""),
            *(f"{totals.params:,}", f"{totals.params_after:,}", _ratio(totals.params, totals.params_after)),
            f"{totals.size_mb_saved:.3f}",
            style="bold",
        )
    console.print(table)
    for row in report.rows:
        if row.reason:
            line = Text(f"{row.model}: {row.reason}", style=STATE_STYLES.get(row.state, ""))
            console.print(line, soft_wrap=True)
    states = ", ".join(f"{count} {state.value.lower()}" for state, count in report.states.items())
    outside = report.states.get(JobState.SUCCEEDED, 0) - report.inside
    console.print(Text(f"{len(report.rows)} models: {states}" + (f", {outside} of them outside" if outside else "")))
    if totals.models:
        console.print(Text(totals_line(totals)))


def report_cells(row: ModelRow) -> list[Text]:
    """A model's line; what is not known is empty."""
    before, after = row.original, row.compressed
    saved = f"{before.size_mb - after.size_mb:.3f}" if before and after else ""
    cells = [
        row.metric,
        *(text.points(figures.score) if figures else "" for figures in (before, after)),
        "" if row.drop is None else text.points(row.drop),
        row.wanted.removeprefix("delta "),
        *(_params(figures) for figures in (before, after)),
        "" if row.params_ratio is None else text.times(row.params_ratio),
        saved,
    ]
    return [Text(row.model), _state(row.state, row.inside), *map(Text, cells)]


def _params(figures: Figures | None) -> str:
    return f"{figures.params:,}" if figures else ""


def _state(state: JobState, inside: bool | None) -> Text:
    """A state; of a result whether it keeps what was asked for."""
    if inside is None:
        return Text(state.value.lower(), style=STATE_STYLES.get(state, ""))
    return Text("inside", style="green") if inside else Text("outside", style="yellow")


def _ratio(before: float, after: float) -> str:
    return text.times(before / after) if after > 0 else "-"
