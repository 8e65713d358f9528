"""Follows jobs on the command line and says how they ended."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Iterable, Iterator
from datetime import datetime

import typer
from rich.console import Console
from rich.table import Table

from diminuendo.client.cli.options import exit_code
from diminuendo.client.display.follow import follow
from diminuendo.client.display.listing import listed
from diminuendo.client.display.rows import JOB_COLUMNS, NUMBERS, job_fields, job_row, outcome
from diminuendo.client.job import Job
from diminuendo.client.types import JobInfo

INTERRUPTED = 130


def follow_to_end(job: Job, console: Console) -> int:
    """Show the job until it has ended; returns the exit code. Ctrl-C leaves the job running."""
    try:
        info = follow(job, console)
    except KeyboardInterrupt:
        typer.echo(f"the job goes on; follow it again with: diminuendo watch {job.name}", err=True)
        return INTERRUPTED
    typer.echo(outcome(info), err=True)
    if info.result is not None:
        typer.echo(f"fetch it with: diminuendo download {info.name}", err=True)
    return exit_code(info)


def as_json(job: JobInfo) -> str:
    """A job as indented JSON, with its fields' names as in `JobInfo`."""
    return json.dumps(dataclasses.asdict(job), indent=2, default=_plain)


def jobs_as_json(jobs: Iterable[JobInfo]) -> Iterator[str]:
    """Lines of an indented JSON array of jobs, each as it comes."""
    written = None
    for job in jobs:
        yield "[" if written is None else f"{written},"
        written = textwrap.indent(as_json(job), "  ")
    yield from ("[]",) if written is None else (written, "]")


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def jobs_as_lines(jobs: Iterable[JobInfo]) -> Iterator[str]:
    """Jobs, one in a line below a heading, as they come; on a terminal no wider than that."""
    console = Console()
    width = console.width if console.is_terminal else None
    return listed(JOB_COLUMNS, map(job_row, jobs), right=NUMBERS, width=width)


def job_table(job: JobInfo) -> Table:
    """One job, one field in a line; what is not there is left out."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in job_fields(job).items():
        table.add_row(name, value)
    return table
