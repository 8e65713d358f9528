"""The page of a fleet: every model before and after, what was saved in all, and why models have no result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import FuncFormatter, NullLocator

from diminuendo.client.display import text
from diminuendo.client.fleet.results import FleetReport, ModelRow
from diminuendo.client.report import words
from diminuendo.client.report.charts import MOST_BARS, Chart, legend, ratio_axis, short
from diminuendo.client.report.html import template
from diminuendo.client.report.svg import BLUE, GREEN, MUTED, ORANGE, drawing
from diminuendo.client.types import JobState


@dataclass(frozen=True, slots=True)
class Line:
    """A model as people read it; what is not known is ``-``."""

    model: str
    source: str
    state: str
    kept: bool | None
    metric: str
    original: str
    compressed: str
    drop: str
    interval: str
    wanted: str
    params: str
    params_after: str
    ratio: str
    saved: str
    reason: str


def fleet_page(report: FleetReport) -> str:
    """The page of a fleet: the same text for the same report."""
    totals = report.totals
    results = [row for row in report.rows if row.params_ratio is not None and row.drop is not None]
    sized = [row for row in report.rows if row.original and row.compressed]
    return template("fleet.html.j2").render(
        title=text.one_line(report.name.rpartition("/")[2] or report.name),
        name=text.one_line(report.name),
        headline=_headline(report),
        summary=list(_summary(report)),
        totals=totals,
        lines=[_line(row) for row in report.rows],
        without=[row for row in report.rows if row.inside is None],
        sizes=_sizes(sized) if sized else None,
        tradeoff=_tradeoff(results) if results else None,
    )


def _headline(report: FleetReport) -> str:
    totals = report.totals
    if not totals.models:
        return f"{report.inside} of {len(report.rows)} models keep what was asked for"
    smaller = words.ratio(totals.params, totals.params_after)
    return f"{smaller} fewer params in all, {report.inside} of {len(report.rows)} models keep what was asked for"


def _summary(report: FleetReport) -> list[str]:
    """The counts and sums in sentences."""
    states, totals = report.states, report.totals
    told = [f"{len(report.rows)} models: {', '.join(f'{n} {state.value.lower()}' for state, n in states.items())}."]
    outside = states.get(JobState.SUCCEEDED, 0) - report.inside
    if outside:
        told.append(f"{outside} of those that succeeded found nothing inside: their result is the nearest.")
    if totals.models:
        told.append(f"{totals.params_after:,} of {totals.params:,} params are left: {totals.params_saved:,} saved.")
        told.append(
            f"{totals.size_mb_after:,.3f} of {totals.size_mb:,.3f} MB are left: {totals.size_mb_saved:,.3f} MB saved."
        )
    unknown = sum(row.inside is not None for row in report.rows) - totals.models
    if unknown:
        what = "1 result is" if unknown == 1 else f"{unknown} results are"
        told.append(f"{what} of an older version that said no figures, and in no sum.")
    return told


def _line(row: ModelRow) -> Line:
    before, after = row.original, row.compressed
    return Line(
        model=text.one_line(row.model),
        source=text.one_line(text.source(row.source)),
        state=row.state.value.lower() if row.inside is None else "inside" if row.inside else "outside",
        kept=row.inside,
        metric=text.one_line(row.metric) or "-",
        original=text.points(before.score) if before else "-",
        compressed=text.points(after.score) if after else "-",
        drop="-" if row.drop is None else text.points(row.drop),
        interval="-" if row.drop_ci is None else f"[{text.points(row.drop_ci[0])}, {text.points(row.drop_ci[1])}]",
        wanted=row.wanted,
        params=f"{before.params:,}" if before else "-",
        params_after=f"{after.params:,}" if after else "-",
        ratio="-" if row.params_ratio is None else text.times(row.params_ratio),
        saved=f"{before.size_mb - after.size_mb:,.3f}" if before and after else "-",
        reason=row.reason,
    )


def _sizes(rows: Sequence[ModelRow]) -> Chart:
    """Params of every model before and after, on an axis of powers of ten."""
    pairs = [(row, row.original.params, row.compressed.params) for row in rows if row.original and row.compressed]
    pairs.sort(key=lambda pair: -pair[1])
    shown = pairs[:MOST_BARS]
    label = "Params of every model, original and compressed; the axis is logarithmic."
    if len(shown) < len(pairs):
        label = f"Params of the {len(shown)} largest of {len(pairs):,} models, original and compressed; logarithmic."
    with drawing("sizes", label, height=1.2 + 0.36 * len(shown)) as drawn:
        axes, places = drawn.axes, range(len(shown))
        old, new = [max(1, before) for _, before, _ in shown], [max(1, after) for _, _, after in shown]
        axes.barh([at - 0.19 for at in places], old, height=0.36, color=MUTED, label="Original")
        axes.barh([at + 0.19 for at in places], new, height=0.36, color=BLUE, label="Compressed")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_yticks(places, [short(row.model) for row, _, _ in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("Params")
        legend(axes)
    return Chart(drawn.svg, label)


def _tradeoff(rows: Sequence[ModelRow]) -> Chart:
    """Every result by its ratio and its drop."""
    points = [(row.params_ratio, row.drop, row.inside) for row in rows if row.params_ratio and row.drop is not None]
    kept = sum(inside is True for _, _, inside in points)
    label = (
        f"{len(points):,} results by their ratio of params and their drop on the sealed half: {kept:,} keep what was"
        " asked for. Metrics differ, and so do the points of their drops."
    )
    with drawing("tradeoff", label) as drawn:
        axes = drawn.axes
        for inside, name, marker, colour in ((True, "Inside", "o", GREEN), (False, "Outside", "^", ORANGE)):
            chosen = [(ratio, drop) for ratio, drop, is_kept in points if is_kept is inside]
            axes.plot([x for x, _ in chosen], [y for _, y in chosen], marker, color=colour, markersize=8, label=name)
        axes.axhline(0.0, color=MUTED, linewidth=1)
        ratio_axis(axes, "x", [ratio for ratio, _, _ in points])
        axes.set_xlabel("Original to compressed, params (more is better)")
        axes.set_ylabel("Drop, points")
        legend(axes)
    return Chart(drawn.svg, label)
