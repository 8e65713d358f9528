"""`diminuendo check`: whether a bundle can be worked on, and what a job on it would do, in a few seconds."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from diminuendo.client import requirements
from diminuendo.client.bundle import Packed, pack
from diminuendo.client.cli import options
from diminuendo.client.cli.engine import engine, mistakes
from diminuendo.client.cli.main import MISTAKE
from diminuendo.client.cli.outside import Outside
from diminuendo.client.cli.target import inside
from diminuendo.client.display.page import page
from diminuendo.client.oneline import one_line


@options.wishing
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A bundle's folder.", show_default=False)],
    wishes: options.Wishes,
    threads: options.Threads = 1,
    output: options.Output = "table",
) -> None:
    """Run a bundle here for a few seconds; says what is wrong with it, or what a job on it would do."""
    wanted = wishes.arguments() | {"threads": threads}
    console, folder = Console(stderr=True), folder.resolve()
    with console.status("packing") as status, _unpacked(folder) as (copy, packed):
        with mistakes():
            request = engine("search.check").request_of(f"bundle:{packed.sha256}", **wanted)
        status.update("looking at requirements.txt")
        installable = requirements.check(folder)
        loading, checkup = engine("bundle"), engine("checkup")
        with mistakes(), _owners_errors(copy, folder, packed), Outside(copy) as outside:
            status.update("loading the task")
            task = loading.load(copy, source=request.source)
            found = checkup.examine(task, request, on_work=status.update)
    if output == "json":
        typer.echo(json.dumps(_as_json(found, packed, installable, outside.files), indent=2))
        return
    page(lambda console: _show(console, found, packed, installable, outside.files))
    typer.echo(f"submit it with: diminuendo submit --bundle {folder} --delta {wanted['delta'] or 1:g}", err=True)


@contextlib.contextmanager
def _unpacked(folder: Path) -> Iterator[tuple[Path, Packed]]:
    """What evaluators would have: a copy of what is packed, as working folder. Its output goes to stderr."""
    with tempfile.TemporaryDirectory(prefix="diminuendo-check-") as scratch:
        archive = Path(scratch) / "bundle.tar"
        packed = pack(folder, archive)
        copy = Path(scratch).resolve() / "bundle"
        with mistakes():
            engine("bundle.archive").unpack(archive, copy)
        with inside(copy):
            yield copy, packed


@contextlib.contextmanager
def _owners_errors(copy: Path, folder: Path, packed: Packed) -> Iterator[None]:
    """Say what the bundle's code raised, with its lines, as of the folder itself."""
    try:
        yield
    except Exception as error:
        message = str(error).replace(str(copy), str(folder))
        trace = getattr(error, "traceback_text", "").replace(str(copy), str(folder))
        if type(error).__name__ != "UserCodeError":
            if message == str(error):
                raise
            raise type(error)(message) from error
        typer.echo(_own_lines(trace, folder), err=True, nl=False)
        typer.echo(f"error: {one_line(message)}{_remedy(error, packed)}", err=True)
        raise typer.Exit(MISTAKE) from error


def _own_lines(trace: str, folder: Path) -> str:
    """Of a traceback the owner's own frames, the last one last."""
    lines = trace.splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith(f'  File "{folder}')]
    shown = [line for i in starts for line in (lines[i], *lines[i + 1 : i + 2])]
    return "\n".join(shown) + "\n" if shown else ""


def _remedy(error: Exception, packed: Packed) -> str:
    """What to do about what only the packed bundle lacks."""
    cause = error.__cause__
    for name in packed.ignored:
        if f"/{name}" in str(cause) or f"'{name}" in str(cause):
            return (
                f". {name} is in the folder, but .gitignore leaves it out of the bundle: add the line !{name}, or name "
                "its place by an absolute path or URI that the evaluators see too"
            )
    if isinstance(cause, ModuleNotFoundError):
        return f". Install {cause.name} here, and name it in requirements.txt for the evaluators"
    return ""


def _as_json(found: Any, packed: Packed, installable: str, outside: Sequence[str]) -> dict[str, object]:
    return {
        "bundle": dataclasses.asdict(packed),
        "requirements": installable,
        "reads_outside": list(outside),
        **dataclasses.asdict(found),
    }


def _show(console: Console, found: Any, packed: Packed, installable: str, outside: Sequence[str]) -> None:
    """What was found, one fact in a line."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    direction = "higher" if found.higher_is_better else "lower"
    files = f"{len(packed.files)} files, {packed.size_bytes / 2**20:.2f} MB, sha256 {packed.sha256[:12]}"
    rows = {
        "task": one_line(found.name),
        "bundle": files + (f"; left out by .gitignore: {_few(packed.ignored)}" if packed.ignored else ""),
        "requirements": installable,
        "reads": f"{_few(outside)}: evaluators must find that under the same path" if outside else "",
        "network": f"{found.params:,} params, {found.macs:,} MACs",
        "metric": f"{found.metric} {found.baseline:.2f} on {found.looked_at:,} samples, {direction} is better",
        "data": f"{found.train_samples:,} samples to train with; of {found.evaluation_samples:,} to evaluate with half "
        "steer the search, half are sealed",
        "layers": f"{len(found.layers)} can be compressed: {_few([layer.name for layer in found.layers])}",
        "stay dense": "\n".join(f"{name}: {one_line(reason)}" for name, reason in found.left_dense),
        "an epoch": f"{_time(found.epoch_s)} of fine-tuning on this machine",
        "an evaluation": f"about {_time(found.evaluation_s)}",
        "the job": f"at most {found.evaluations} evaluations, about {_time(60 * found.minutes)} on one evaluator like "
        f"this machine, {_time(found.survey_s)} of survey included",
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, Text(value))
    for reason, message in found.warnings:
        table.add_row(Text("warning", style="yellow"), Text(f"{one_line(message)} ({reason})"))
    console.print(table)


_NAMED = 6


def _few(names: Any) -> str:
    """Names, or the first of many."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _time(seconds: float) -> str:
    """Seconds, minutes or hours, whichever is short."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
