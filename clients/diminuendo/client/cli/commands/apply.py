"""`diminuendo apply`: a plan that someone wrote or edited, put into a network, without a search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from diminuendo.client.cli import options
from diminuendo.client.cli.engine import engine, mistakes
from diminuendo.client.cli.out import result_folder
from diminuendo.client.cli.report import INTERRUPTED
from diminuendo.client.cli.target import bundle_folder, inside
from diminuendo.client.cli.words import names_of
from diminuendo.client.display.folder import read_result
from diminuendo.client.display.page import page
from diminuendo.client.display.result import show_result
from diminuendo.client.report import write_beside
from diminuendo.client.types import check_delta, check_seed, zoo_name


def apply(
    plan: Annotated[
        Path, typer.Argument(metavar="PLAN", help="A plan.json, or a folder that has one.", show_default=False)
    ],
    to: Annotated[str, typer.Option("--to", metavar="TARGET", help="zoo:NAME, or a bundle's folder.")],
    epochs: Annotated[int, typer.Option("--epochs", min=0, show_default=True, help="Epochs of fine-tuning.")] = 0,
    delta: options.Delta = "1.0",
    seed: options.Seed = 0,
    export: options.Export = None,
    weights: options.Weights = None,
    data: options.Data = None,
    threads: options.Threads = 1,
    out: options.Out = None,
) -> None:
    """Put a plan into a network and judge it, without a search; ends with the line `result: DIR`."""
    tolerance = check_delta(delta)
    check_seed(seed)
    try:
        with mistakes(), Console(stderr=True).status("loading the engine") as status:
            application = engine("application")
            wanted = application.read_plan_of(plan).plan()
            status.update("loading weights and data")
            bundle = bundle_folder("to", to, weights=weights, data=data)
            with inside(bundle):
                name, task = _zoo(to, weights, data) if bundle is None else _bundle(Path.cwd())
            with result_folder(out, name) as folder:
                place = folder.resolve()
                with inside(bundle):
                    application.apply(
                        wanted,
                        task,
                        delta=tolerance,
                        epochs=epochs,
                        seed=seed,
                        threads=threads,
                        out=place,
                        exports=names_of(export or ()),
                        on_work=status.update,
                    )
    except KeyboardInterrupt:
        typer.echo("stopped; nothing was written", err=True)
        raise typer.Exit(INTERRUPTED) from None
    result = read_result(folder)
    page(lambda console: show_result(console, result))
    write_beside(folder)
    typer.echo(f"result: {folder}")


def _bundle(folder: Path) -> tuple[str, Any]:
    """Name and task of a bundle."""
    task = engine("bundle").load(folder)
    return task.name, task


def _zoo(target: str, weights: Path | None, data: Path | None) -> tuple[str, Any]:
    """Name and task of a network of the zoo."""
    source = engine("zoo.catalog").Source.parse(zoo_name(target))
    return source.text, engine("zoo").task(source.text, weights=weights, data=data)
