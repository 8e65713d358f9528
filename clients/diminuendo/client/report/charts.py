"""The charts of a report, each with what it shows in words."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator, PercentFormatter

from diminuendo.client.display import text
from diminuendo.client.report.reading import Candidate, Layer, Record, Report
from diminuendo.client.report.svg import BLUE, GREEN, GRID, INK, MUTED, ORANGE, PAPER, VIOLET, drawing
from diminuendo.client.report.words import figure_of, inside, wanted

MOST_BARS = 40
"""Layers that a chart has room for; the ones with the most params are shown."""

TALLEST = 3.0
"""Drops above so many times the tolerance are drawn at the top edge: they are failures, however large."""

_STAGES = {"explore": ("Explore", BLUE, "o"), "anneal": ("Anneal", VIOLET, "s"), "certify": ("Certify", GREEN, "D")}
"""Name, colour and marker of a stage's candidates: the marker tells them apart without colours."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing and its caption."""

    svg: str
    caption: str


def interval(report: Report) -> Chart:
    """The drop with its interval, beside the dense control's and delta."""
    certificate, wish = report.certificate, report.certificate.delta
    low, high = certificate.drop_ci
    label = (
        f"The drop is {text.points(certificate.drop)} points, its 95 % interval from {text.points(low)} to"
        f" {text.points(high)}" + (f"; delta is {wish:g}." if wish is not None else ".")
    )
    names = ["Compressed"] + (["Dense control"] if certificate.control else [])
    with drawing("interval", label, height=1.7) as drawn:
        axes = drawn.axes
        axes.errorbar(
            [certificate.drop], [0], xerr=[[max(0.0, certificate.drop - low)], [max(0.0, high - certificate.drop)]],
            fmt="o", color=BLUE, ecolor=BLUE, capsize=5, markersize=8, linewidth=2,
        )  # fmt: skip
        if certificate.control:
            axes.plot([certificate.control.drop], [1], "D", color=MUTED, markersize=7)
        axes.axvline(0.0, color=MUTED, linewidth=1)
        if wish is not None:
            axes.axvline(wish, color=ORANGE, linestyle="--", linewidth=1.6)
            axes.text(wish, -0.62, f" delta {wish:g} ", color=ORANGE, va="center", ha="right")
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.85)
        axes.set_xlabel(f"Drop of {text.one_line(certificate.metric)}, points (less is better)")
    return Chart(drawn.svg, label)


def tradeoff(report: Report, record: Record) -> Chart:
    """Drop against ratio of every candidate, with the delta line."""
    wish = report.certificate.delta
    shown = [c for c in record.candidates if c.drop is not None and c.ratio is not None]
    diverged = len(record.candidates) - len(shown)
    top = _top([c.drop for c in shown if c.drop is not None], wish)
    high = sum(1 for c in shown if c.drop is not None and c.drop > top)
    figure = figure_of(report.asked.objective)
    kept = sum(1 for c in shown if inside(c, report))
    label = (
        f"{len(shown):,} candidates by their ratio of {figure} and their drop on the search half:"
        f" {kept:,} of them keep {wanted(report)}."
    )
    if high:
        label += f" {high:,} with larger drops are at the upper edge."
    if diverged:
        label += f" {diverged:,} diverged and are not shown."
    with drawing("tradeoff", label) as drawn:
        axes = drawn.axes
        for stage, (name, colour, marker) in _STAGES.items():
            _dots(axes, [c for c in shown if c.stage == stage], top, name, colour, marker)
        _returned(axes, record, shown, top)
        if wish is not None:
            axes.axhline(wish, color=ORANGE, linestyle="--", linewidth=1.6, label=f"Delta {wish:g}")
        elif report.certificate.target:
            _target_line(axes, report)
        axes.axhline(0.0, color=MUTED, linewidth=1)
        axes.set_ylim(top=top * 1.06)
        ratio_axis(axes, "x", [c.ratio for c in shown if c.ratio is not None])
        axes.set_xlabel(f"Original to candidate, {figure} (more is better)")
        axes.set_ylabel("Drop on the search half, points")
        legend(axes)
    return Chart(drawn.svg, label)


def progress(report: Report, record: Record) -> Chart:
    """The search over time: the best candidate so far after each evaluation."""
    aimed = bool(report.certificate.target)
    best, found = [], math.nan
    for each in record.tried:
        value = each.drop if aimed else each.ratio
        if not each.is_control and inside(each, report) and value is not None:
            found = value if math.isnan(found) else min(found, value) if aimed else max(found, value)
        best.append(found)
    last = best[-1] if best else math.nan
    label = f"{len(record.tried):,} evaluations in the order in which they were proposed. "
    if math.isnan(last):
        label += f"None of them kept {wanted(report)} on the search half."
    else:
        figure = f"a drop of {text.points(last)}" if aimed else text.times(last)
        label += f"The best that kept {wanted(report)} on the search half came to {figure}. The search"
        label += " itself also asks that a candidate's divergence from the original agrees with its drop."
    if len({each.stage for each in record.tried}) > 1:
        label += " Vertical lines are where its next stage begins."
    with drawing("progress", label, height=3.8) as drawn:
        _told(drawn.axes, report, record, aimed=aimed)
        numbers = range(1, len(best) + 1)
        drawn.axes.step(numbers, best, where="post", color=BLUE, linewidth=2, label="Best so far")
        _stage_lines(drawn.axes, record)
        drawn.axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        drawn.axes.set_xlabel("Evaluation")
        legend(drawn.axes)
    return Chart(drawn.svg, label)


def shares(layers: Sequence[Layer], before: int, after: int) -> Chart:
    """Every layer's share of its network's params, before and after."""
    largest = sorted(layers, key=lambda each: -each.params_before)[:MOST_BARS]
    names_shown = {each.name for each in largest}
    shown = [each for each in layers if each.name in names_shown]
    names = [short(f"{each.name}  {each.form}") for each in shown]
    label = "Share of every layer in the params of its network, original and compressed."
    if len(shown) < len(layers):
        label = f"Share in the params of its network, of the {MOST_BARS} largest of {len(layers):,} layers."
    with drawing("shares", label, height=1.2 + 0.36 * len(shown)) as drawn:
        axes, rows = drawn.axes, range(len(shown))
        old = [each.params_before / max(1, before) for each in shown]
        new = [each.params_after / max(1, after) for each in shown]
        axes.barh([row - 0.19 for row in rows], old, height=0.36, color=MUTED, label="Original")
        axes.barh([row + 0.19 for row in rows], new, height=0.36, color=BLUE, label="Compressed")
        axes.set_yticks(rows, names)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xlabel("Share of the network's params")
        legend(axes)
    return Chart(drawn.svg, label)


def against(reports: Sequence[Report], names: Sequence[str]) -> Chart:
    """Drop with its interval against the ratio of params, of several results."""
    label = "Drop on the sealed half with its 95 % interval, against the ratio of params: " + "; ".join(
        f"{name} {text.times(_params_ratio(each))} at {text.points(each.certificate.drop)}"
        for name, each in zip(names, reports, strict=True)
    )
    styles = zip(itertools.cycle("oDs^v"), itertools.cycle((BLUE, VIOLET, GREEN, ORANGE)), strict=False)
    with drawing("against", label) as drawn:
        axes = drawn.axes
        for name, each, (marker, colour) in zip(names, reports, styles, strict=False):
            drop, (low, high) = each.certificate.drop, each.certificate.drop_ci
            axes.errorbar(
                [_params_ratio(each)], [drop], yerr=[[max(0.0, drop - low)], [max(0.0, high - drop)]],
                fmt=marker, color=colour, ecolor=colour, capsize=5, markersize=8, label=short(name),
            )  # fmt: skip
        axes.axhline(0.0, color=MUTED, linewidth=1)
        ratio_axis(axes, "x", [_params_ratio(each) for each in reports])
        axes.set_xlabel("Original to compressed, params (more is better)")
        axes.set_ylabel("Drop, points")
        legend(axes)
    return Chart(drawn.svg, label + ".")


def _params_ratio(report: Report) -> float:
    return report.result.original.params / max(1, report.result.compressed.params)


def _top(drops: Sequence[float], wish: float | None) -> float:
    """The largest drop that is drawn where it is."""
    most = max(drops, default=1.0)
    if wish is None:
        middle = sorted(drops)[len(drops) // 2] if drops else 1.0
        return max(1e-9, min(most, 4 * abs(middle)) if middle else most)
    return max(min(most, TALLEST * wish), 1.25 * wish)


def _dots(axes: Axes, chosen: Sequence[Candidate], top: float, name: str, colour: str, marker: str) -> None:
    """One stage's candidates; those above the top as triangles at the edge."""
    points = [(c.ratio, c.drop) for c in chosen if c.ratio is not None and c.drop is not None]
    within = [p for p in points if p[1] <= top]
    above = [p for p in points if p[1] > top]
    if points:
        axes.plot(
            [x for x, _ in within], [y for _, y in within], marker, color=colour, markersize=6.5,
            markeredgecolor=PAPER, markeredgewidth=0.6, label=name,
        )  # fmt: skip
    axes.plot([x for x, _ in above], [top for _ in above], "^", color=colour, markersize=7, markeredgecolor=PAPER)


def _returned(axes: Axes, record: Record, shown: Sequence[Candidate], top: float) -> None:
    """A ring around the candidate that came back."""
    for each in shown:
        if each.index == record.returned and each.ratio is not None and each.drop is not None:
            axes.plot(
                [each.ratio], [min(each.drop, top)], "o", markersize=15, markerfacecolor="none", markeredgecolor=INK,
                markeredgewidth=1.8, label="Returned",
            )  # fmt: skip


def _target_line(axes: Axes, report: Report) -> None:
    """Where the target is, among ratios of its figure."""
    figure, most = next(iter(report.certificate.target.items()))
    original = {
        "params": report.result.original.params,
        "macs": report.result.original.macs,
        "size": report.result.original.size_mb,
        "memory": report.result.original.memory_mb,
        "latency": report.latency.original_ms,
    }.get(figure)
    if original is not None and most > 0:
        axes.axvline(original / most, color=ORANGE, linestyle="--", linewidth=1.6, label=f"Target: {wanted(report)}")


def _told(axes: Axes, report: Report, record: Record, *, aimed: bool) -> None:
    """Every evaluation where it came, filled when it kept what was asked."""
    points = [
        (i, c.drop if aimed else c.ratio, inside(c, report))
        for i, c in enumerate(record.tried, 1)
        if not c.is_control and c.drop is not None and c.ratio is not None
    ]
    top = _top([y for _, y, _ in points if y is not None], None) if aimed else math.inf
    for kept, name, face in ((True, "Keeps what was asked", GREEN), (False, "Does not", "none")):
        chosen = [(x, min(y, top)) for x, y, is_kept in points if is_kept == kept and y is not None]
        axes.plot(
            [x for x, _ in chosen], [y for _, y in chosen], "o", markersize=6, markerfacecolor=face,
            markeredgecolor=GREEN if kept else ORANGE, markeredgewidth=1.4, label=name,
        )  # fmt: skip
    if aimed:
        axes.set_ylabel("Drop on the search half, points")
    else:
        ratio_axis(axes, "y", [y for _, y, _ in points if y is not None])
        axes.set_ylabel(f"Ratio, {figure_of(report.asked.objective)}")


def _stage_lines(axes: Axes, record: Record) -> None:
    """Where one stage ended and the next began."""
    numbered = list(enumerate(record.tried, 1))
    for (_, before), (number, after) in itertools.pairwise(numbered):
        if before.stage != after.stage:
            axes.axvline(number - 0.5, color=GRID, linewidth=2)


def ratio_axis(axes: Axes, which: str, values: Sequence[float]) -> None:
    """A logarithmic axis of ratios with round numbers on it."""
    low, high = min(values, default=1.0), max(values, default=10.0)
    low, high = max(low, 1e-6) / 1.15, max(high, low) * 1.15
    steps = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if high / low < 12 else (1.0, 2.0, 5.0)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
    if high / low < 2:
        ticks = [float(tick) for tick in MaxNLocator(6).tick_values(low, high) if low <= tick <= high]
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}x"))


def legend(axes: Axes) -> None:
    """In a line above the chart, where it hides nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=5, borderaxespad=0.2, handletextpad=0.5)


def short(name: str, most: int = 44) -> str:
    """A name on one line that leaves room for the chart."""
    line = text.one_line(name)
    return line if len(line) <= most else f"…{line[1 - most :]}"
