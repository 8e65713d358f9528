"""`diminuendo report`: the page of a result, of a folder here or of a job on a server."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from diminuendo.client.cli import options
from diminuendo.client.errors import InvalidArgumentError
from diminuendo.client.report import write_report


@options.remote
def report(
    target: Annotated[
        str, typer.Argument(metavar="DIR|JOB", help="A result folder, or a job that succeeded.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="The page; default DIR/report.html, or JOB.html.", show_default=False
        ),
    ] = None,
    *,
    remote: options.Remote,
) -> None:
    """Write a result as one HTML page that opens offline; ends with the line `report: FILE`."""
    if Path(target).is_dir():
        written = write_report(Path(target), out)
    elif Path(target).exists() or ("/" in target and not target.startswith("projects/")):
        raise InvalidArgumentError.of("target", f"{target!r} is neither a result folder nor a job's name")
    else:
        with remote.connect() as client, tempfile.TemporaryDirectory(prefix="diminuendo-") as folder:
            job = client.job(target)
            written = write_report(job.download(Path(folder)), out or Path(f"{job.job_id}.html"))
    typer.echo(f"report: {written}")
