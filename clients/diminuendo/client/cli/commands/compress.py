"""`diminuendo compress`: the whole job in this process, with the engine that is installed here."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from diminuendo.client.cli import options
from diminuendo.client.cli.report import INTERRUPTED
from diminuendo.client.display.folder import ResultFolder, read_result
from diminuendo.client.display.follow import open_display
from diminuendo.client.display.inline import InlineFeed
from diminuendo.client.display.page import page
from diminuendo.client.display.result import show_result
from diminuendo.client.display.view import View
from diminuendo.client.errors import DiminuendoError, FolderNotEmptyError, InvalidArgumentError, NotFoundError
from diminuendo.client.types import JobState, check_delta, check_seed, zoo_name


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
    check_seed(seed)
    with _mistakes():
        _engine("zoo.catalog").find(name)
    request = {"effort": effort, "accept": accept, "seed": seed, "threads": threads}
    try:
        with _result_folder(out, name) as folder:
            _run(source, tolerance, folder, request)
    except KeyboardInterrupt:
        typer.echo("stopped; nothing was written", err=True)
        raise typer.Exit(INTERRUPTED) from None
    raise typer.Exit(_finish(read_result(folder)))


def _run(source: str, delta: float, folder: Path, request: Mapping[str, str | int]) -> None:
    """Have the engine do it, and show how it goes."""
    display = open_display(Console(stderr=True), View(source, delta=delta))
    with display, _mistakes():
        feed = InlineFeed(display)
        feed.state(JobState.RUNNING)
        display.say(note="loading the engine")
        engine = _engine("compression")
        engine.compress(source, delta, **request, out=folder, on_step=feed.on_step, on_done=feed.on_done)
        feed.state(JobState.SUCCEEDED)


def _finish(result: ResultFolder) -> int:
    page(lambda console: show_result(console, result))
    typer.echo(f"result: {result.path}")
    return options.SUCCEEDED if result.certificate.inside_delta else options.NOTHING_INSIDE


def _engine(module: str) -> Any:
    """A module of the engine, which the client may not import statically; DiminuendoError when it is not here."""
    try:
        return importlib.import_module(f"diminuendo.engine.{module}")
    except ImportError as error:
        raise DiminuendoError(
            f"the engine is not installed ({error}); pip install 'diminuendo[engine]',"
            " or use a server: diminuendo submit"
        ) from error


@contextlib.contextmanager
def _mistakes() -> Iterator[None]:
    """The engine's errors that are a user's mistakes, as the client's own."""
    unknown = _engine("zoo.catalog").UnknownNetworkError
    try:
        yield
    except unknown as error:
        raise NotFoundError(f"source: {error}") from error
    except ValueError as error:
        task = sys.modules.get("diminuendo.engine.task")
        if task is None or not isinstance(error, task.TaskError):
            raise
        raise InvalidArgumentError(str(error)) from error


@contextlib.contextmanager
def _result_folder(out: Path | None, name: str) -> Iterator[Path]:
    """An empty folder, made now so that a run does not fail at its end; removed again when nothing came."""
    if out is None:
        out = _free(Path("results") / name)
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FolderNotEmptyError(f"out: {out} is not an empty folder; give another one, or empty it")
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield out
    except BaseException:
        with contextlib.suppress(OSError):  # not empty: a result cut short is left to look at
            for folder in made:
                folder.rmdir()
        raise


def _free(base: Path) -> Path:
    """`base`, or the first of base-2, base-3, ... that is not there."""
    numbered = (base.with_name(f"{base.name}-{number}") for number in itertools.count(2))
    return next(folder for folder in itertools.chain([base], numbered) if not folder.exists())
