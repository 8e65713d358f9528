"""`diminuendo fleet submit | list | get | watch | report | cancel | retry | download | delete`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from diminuendo.client.cli import options
from diminuendo.client.cli.options import FAILED, NOTHING_INSIDE, SUCCEEDED
from diminuendo.client.cli.report import INTERRUPTED
from diminuendo.client.display import fleet_tables, text
from diminuendo.client.display.fleet import FleetView, follow_fleet
from diminuendo.client.display.page import page
from diminuendo.client.errors import FleetFileError, InvalidArgumentError
from diminuendo.client.fleet.bundles import pack_all
from diminuendo.client.fleet.file import FleetFile, names_in
from diminuendo.client.fleet.fleet import Fleet
from diminuendo.client.fleet.models import ModelDownload, ModelStatus
from diminuendo.client.fleet.results import read_report
from diminuendo.client.types import JobInfo, JobState

MISTAKE = 2

fleet = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Compress many networks together, from one file; docs/fleets.md has the file's keys.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
Name = Annotated[
    str,
    typer.Argument(metavar="FLEET|FILE", help="Id or name of the fleet, or its file.", show_default=False),
]
Html = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Write an HTML page, too.", show_default=False)
]


@fleet.command("submit")
@options.remote
def submit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file, e.g. fleet.yaml.", show_default=False)],
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow it: exits 0 when all are inside, 3 when some are not, 1 failed.")
    ] = False,
    replace_changed: Annotated[
        bool, typer.Option("--replace-changed", help="Give models whose wishes have changed another job.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check file and bundles; send nothing.")] = False,
    output: options.Output = "table",
    *,
    remote: options.Remote,
) -> None:
    """Give a fleet the models of a file; those that it has a job for already get no other. Says what came of each."""
    described = _read(file)
    if dry_run:
        _say_dry(described, output)
        return
    with _of(remote, described.project).connect() as client:
        handle = client.fleet(described.name)
        statuses = handle.submit(
            described.models, labels=described.labels, replace_changed=replace_changed, on_sent=_say_sent
        )
        _say_statuses(statuses, output)
        there = dict(handle.info().labels)
        if described.labels and there != dict(described.labels):
            shown = ", ".join(f"{key}={value}" for key, value in sorted(there.items())) or "none"
            typer.echo(f"note: the labels of {handle.name} stay as they were made: {shown}", err=True)
        if any(status.differs for status in statuses):
            typer.echo("note: --replace-changed gives models that have changed another job", err=True)
        refused = any(status.refusal is not None for status in statuses)
        if watch:
            code = _follow(handle, Console(stderr=True))
            raise typer.Exit(FAILED if refused and code != INTERRUPTED else code)
        raise typer.Exit(FAILED if refused else SUCCEEDED)


@fleet.command("list")
@options.remote
def list_fleets(output: options.Output = "table", *, remote: options.Remote) -> None:
    """List fleets, newest first."""
    with remote.connect() as client:
        found = list(client.fleets())
    if output == "json":
        typer.echo(_json([asdict(info) for info in found]))
    else:
        page(lambda console: console.print(fleet_tables.fleets_table(found, whole_names=remote.project == "-")))


@fleet.command("get")
@options.remote
def get(name: Name, output: options.Output = "table", *, remote: options.Remote) -> None:
    """Show a fleet and its models."""
    caller, name = _called(name, remote)
    with caller.connect() as client:
        handle = client.fleet(name)
        info, jobs = handle.info(), list(handle.jobs())
    if output == "json":
        typer.echo(_json(asdict(info) | {"jobs": [asdict(job) for job in jobs]}))
        return
    labels = ", ".join(f"{key}={value}" for key, value in sorted(info.labels.items()))

    def draw(console: Console) -> None:
        told = f"{info.name}: {info.models} models, {fleet_tables.states_line(info) or 'none'}"
        console.print(told + (f"; {labels}" if labels else ""), markup=False, highlight=False)
        console.print()
        console.print(fleet_tables.models_table(jobs))

    page(draw)


@fleet.command("watch")
@options.remote
def watch(name: Name, remote: options.Remote) -> None:
    """Follow a fleet until all have ended: exits 0 with all inside delta, 3 with some outside, 1 with some failed."""
    caller, name = _called(name, remote)
    with caller.connect() as client:
        raise typer.Exit(_follow(client.fleet(name), Console()))


@fleet.command("report")
@options.remote
def report(
    target: Annotated[
        str,
        typer.Argument(
            metavar="FLEET|FILE|DIR",
            help="A fleet, its file, or a folder of results.",
            show_default=False,
        ),
    ],
    html: Html = None,
    output: options.Output = "table",
    *,
    remote: options.Remote,
) -> None:
    """Show what came of a fleet: every model's original, compressed, drop, ratio and state, and what was saved."""
    if Path(target).is_dir():
        found = read_report(Path(target))
    else:
        caller, name = _called(target, remote)
        with caller.connect() as client:
            found = client.fleet(name).report()
    if html is not None:
        from diminuendo.client.report import render_fleet, save

        save(render_fleet(found), html)
    if output == "json":
        typer.echo(found.to_json())
    else:
        page(lambda console: fleet_tables.show_report(console, found))
    if html is not None:
        typer.echo(f"report: {html}", err=output == "json")


@fleet.command("cancel")
@options.remote
def cancel(name: Name, remote: options.Remote) -> None:
    """Ask for the end of every job of a fleet; prints its name and states."""
    caller, name = _called(name, remote)
    with caller.connect() as client:
        info = client.fleet(name).cancel()
    typer.echo(f"{info.name}: {fleet_tables.states_line(info) or 'no models'}")


@fleet.command("retry")
@options.remote
def retry(
    name: Name,
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL...]", help="Failed or cancelled ones.", show_default=False)
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All whose newest job failed.")] = False,
    output: options.Output = "table",
    *,
    remote: options.Remote,
) -> None:
    """Try models again, each by another job that remembers every evaluation; says what came of each."""
    if failed == bool(models):
        given = f"{' '.join(models)} is beside --failed" if models else "there are none"
        raise InvalidArgumentError.of("models", f"{given}; give --failed, or the names of models")
    caller, name = _called(name, remote)
    with caller.connect() as client:
        statuses = client.fleet(name).retry(models or ())
    _say_statuses(statuses, output)
    raise typer.Exit(FAILED if any(status.refusal is not None for status in statuses) else SUCCEEDED)


@fleet.command("download")
@options.remote
def download(
    name: Name,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder; each model gets one in it.", show_default=False)
    ],
    *,
    remote: options.Remote,
) -> None:
    """Fetch every result of a fleet; again, it goes on where it was. Ends with the line `result: DIR`."""
    caller, name = _called(name, remote)
    with caller.connect() as client:
        done = client.fleet(name).download(out, on_model=_say_download)
    wrong = [each for each in done if each.error is not None]
    fetched = sum(each.folder is not None for each in done)
    typer.echo(f"{fetched} of {len(done)} models have a result here" + (f", {len(wrong)} failed" if wrong else ""))
    typer.echo(f"result: {out}")
    raise typer.Exit(FAILED if wrong else SUCCEEDED)


@fleet.command("delete")
@options.remote
def delete(name: Name, remote: options.Remote) -> None:
    """Forget a fleet whose jobs have all ended, its jobs with it; downloaded results stay. Prints its name."""
    caller, name = _called(name, remote)
    with caller.connect() as client:
        handle = client.fleet(name)
        handle.delete()
    typer.echo(f"{handle.name} deleted")


def exit_code(jobs: Iterable[JobInfo]) -> int:
    """How a followed fleet ends the command: 1 with any that failed or was cancelled, 3 with any outside, else 0."""
    codes = {options.exit_code(job) for job in jobs}
    return FAILED if FAILED in codes else NOTHING_INSIDE if NOTHING_INSIDE in codes else SUCCEEDED


def _follow(handle: Fleet, console: Console) -> int:
    """Show the fleet until all have ended; returns the exit code. Ctrl-C leaves the jobs running."""
    try:
        view = follow_fleet(handle, console)
    except KeyboardInterrupt:
        typer.echo(f"the jobs go on; follow them again with: diminuendo fleet watch {handle.name}", err=True)
        return INTERRUPTED
    typer.echo(_ended(view), err=True)
    if any(job.result is not None for job in view.jobs.values()):
        typer.echo(f"see it with: diminuendo fleet report {handle.name}", err=True)
    return exit_code(view.jobs.values())


def _ended(view: FleetView) -> str:
    failed = sorted(job.model for job in view.jobs.values() if job.state is JobState.FAILED)
    told = ", ".join(words for words, _ in view.counts) or "no models"
    return f"{told} (failed: {', '.join(failed)})" if failed else told


def _read(file: Path) -> FleetFile:
    """The file; its mistakes are told one a line, and end the command."""
    try:
        return FleetFile.read(file)
    except FleetFileError as error:
        raise _told(error) from None


def _told(error: FleetFileError) -> typer.Exit:
    for problem in error.problems:
        typer.echo(f"error: {text.one_line(problem)}", err=True)
    return typer.Exit(MISTAKE)


def _called(name: str, remote: options.Remote) -> tuple[options.Remote, str]:
    """Whom to call and which fleet, by its name or by the file that has it."""
    if not name.endswith((".yaml", ".yml")) and not Path(name).is_file():
        return remote, name
    try:
        name, project = names_in(name)
    except FleetFileError as error:
        raise _told(error) from None
    return _of(remote, project), name


def _of(remote: options.Remote, project: str | None) -> options.Remote:
    """Whom to call for a file's fleet: its project counts where no option says another."""
    return replace(remote, project=remote.project or project)


def _say_sent(folder: Path, size: int) -> None:
    typer.echo(f"uploaded {folder}, {size / 2**20:.2f} MB", err=True)


def _say_statuses(statuses: Sequence[ModelStatus], output: str) -> None:
    if output == "json":
        typer.echo(_json([asdict(status) | {"outcome": fleet_tables.came_of(status)[0]} for status in statuses]))
    else:
        page(lambda console: fleet_tables.show_statuses(console, statuses))


def _say_dry(described: FleetFile, output: str) -> None:
    """What a file asks for, its bundles packed as they would be sent."""
    packed = pack_all(model.bundle for model in described.models if model.bundle is not None)
    sources = {
        model.name: model.source if model.bundle is None else packed.source(model.bundle) for model in described.models
    }
    if output == "json":
        data = [asdict(model) | {"source": sources[model.name]} for model in described.models]
        typer.echo(_json({"name": described.name, "project": described.project, "models": data}))
        return
    page(lambda console: console.print(fleet_tables.asked_table(described.models, sources)))
    size = sum(each.size_bytes for _, each in packed.distinct())
    typer.echo(
        f"{len(described.models)} models, {len(packed.distinct())} bundles of {size / 2**20:.2f} MB; nothing was sent"
    )


def _say_download(done: ModelDownload) -> None:
    if done.error is not None:
        typer.echo(f"{done.model}: {text.one_line(done.error.message)}", err=True)
    elif done.folder is None:
        typer.echo(f"{done.model}: no result, its job is {done.job.state.value}", err=True)
    else:
        typer.echo(f"{done.model}: {done.folder}")


def _json(data: object) -> str:
    return json.dumps(data, indent=2, default=_plain)


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
