"""Fills the templates of pages: what they show is text, and escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from diminuendo.client.display import text
from diminuendo.client.report import charts, words
from diminuendo.client.report.compared import compare
from diminuendo.client.report.loading import Snippet, snippets
from diminuendo.client.report.reading import Report

MOST_ROWS = 1000
"""Candidates that a page lists; charts have all of them."""


@dataclass(frozen=True, slots=True)
class Row:
    """A figure of both networks as people read it."""

    name: str
    before: str
    after: str
    ratio: str


def report_page(report: Report) -> str:
    """The page of one result."""
    certificate, record = report.certificate, report.record
    return template("report.html.j2").render(
        report=report,
        title=text.one_line(text.source(report.result.source)),
        headline=words.headline(report),
        asked=list(words.asked(report)),
        found=list(words.found(report)),
        rows=_rows(report),
        interval=charts.interval(report),
        tradeoff=None if record is None else charts.tradeoff(report, record),
        progress=None if record is None else charts.progress(report, record),
        shares=charts.shares(report.layers, report.result.original.params, report.result.compressed.params),
        latency=list(words.latency(report)),
        judged=list(words.judged(report)),
        snippets=_snippets(report),
        exports=certificate.exports,
        most_rows=MOST_ROWS,
        figure=words.figure_of(report.asked.objective),
        inside=lambda candidate: words.inside(candidate, report),
    )


def comparison_page(reports: Sequence[Report]) -> str:
    """The page of several results, side by side."""
    comparison = compare(reports)
    return template("compare.html.j2").render(
        comparison=comparison,
        title=" and ".join(comparison.names) if len(reports) == 2 else f"{len(reports)} results",
        against=charts.against(reports, comparison.names),
    )


def _rows(report: Report) -> list[Row]:
    certificate, old, new = report.certificate, report.result.original, report.result.compressed
    figures = (
        ("Params", old.params, new.params, "{:,}"),
        ("Size", old.size_mb, new.size_mb, "{:.3f} MB"),
        ("MACs, for one sample", old.macs, new.macs, "{:,}"),
        ("Memory, for one sample", old.memory_mb, new.memory_mb, "{:.3f} MB"),
    )
    timed = report.latency
    return [
        Row(
            f"{text.one_line(certificate.metric)}, sealed half",
            text.points(certificate.original),
            text.points(certificate.compressed),
            f"drop {text.points(certificate.drop)}",
        ),
        *(Row(name, form.format(a), form.format(b), words.ratio(a, b)) for name, a, b, form in figures),
        Row(
            "Time, for one sample",
            f"{timed.original_ms:.3f} ms",
            f"{timed.compressed_ms:.3f} ms",
            text.times(timed.ratio),
        ),
    ]


def _snippets(report: Report) -> Sequence[Snippet]:
    files = {form: entry.file for form, entry in report.certificate.exports.items() if entry.file and not entry.error}
    return snippets(report.result.source, files)


def template(name: str) -> Template:
    """A template; what it is given is escaped, but for drawings."""
    environment = Environment(
        loader=PackageLoader("diminuendo.client.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "line": text.one_line,
        "points": text.points,
        "times": lambda value: "-" if value is None else text.times(value),
        "ratio": lambda pair: words.ratio(*pair),
    }
    return environment.get_template(name)
