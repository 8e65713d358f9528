"""`diminuendo compress`: the whole job in this process, with the engine that is installed here."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from diminuendo.client.cli import options
from diminuendo.client.display.folder import ResultFolder, read_result
from diminuendo.client.display.follow import open_display
from diminuendo.client.display.inline import InlineFeed
from diminuendo.client.display.result import show_result
from diminuendo.client.display.view import View
from diminuendo.client.errors import DiminuendoError, FolderNotEmptyError, InvalidArgumentError
from diminuendo.client.types import JobState, check_delta, zoo_name


def compress(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="zoo:NAME", show_default=False)],
    delta: options.Delta = "1.0",
    effort: options.Effort = "normal",
    accept: options.Accept = "estimate",
    seed: options.Seed = 0,
    threads: Annotated[int, typer.Option("--threads", min=1, show_default=True, help="CPU threads.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Empty folder; default ./results/NAME.", show_default=False),
    ] = None,
) -> None:
    """Compress a network here, without a server; ends with the line `result: DIR`."""
    tolerance, name = check_delta(delta), zoo_name(source)
    folder = _folder(out, name)
    console = Console(stderr=True)
    with open_display(console, View(source, delta=tolerance, note="loading the engine")) as display:
        feed = InlineFeed(display)
        feed.state(JobState.RUNNING)
        run, mistakes = _engine()
        try:
            run(
                source,
                tolerance,
                effort=effort,
                accept=accept,
                seed=seed,
                threads=threads,
                out=folder,
                on_step=feed.on_step,
                on_done=feed.on_done,
            )
        except mistakes as error:
            raise InvalidArgumentError(str(error)) from error
        feed.state(JobState.SUCCEEDED)
    raise typer.Exit(_finish(read_result(folder)))


def _finish(result: ResultFolder) -> int:
    console = Console()
    show_result(console if console.is_terminal else Console(width=200), result)
    typer.echo(f"result: {result.path}")
    return options.SUCCEEDED if result.certificate.inside_delta else options.NOTHING_INSIDE


def _engine() -> tuple[Callable[..., Any], tuple[type[Exception], ...]]:
    """The engine's `compress`, and its errors that are a user's mistakes. The client may not import it statically."""
    try:
        run = importlib.import_module("diminuendo.engine").compress
        mistakes = (
            importlib.import_module("diminuendo.engine.task").TaskError,
            importlib.import_module("diminuendo.engine.zoo.catalog").UnknownNetworkError,
        )
    except ImportError as error:
        raise DiminuendoError(
            f"the engine is not installed ({error}); pip install 'diminuendo[engine]',"
            " or use a server: diminuendo submit"
        ) from error
    return run, mistakes


def _folder(out: Path | None, name: str) -> Path:
    """Where the result goes: the folder asked for, which must be empty, or a free one under ./results."""
    if out is not None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise FolderNotEmptyError(f"{out} is not an empty folder; give another one to --out, or empty it")
        return out
    base = Path("results") / name
    folder, number = base, 1
    while folder.exists() and any(folder.iterdir()):
        number += 1
        folder = base.with_name(f"{name}-{number}")
    return folder
