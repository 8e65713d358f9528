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
from diminuendo.client.display import text
from diminuendo.client.display.follow import follow
from diminuendo.client.job import Job
from diminuendo.client.types import JobInfo, JobState

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


def outcome(info: JobInfo) -> str:
    """How the job ended, in one line."""
    if info.state is JobState.SUCCEEDED and info.result is not None:
        result = info.result
        figures = f"{text.times(result.params_ratio)} fewer params, {text.times(result.macs_ratio)} fewer MACs"
        if info.objective not in ("params", "macs"):
            figures += f", {text.times(result.objective_ratio)} less {info.objective}"
        allowed = "" if info.delta is None else f" of {info.delta:g}"
        wanted = text.figures(info.target) or "delta"
        verdict = f"inside {wanted}" if result.inside_delta else f"nothing inside {wanted}; the nearest"
        return f"{verdict}: {figures}, drop {text.points(result.drop)}{allowed}"
    if info.state is JobState.FAILED and info.failure is not None:
        return f"{info.name} failed ({info.failure.reason}): {text.one_line(info.failure.message)}"
    return f"{info.name} is {info.state.value}"


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
    for name in ("job", "source", "state", "stage"):
        table.add_column(name, no_wrap=True)
    for name in ("delta", "params", "drop"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("created", no_wrap=True)
    for job in jobs:
        stage = job.progress.stage.value if job.progress and not job.state.final else ""
        figures = job.result or (job.progress.best if job.progress else None)
        table.add_row(
            job.job_id,
            text.source(job.source),
            job.state.value,
            stage,
            f"{job.delta:g}" if job.delta is not None else text.figures(job.target),
            text.times(figures.params_ratio) if figures else "",
            text.points(figures.drop) if figures else "",
            text.local_time(job.create_time),
        )
    return table


def job_table(job: JobInfo) -> Table:
    """One job, one field in a line; what is not there is left out."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    progress, result, failure = job.progress, job.result, job.failure
    target = text.figures(job.target)
    rows = {
        "name": job.name,
        "source": job.source,
        "state": job.state.value,
        "delta": "" if job.delta is None else f"{job.delta:g} points, {job.accept}",
        "target": target,
        "objective": "" if job.target else job.objective,
        "limits": text.figures(job.limits),
        "formats": ", ".join(job.formats),
        "freeze": ", ".join(job.freeze),
        "max ratio": ", ".join(f"{pattern} {most:g}x" for pattern, most in job.max_ratio.items()),
        "multiple": str(job.multiple) if job.multiple != 1 else "",
        "effort": f"{job.effort}, stage {job.stage}, seed {job.seed}",
        "budget": ", ".join(f"{most:g} {kind}" for kind, most in job.budget.items()),
        "parallel": "" if job.parallel is None else f"{job.parallel} evaluations at a time",
        "labels": ", ".join(f"{key}={value}" for key, value in sorted(job.labels.items())),
        "priority": str(job.priority) if job.priority else "",
        "retry of": job.retry_of,
        "exports": ", ".join(job.exports),
        "deadline": text.local_time(job.deadline),
        "created": text.local_time(job.create_time),
        "started": text.local_time(job.start_time),
        "ended": text.local_time(job.end_time),
        "progress": f"{progress.stage.value}, {progress.works_done} of {progress.works_expected} works"
        if progress
        else "",
        "best": text.best_line(progress.best, job.delta, text.figures(job.target))
        if progress and not job.state.final
        else "",
        "result": outcome(job) if result else "",
        "failure": f"{failure.reason}: {failure.message}" if failure else "",
        "traceback": failure.traceback if failure else "",
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    return table
