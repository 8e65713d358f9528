"""`diminuendo compare`: results side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from diminuendo.client.cli import options
from diminuendo.client.display.page import page
from diminuendo.client.errors import InvalidArgumentError
from diminuendo.client.report import render_comparison, save
from diminuendo.client.report.compared import Comparison, as_json
from diminuendo.client.report.compared import compare as compared
from diminuendo.client.report.reading import read


def compare(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR DIR...", help="Two or more result folders.", show_default=False)
    ],
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write an HTML page, too.", show_default=False)
    ] = None,
    output: options.Output = "table",
) -> None:
    """Show results side by side: metric, drop, ratios, time, size, and the layers that differ."""
    if len(folders) < 2:
        raise InvalidArgumentError.of("folders", f"only {folders[0]} is given; give two result folders or more")
    for folder in folders:
        if not folder.is_dir():
            raise InvalidArgumentError.of("folders", f"{folder} is no folder; give result folders")
    reports = [read(folder) for folder in folders]
    if html is not None:
        save(render_comparison(reports), html)
    if output == "json":
        typer.echo(json.dumps(as_json(reports), indent=2))
    else:
        page(lambda console: _show(console, compared(reports)))
    if html is not None:
        typer.echo(f"report: {html}", err=output == "json")


def _show(console: Console, comparison: Comparison) -> None:
    """The figures, then the layers that differ."""
    console.print(_table("", comparison.names, comparison.rows, justify="right"))
    console.print()
    if comparison.layers:
        console.print(_table("layer", comparison.names, tuple(comparison.layers.items()), justify="left"))
        console.print(Text(f"{comparison.same} other layers are alike", style="dim"))
    else:
        console.print(Text(f"all {comparison.same} layers have the same form", style="dim"))
    for note in comparison.notes:
        console.print(Text(f"note: {note}", style="yellow"))


def _table(first: str, names: tuple[str, ...], rows: tuple[tuple[str, tuple[str, ...]], ...], *, justify: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column(first, no_wrap=True, overflow="ellipsis")
    for name in names:
        table.add_column(Text(name), justify="left" if justify == "left" else "right", no_wrap=True)
    for name, values in rows:
        table.add_row(Text(name), *(Text(value) for value in values))
    return table
