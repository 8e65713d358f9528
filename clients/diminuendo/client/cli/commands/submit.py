"""`diminuendo submit`."""

from __future__ import annotations

from typing import Annotated

import typer

from diminuendo.client.cli import options
from diminuendo.client.cli.target import check_one


@options.remote
@options.wishing
def submit(
    wishes: options.Wishes,
    source: Annotated[
        str, typer.Argument(metavar="[SOURCE]", help="zoo:NAME, or bundle:SHA256 of a stored one.", show_default=False)
    ] = "",
    bundle: options.Bundle = None,
    job_id: Annotated[str | None, typer.Option("--job-id", help="Id of the job; the server chooses one.")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="Repeatable.")] = None,
    priority: Annotated[int, typer.Option("--priority", help="Higher ones run first, -1000 to 1000.")] = 0,
    parallel: Annotated[
        int | None,
        typer.Option("--parallel", help="Most evaluations at a time.", show_default="as many as there are evaluators"),
    ] = None,
    deadline: options.Deadline = None,
    request_id: Annotated[
        str | None, typer.Option("--request-id", help="The same one again gives the same job.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow it: exits 0 when delta or target is kept, 3 when not, 1 failed.")
    ] = False,
    *,
    remote: options.Remote,
) -> None:
    """Submit a network to a server; prints the job's name."""
    asked = wishes.arguments()
    check_one(source, bundle)
    with remote.connect() as client:
        job = client.submit(
            source,
            bundle=bundle,
            **asked,
            job_id=job_id,
            labels=options.labels_of(label or []),
            priority=priority,
            parallel=parallel,
            deadline=options.moment(deadline),
            request_id=request_id,
        )
        typer.echo(job.name)
        if watch:
            from rich.console import Console

            from diminuendo.client.cli.report import follow_to_end

            raise typer.Exit(follow_to_end(job, Console(stderr=True)))
