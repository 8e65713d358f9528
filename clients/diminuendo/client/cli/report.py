"""Follows jobs on the command line and says how they ended."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from datetime import datetime

import typer
from rich.console import Console
from rich.table import Table

from diminuendo.client.cli.options import exit_code
from diminuendo.client.display.follow import follow
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


def as_json(value: JobInfo | Iterable[JobInfo]) -> str:
    """Jobs as indented JSON, with their fields' names as in `JobInfo`."""
    data = dataclasses.asdict(value) if isinstance(value, JobInfo) else [dataclasses.asdict(job) for job in value]
    return json.dumps(data, indent=2, default=_plain)


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def jobs_table(jobs: Iterable[JobInfo]) -> Table:
    """Jobs, one in a line."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for name in JOB_COLUMNS:
        table.add_column(name, justify="right" if name in NUMBERS else "left", no_wrap=True)
    for job in jobs:
        table.add_row(*job_row(job))
    return table


def job_table(job: JobInfo) -> Table:
    """One job, one field in a line; what is not there is left out."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in job_fields(job).items():
        table.add_row(name, value)
    return table
