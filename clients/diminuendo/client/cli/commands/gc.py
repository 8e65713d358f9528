"""`diminuendo gc`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from diminuendo.client.cli import options


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed now.")] = False,
    output: options.Output = "table",
    server: options.Server = None,
    context: options.Context = None,
) -> None:
    """Remove what no job has referred to for as long as the server keeps it, a week unless it is set otherwise.

    Servers do this by themselves every now and then.
    """
    with options.connect(server, context=context) as client:
        found = client.collect_garbage(dry_run=dry_run)
    if output == "json":
        typer.echo(json.dumps(asdict(found)))
        return
    done = "would be removed" if dry_run else "removed"
    typer.echo(f"{done}: {_amount(found.removed_artifacts, found.removed_bytes)}, {found.removed_evaluations} outcomes")
    typer.echo(f"waiting: {_amount(found.waiting_artifacts, found.waiting_bytes)}")
    typer.echo(f"kept: {_amount(found.kept_artifacts, found.kept_bytes)}")


def _amount(artifacts: int, size: int) -> str:
    return f"{artifacts} artifacts of {size / 2**20:.1f} MiB"
