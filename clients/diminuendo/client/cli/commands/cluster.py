"""`diminuendo cluster status`: what computes, and what each evaluator does."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console, RenderableType
from rich.live import Live

from diminuendo.client.cli import options
from diminuendo.client.client import Client
from diminuendo.client.cluster import Cluster
from diminuendo.client.display.cluster import cluster_view
from diminuendo.client.display.page import page

EVERY_S = 2.0

cluster = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Show what computes for a server.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@cluster.callback()
def _several() -> None:
    """Show what computes for a server."""


@cluster.command("status")
@options.remote
def status(
    output: options.Output = "table",
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again every 2 s, until Ctrl-C; as JSON one line each time.")
    ] = False,
    *,
    remote: options.Remote,
) -> None:
    """Show coordinators, their nodes, and what each evaluator does."""
    with remote.connect() as client:
        if output == "json":
            _show(client, lambda found: typer.echo(as_json(found, indent=None if watch else 2)), watch=watch)
        elif watch and _can_redraw():
            with Live(auto_refresh=False, vertical_overflow="ellipsis") as live:
                _show(client, lambda found: live.update(_drawn(found), refresh=True), watch=True)
        else:
            _show(client, lambda found: page(lambda console: console.print(_drawn(found))), watch=watch)


def as_json(found: Cluster, *, indent: int | None = None) -> str:
    """The cluster as JSON, with its fields' names as in `Cluster`; times in ISO 8601."""
    return json.dumps(dataclasses.asdict(found), indent=indent, default=datetime.isoformat)


def _show(client: Client, show: Callable[[Cluster], object], *, watch: bool) -> None:
    show(client.cluster())
    while watch:
        time.sleep(EVERY_S)
        show(client.cluster())


def _drawn(found: Cluster) -> RenderableType:
    return cluster_view(found, datetime.now(UTC))


def _can_redraw() -> bool:
    console = Console()
    return console.is_terminal and not console.is_dumb_terminal
