"""`diminuendo profile`: what a network costs, by the engine that is installed here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from diminuendo.client.cli import options
from diminuendo.client.cli.engine import engine, mistakes
from diminuendo.client.cli.target import bundle_folder, inside
from diminuendo.client.display.page import page
from diminuendo.client.errors import InvalidArgumentError
from diminuendo.client.oneline import one_line
from diminuendo.client.types import zoo_name


def profile(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="zoo:NAME, or a bundle's folder", show_default=False)],
    weights: options.Weights = None,
    classes: Annotated[
        int | None, typer.Option("--classes", metavar="N", help="Classes of a zoo network.", show_default=False)
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Show the table layer by layer.")] = False,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="CPU threads; default: all.", show_default=False)
    ] = None,
    time: Annotated[bool, typer.Option("--time/--no-time", help="Whether to measure the time.")] = True,
    output: options.Output = "table",
) -> None:
    """Show what a network costs: params, size, MACs, memory and time; needs no server, and no weights."""
    with mistakes():
        name, model, example = _opened(target, weights, classes)
        measured = engine("profile")
        figures = measured.profile(model, example, time=time, threads=threads)
        machine = measured.machine(model, example, threads=threads)
    if output == "json":
        typer.echo(json.dumps(_as_json(figures, machine), indent=2))
        return
    page(lambda console: _show(console, name, figures, machine, layers=layers))


def _opened(target: str, weights: Path | None, classes: int | None) -> tuple[str, Any, Any]:
    """Name, network and example inputs of a target."""
    folder = bundle_folder("target", target, weights=weights, classes=classes)
    if folder is not None:
        with inside(folder):
            task = engine("bundle").load(Path.cwd())
            model = engine("modules").with_forward(task.model, task.forward)
            return task.name, model, engine("gather").example(task.evaluation)
    name = zoo_name(target)
    if classes is not None:
        if "?" in name:
            raise InvalidArgumentError.of("classes", f"{classes} is given twice: leave out --classes or {target!r}'s")
        name = f"{name}?classes={classes}"
    source = engine("zoo.catalog").Source.parse(name)
    zoo = engine("zoo")
    model = zoo.network(source.text)
    if weights is not None:
        engine("zoo.state").load_weights(model, weights, source)
    return str(source), model, zoo.example(source.text)


def _as_json(figures: Any, machine: str) -> dict[str, object]:
    return {
        "params": figures.params,
        "size_mb": figures.size_mb,
        "macs": figures.macs,
        "memory_mb": figures.memory_mb,
        "time_ms": figures.time_ms,
        "layers": [
            {"name": layer.name, "kind": layer.kind, "params": layer.params, "macs": layer.macs}
            for layer in figures.layers
        ],
        "uncounted": list(figures.uncounted),
        "machine": machine,
    }


def _show(console: Console, name: str, figures: Any, machine: str, *, layers: bool) -> None:
    """The figures, one in a line; the layers below when they are wanted."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("network", Text(one_line(name)), "")
    table.add_row("params", f"{figures.params:,}", f"{figures.params / 1e6:.4f} M")
    table.add_row("size", f"{figures.size_mb:.4f} MB", "")
    table.add_row("MACs", f"{figures.macs:,}", f"{figures.macs / 1e9:.4f} G, for one sample")
    table.add_row("memory", f"{figures.memory_mb:.4f} MB", "at batch 1")
    if figures.time_ms is not None:
        table.add_row("time", f"{figures.time_ms:.3f} ms", Text(machine))
    if figures.uncounted:
        table.add_row("not counted", "", Text(", ".join(figures.uncounted)))
    console.print(table)
    if layers:
        console.print()
        console.print(_layers(figures))


def _layers(figures: Any) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for column in ("layer", "kind", "output"):
        table.add_column(column, no_wrap=True, overflow="ellipsis")
    for column in ("params", "MACs", "of all MACs"):
        table.add_column(column, justify="right", no_wrap=True)
    for layer in figures.layers:
        shape = "x".join(str(size) for size in layer.output_shape[1:])
        share = layer.macs / figures.macs if figures.macs else 0.0
        table.add_row(Text(layer.name), layer.kind, shape, f"{layer.params:,}", f"{layer.macs:,}", f"{share:.1%}")
    table.add_row("total", "", "", f"{figures.params:,}", f"{figures.macs:,}", "", style="bold")
    return table
