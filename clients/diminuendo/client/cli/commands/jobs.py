"""`diminuendo watch | get | list | cancel | download`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

import typer
from rich.console import Console

from diminuendo.client.cli import options, report
from diminuendo.client.display.page import page
from diminuendo.client.types import JobState, check_choice

State = Literal["queued", "running", "cancelling", "cancelled", "succeeded", "failed"]
_STATES = get_args(State)


def watch(name: options.Name, server: options.Server = options.SERVER, project: options.Project = "default") -> None:
    """Follow a job until it has ended: exits 0 inside delta, 3 with nothing inside, 1 failed or cancelled."""
    with options.connect(server, project) as client:
        raise typer.Exit(report.follow_to_end(client.job(name), Console()))


def get(
    name: options.Name,
    output: options.Output = "table",
    server: options.Server = options.SERVER,
    project: options.Project = "default",
) -> None:
    """Show a job."""
    with options.connect(server, project) as client:
        job = client.get(name)
    if output == "json":
        typer.echo(report.as_json(job))
    else:
        page(lambda console: console.print(report.job_table(job)))


def list_jobs(
    state: Annotated[
        list[str] | None,
        typer.Option("--state", metavar=f"<{'|'.join(_STATES)}>", help="Only jobs in this state; repeatable."),
    ] = None,
    output: options.Output = "table",
    server: options.Server = options.SERVER,
    project: Annotated[str, typer.Option("--project", show_default=True, help="Project; - for all.")] = "default",
) -> None:
    """List jobs, newest first."""
    states = [JobState(check_choice("state", word.lower(), State).upper()) for word in state or ()]
    with options.connect(server, project) as client:
        jobs = list(client.list(states=states))
    if output == "json":
        typer.echo(report.as_json(jobs))
    else:
        page(lambda console: console.print(report.jobs_table(jobs)))


def cancel(name: options.Name, server: options.Server = options.SERVER, project: options.Project = "default") -> None:
    """Ask for a job's end; prints its name and state."""
    with options.connect(server, project) as client:
        job = client.cancel(name)
    typer.echo(f"{job.name} {job.state.value}")


def download(
    name: options.Name,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder; default ./results/JOB.", show_default=False)
    ] = None,
    server: options.Server = options.SERVER,
    project: options.Project = "default",
) -> None:
    """Fetch a job's result and show it; ends with the line `result: DIR`."""
    from diminuendo.client.display.folder import read_result
    from diminuendo.client.display.result import show_result

    with options.connect(server, project) as client:
        job = client.job(name)
        folder = job.download(out if out is not None else Path("results") / job.job_id)
    page(lambda console: show_result(console, read_result(folder)))
    typer.echo(f"result: {folder}")
