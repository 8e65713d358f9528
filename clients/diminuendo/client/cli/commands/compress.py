"""`diminuendo compress`: the whole job in this process, with the engine that is installed here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from diminuendo.client.cli import options
from diminuendo.client.cli.engine import engine, mistakes
from diminuendo.client.cli.out import result_folder
from diminuendo.client.cli.report import INTERRUPTED
from diminuendo.client.cli.target import bundle_folder, check_one, inside
from diminuendo.client.display import text
from diminuendo.client.display.folder import ResultFolder, read_result
from diminuendo.client.display.follow import open_display
from diminuendo.client.display.inline import InlineFeed
from diminuendo.client.display.page import page
from diminuendo.client.display.result import show_result
from diminuendo.client.display.view import View
from diminuendo.client.report import write_beside
from diminuendo.client.types import JobState, zoo_name

_ELSEWHERE = "use a server: diminuendo submit"


@options.wishing
def compress(
    wishes: options.Wishes,
    source: Annotated[
        str, typer.Argument(metavar="[SOURCE]", help="zoo:NAME, or zoo:NAME?classes=N", show_default=False)
    ] = "",
    bundle: options.Bundle = None,
    weights: options.Weights = None,
    data: options.Data = None,
    threads: options.Threads = 1,
    out: options.Out = None,
    work: options.Work = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Survey, try one candidate, say what it all costs.")
    ] = False,
) -> None:
    """Compress a network here, without a server; ends with the line `result: DIR`."""
    check_one(source, bundle)
    bundle = None if bundle is None else bundle_folder("bundle", str(bundle), weights=weights, data=data)
    request = wishes.arguments() | {"threads": threads}
    try:
        with mistakes(), inside(bundle):
            name, title, task = _bundle(Path.cwd()) if bundle else _zoo(source, weights, data)
            checked = engine("search.check", otherwise=_ELSEWHERE).request_of(_source(task), **request)
        if dry_run:
            with inside(bundle):
                found = _estimate(checked, task)
            _tell(found)
            return
        with result_folder(out, name) as folder:
            view = View(
                title,
                delta=request["delta"],
                target=text.figures(request["target"] or {}),
                budget=request["budget"] or {},
            )
            place, kept = folder.resolve(), None if work is None else work.resolve()
            with inside(bundle):
                _run(view, task, place, request | {"work": kept})
    except KeyboardInterrupt:
        typer.echo(
            f"stopped; the same command goes on from {work}" if work else "stopped; nothing was written", err=True
        )
        raise typer.Exit(INTERRUPTED) from None
    raise typer.Exit(_finish(read_result(folder)))


def _bundle(folder: Path) -> tuple[str, str, Any]:
    """Name, title and task of a bundle."""
    with Console(stderr=True).status("loading the task"):
        task = engine("bundle", otherwise=_ELSEWHERE).load(folder)
    return folder.name, task.name if task.name != "task" else folder.name, task


def _source(task: Any) -> str:
    return task if isinstance(task, str) else str(task.source)


def _zoo(source: str, weights: Path | None, data: Path | None) -> tuple[str, str, Any]:
    """Name, title and task of a network of the zoo."""
    name = zoo_name(source)
    known = engine("zoo.catalog", otherwise=_ELSEWHERE).Source.parse(name)
    return known.text, str(known), _task(known, weights, data)


def _task(source: Any, weights: Path | None, data: Path | None) -> Any:
    """What the engine is to compress: the source by its name, or a task of the user's weights and data."""
    if source.entry.bundled and weights is None and data is None:
        return str(source)
    with Console(stderr=True).status("loading weights and data"):
        return engine("zoo", otherwise=_ELSEWHERE).task(source.text, weights=weights, data=data)


def _estimate(request: Any, task: Any) -> Any:
    """What the job would cost."""
    with Console(stderr=True).status("loading the engine") as status, mistakes():
        made = engine("estimate", otherwise=_ELSEWHERE)
        own = None if isinstance(task, str) else task
        return made.estimate(request, task=own, on_work=lambda subject: status.update(f"measuring: {subject}"))


def _tell(found: Any) -> None:
    """Say what the job would cost."""
    minutes = f"{found.minutes:.1f} minutes" if found.minutes < 120 else f"{found.minutes / 60:.1f} hours"
    typer.echo(f"evaluations: at most {found.evaluations}, {found.beside_s:.2f} s each beside its epochs")
    typer.echo(f"epochs: at most {found.epochs:g}, {found.epoch_s:.2f} s each")
    typer.echo(
        f"time: at most about {minutes} on one evaluator like this machine, {found.survey_s:.0f} s of survey included"
    )


def _run(view: View, task: Any, folder: Path, request: Mapping[str, Any]) -> None:
    """Have the engine do it, and show how it goes."""
    display = open_display(Console(stderr=True), view)
    with display, mistakes():
        feed = InlineFeed(display)
        feed.state(JobState.RUNNING)
        display.say(note="loading the engine")
        compression = engine("compression", otherwise=_ELSEWHERE)
        told = {"on_step": feed.on_step, "on_done": feed.on_done, "on_start": feed.on_start}
        compression.compress(task, **request, out=folder, **told)
        feed.state(JobState.SUCCEEDED)


def _finish(result: ResultFolder) -> int:
    page(lambda console: show_result(console, result, warnings=False))
    write_beside(result.path)
    typer.echo(f"result: {result.path}")
    return options.SUCCEEDED if result.certificate.inside_delta else options.NOTHING_INSIDE
