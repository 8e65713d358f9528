"""What notebooks show of jobs and results: HTML tables, without scripts, of text that was made safe.

Imports neither gRPC nor IPython: a notebook asks objects for their `_repr_html_`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from diminuendo.client.display.rows import JOB_COLUMNS, NUMBERS, RESULT_COLUMNS, job_fields, job_row, result_rows
from diminuendo.client.types import JobInfo, Result

_LEFT, _RIGHT = "text-align: left", "text-align: right"


class JobList(tuple[JobInfo, ...]):
    """Jobs that a notebook shows as one table.

    >>> JobList(client.list(labels={"team": "vision"}))         # doctest: +SKIP
    >>> JobList([job async for job in aclient.list()])          # doctest: +SKIP
    """

    __slots__ = ()

    def _repr_html_(self) -> str:
        """The table, one job a line."""
        return jobs_html(self)


def jobs_html(jobs: Iterable[JobInfo]) -> str:
    """A table of jobs, one a line."""
    aligned = [_RIGHT if name in NUMBERS else _LEFT for name in JOB_COLUMNS]
    return _table(JOB_COLUMNS, map(job_row, jobs), aligned)


def job_html(job: JobInfo) -> str:
    """A table of one job, one field a line, and below it that of its result."""
    rows = (
        f'<tr><th scope="row" style="{_LEFT}">{escape(name)}</th><td style="{_LEFT}">{_lines(value)}</td></tr>'
        for name, value in job_fields(job).items()
    )
    table = f"<table><tbody>{''.join(rows)}</tbody></table>"
    return table if job.result is None else table + result_html(job.result)


def result_html(result: Result) -> str:
    """A table of a result: original, compressed and ratio of every figure, and whether it is what was asked for."""
    kept = "inside what was asked for" if result.inside_delta else "NOT inside what was asked for; the nearest"
    return _table(RESULT_COLUMNS, result_rows(result), (_LEFT, _RIGHT, _RIGHT, _RIGHT), caption=kept)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], aligned: Sequence[str], *, caption: str = "") -> str:
    """A table whose first column names its lines."""
    head = "".join(
        f'<th scope="col" style="{style}">{escape(name)}</th>' for name, style in zip(heads, aligned, strict=True)
    )
    lines = []
    for row in rows:
        name, *cells = (escape(cell) for cell in row)
        named = f'<th scope="row" style="{aligned[0]}">{name}</th>'
        numbers = (f'<td style="{style}">{cell}</td>' for cell, style in zip(cells, aligned[1:], strict=True))
        lines.append(f"<tr>{named}{''.join(numbers)}</tr>")
    said = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{said}<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _lines(value: str) -> str:
    """A field's text; one of several lines, such as a traceback, as it is."""
    return f"<pre>{escape(value)}</pre>" if "\n" in value else escape(value)
