"""`diminuendo export`: files of a result that need none of its code, by the engine that is installed here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from diminuendo.client.cli import options
from diminuendo.client.cli.engine import engine, mistakes
from diminuendo.client.cli.report import INTERRUPTED
from diminuendo.client.cli.target import bundle_folder, inside
from diminuendo.client.display.exports import exports_table
from diminuendo.client.display.folder import ExportEntry
from diminuendo.client.display.page import page
from diminuendo.client.errors import InvalidArgumentError
from diminuendo.client.oneline import one_line


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A result folder.", show_default=False)],
    form: Annotated[
        list[str] | None,
        typer.Option(
            "--format", metavar="FORM", help="onnx, pt2, torchscript, onnx:fp16, ...; repeatable.", show_default="onnx"
        ),
    ] = None,
    dtype: Annotated[
        Literal["fp32", "fp16", "bf16"] | None,
        typer.Option("--dtype", help="Of formats that do not say theirs.", show_default="fp32"),
    ] = None,
    opset: Annotated[int | None, typer.Option("--opset", metavar="N", help="Of ONNX files.", show_default="18")] = None,
    static_batch: Annotated[bool, typer.Option("--static-batch", help="Files take one sample at a time.")] = False,
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", metavar="DIR", help="The bundle that was compressed.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where files come.", show_default="the result folder")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files of the same name.")] = False,
    threads: options.Threads = 1,
    output: options.Output = "table",
) -> None:
    """Export a result; each file is run and compared with the network. Exits 1 when one failed."""
    forms = _forms(form or ["onnx"], dtype)
    try:
        with mistakes(), Console(stderr=True).status("loading the engine") as status:
            exports, set_threads = engine("exports.folder"), engine("stopwatch").threads_set
            folder, out = folder.resolve(), None if out is None else out.resolve()
            bundle = None if bundle is None else bundle_folder("bundle", str(bundle))
            with inside(bundle), set_threads(threads):
                task = None if bundle is None else engine("bundle").load(Path.cwd())
                status.update(f"exporting {', '.join(forms)}")
                made = exports.export(
                    folder,
                    forms,
                    task=task,
                    opset=opset,
                    dynamic_batch=not static_batch,
                    out=out,
                    overwrite=overwrite,
                )
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
        raise typer.Exit(INTERRUPTED) from None
    _show(made, output)
    raise typer.Exit(options.FAILED if any(each.error for each in made) else options.SUCCEEDED)


def _forms(forms: Sequence[str], dtype: str | None) -> list[str]:
    """The forms, with the type for those that do not say theirs."""
    if dtype is None:
        return list(forms)
    twice = next((form for form in forms if ":" in form), None)
    if twice is not None:
        raise InvalidArgumentError.of("dtype", f"{dtype} is beside --format {twice}, which says its type; give one")
    return [f"{form}:{dtype}" for form in forms]


def _show(made: Sequence[Any], output: str) -> None:
    if output == "json":
        typer.echo(json.dumps({each.form: each.entry() for each in made}, indent=2))
        return
    entries = {each.form: ExportEntry.of(each.form, each.entry()) for each in made}
    page(lambda console: console.print(exports_table(entries)))
    for name, entry in entries.items():
        if entry.error:
            typer.echo(f"{name} failed: {one_line(entry.error)}", err=True)
