"""`diminuendo watch | get | list | cancel | pause | resume | retry | update | delete | download`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

import typer
from rich.console import Console

from diminuendo.client.cli import options, report
from diminuendo.client.display.page import page
from diminuendo.client.errors import InvalidArgumentError
from diminuendo.client.types import JobState, check_choice

State = Literal["queued", "running", "pausing", "paused", "cancelling", "cancelled", "succeeded", "failed"]
_STATES = get_args(State)


@options.remote
def watch(name: options.Name, remote: options.Remote) -> None:
    """Follow a job until it has ended: exits 0 inside delta, 3 with nothing inside, 1 failed or cancelled."""
    with remote.connect() as client:
        raise typer.Exit(report.follow_to_end(client.job(name), Console()))


@options.remote
def get(
    name: options.Name,
    output: options.Output = "table",
    *,
    remote: options.Remote,
) -> None:
    """Show a job."""
    with remote.connect() as client:
        job = client.get(name)
    if output == "json":
        typer.echo(report.as_json(job))
    else:
        page(lambda console: console.print(report.job_table(job)))


@options.remote
def list_jobs(
    state: Annotated[
        list[str] | None,
        typer.Option("--state", metavar=f"<{'|'.join(_STATES)}>", help="Only jobs in this state; repeatable."),
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="Only jobs that have it; repeatable.")
    ] = None,
    order_by: Annotated[
        str,
        typer.Option(
            "--order-by",
            metavar="FIELD",
            help="create_time, update_time or priority; 'FIELD desc' begins with the highest.",
        ),
    ] = "create_time desc",
    output: options.Output = "table",
    *,
    remote: options.Remote,
) -> None:
    """List jobs, newest first or in another order."""
    states = [JobState(check_choice("state", word.lower(), State).upper()) for word in state or ()]
    with remote.connect() as client:
        jobs = client.list(states=states, labels=options.labels_of(label or []), order_by=order_by)
        for line in report.jobs_as_json(jobs) if output == "json" else report.jobs_as_lines(jobs):
            typer.echo(line)


@options.remote
def cancel(name: options.Name, remote: options.Remote) -> None:
    """Ask for a job's end; prints its name and state."""
    with remote.connect() as client:
        job = client.cancel(name)
    typer.echo(f"{job.name} {job.state.value}")


@options.remote
def pause(name: options.Name, remote: options.Remote) -> None:
    """Have nobody work on a job for a while; what was evaluated is kept. Prints its name and state."""
    with remote.connect() as client:
        job = client.pause(name)
    typer.echo(f"{job.name} {job.state.value}")


@options.remote
def resume(name: options.Name, remote: options.Remote) -> None:
    """Go on with a paused job from its last step; prints its name and state."""
    with remote.connect() as client:
        job = client.resume(name)
    typer.echo(f"{job.name} {job.state.value}")


@options.remote
def retry(
    name: options.Name,
    job_id: Annotated[str | None, typer.Option("--job-id", help="Id of the new job; the server chooses one.")] = None,
    *,
    remote: options.Remote,
) -> None:
    """Try a job again that failed or was cancelled, as a new job that remembers every evaluation; prints its name."""
    with remote.connect() as client:
        typer.echo(client.retry(name, job_id=job_id).name)


@options.remote
def update(
    name: options.Name,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="KEY=VALUE", help="Set this label; the others stay. Repeatable."),
    ] = None,
    remove_label: Annotated[
        list[str] | None, typer.Option("--remove-label", metavar="KEY", help="Remove this label. Repeatable.")
    ] = None,
    priority: Annotated[
        int | None, typer.Option("--priority", help="Higher ones run first, -1000 to 1000.", show_default=False)
    ] = None,
    deadline: options.Deadline = None,
    no_deadline: Annotated[bool, typer.Option("--no-deadline", help="Take the deadline away.")] = False,
    *,
    remote: options.Remote,
) -> None:
    """Set a job's labels, priority or deadline; prints its name and state.

    Fails when somebody else changes the job meanwhile.
    """
    end = options.moment(deadline)
    wanted, unwanted = options.labels_of(label or []), remove_label or []
    with remote.connect() as client:
        job = client.job(name)
        if not wanted and not unwanted:
            info = job.update(priority=priority, deadline=end, no_deadline=no_deadline)
        else:
            before = job.info()
            for key in unwanted:
                if key not in before.labels:
                    raise InvalidArgumentError.of("remove-label", f"{key!r} is no label of {before.name}")
            labels = {k: v for k, v in before.labels.items() if k not in unwanted} | wanted
            info = job.update(labels=labels, priority=priority, deadline=end, no_deadline=no_deadline, etag=before.etag)
    typer.echo(f"{info.name} {info.state.value}")


@options.remote
def delete(name: options.Name, remote: options.Remote) -> None:
    """Forget a job that has ended, with its log; downloaded results stay. Prints its name."""
    with remote.connect() as client:
        job = client.job(name)
        job.delete()
    typer.echo(f"{job.name} deleted")


@options.remote
def download(
    name: options.Name,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder; default ./results/JOB.", show_default=False)
    ] = None,
    *,
    remote: options.Remote,
) -> None:
    """Fetch a job's result and show it; ends with the line `result: DIR`."""
    from diminuendo.client.display.folder import read_result
    from diminuendo.client.display.result import show_result
    from diminuendo.client.report import write_beside

    with remote.connect() as client:
        job = client.job(name)
        folder = job.download(out if out is not None else Path("results") / job.job_id)
    page(lambda console: show_result(console, read_result(folder)))
    write_beside(folder)
    typer.echo(f"result: {folder}")
