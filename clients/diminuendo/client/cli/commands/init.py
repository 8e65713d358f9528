"""`diminuendo init`: a bundle to start from, which runs as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diminuendo.client.cli.engine import engine, mistakes


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder, or an empty one.", show_default=False)],
) -> None:
    """Write a commented example of a bundle, which runs as it is."""
    with mistakes():
        written = engine("starter").start(folder)
    for path in sorted(written):
        typer.echo(f"{path}")
    typer.echo(f"next: diminuendo check {folder}", err=True)
