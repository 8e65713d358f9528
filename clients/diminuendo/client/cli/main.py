"""The entry point of `diminuendo`: the table of commands, and how every error ends.

A command's module is imported only when it runs, so that `diminuendo --help` is quick and remote commands need
neither the engine nor a cluster. `EXIT_CODES` has the exit codes.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command

from diminuendo.client.errors import (
    AlreadyExistsError,
    DiminuendoError,
    FailedPreconditionError,
    FolderNotEmptyError,
    InvalidArgumentError,
    NotFoundError,
)
from diminuendo.client.oneline import one_line

MISTAKE, FAILURE, INTERRUPTED = 2, 1, 130

EXIT_CODES = {
    0: "done; of a compression: a model keeps delta or target",
    1: "a failure: of the job, of a model of a fleet, the server, a file",
    2: "a mistake in what was asked for; nothing was done",
    3: "done, and no model keeps delta or target: the nearest is there",
    130: "interrupted by Ctrl-C; a server's job goes on",
}
"""What each exit code says."""

_MISTAKES = (
    AlreadyExistsError,
    FailedPreconditionError,
    FolderNotEmptyError,
    InvalidArgumentError,
    NotFoundError,
)

_OWN = "diminuendo.client.cli.commands"
_SERVICES = "diminuendo.services"
COMMANDS: dict[str, tuple[str, str]] = {
    "init": (f"{_OWN}.init:init", "Write a commented example of a bundle, which runs as it is."),
    "check": (f"{_OWN}.check:check", "Try a bundle here; says what a job on it would do."),
    "submit": (f"{_OWN}.submit:submit", "Submit a network to a server; prints the job's name."),
    "watch": (f"{_OWN}.jobs:watch", "Follow a job until it has ended."),
    "get": (f"{_OWN}.jobs:get", "Show a job."),
    "list": (f"{_OWN}.jobs:list_jobs", "List jobs, newest first."),
    "logs": (f"{_OWN}.logs:logs", "Show a job's events, one a line."),
    "cancel": (f"{_OWN}.jobs:cancel", "Ask for a job's end."),
    "pause": (f"{_OWN}.jobs:pause", "Have nobody work on a job for a while."),
    "resume": (f"{_OWN}.jobs:resume", "Go on with a paused job."),
    "retry": (f"{_OWN}.jobs:retry", "Try a failed or cancelled job again."),
    "update": (f"{_OWN}.jobs:update", "Set a job's labels, priority or deadline."),
    "delete": (f"{_OWN}.jobs:delete", "Forget a job that has ended."),
    "gc": (f"{_OWN}.gc:gc", "Remove what no job refers to any more from a server."),
    "download": (f"{_OWN}.jobs:download", "Fetch a job's result and show it."),
    "compress": (f"{_OWN}.compress:compress", "Compress a network here, without a server."),
    "profile": (f"{_OWN}.profile:profile", "Show what a network costs: params, size, MACs, memory, time."),
    "apply": (f"{_OWN}.apply:apply", "Put a plan into a network, without a search."),
    "report": (f"{_OWN}.report:report", "Write a result as one HTML page."),
    "compare": (f"{_OWN}.compare:compare", "Show results side by side."),
    "export": (f"{_OWN}.export:export", "Export a result as ONNX, .pt2 or TorchScript, fp16 or bf16."),
    "fleet": (f"{_OWN}.fleet:fleet", "Compress many networks together, from one file."),
    "serve": (f"{_SERVICES}.serve.command:serve", "Run a whole server here: conductor, coordinator, evaluators."),
    "conductor": (f"{_SERVICES}.conductor.command:conductor", "Run a conductor."),
    "coordinator": (f"{_SERVICES}.coordinator.command:coordinator", "Run a coordinator and its evaluators."),
    "cluster": (f"{_OWN}.cluster:cluster", "Show what computes for a server."),
    "config": (f"{_OWN}.config:config", "Name servers, and choose whom commands call."),
    "completion": (f"{_OWN}.completion:completion", "Print what has a shell complete commands."),
    "version": (f"{_OWN}.version:version", "Show the version."),
}
"""Where each command lives, and its line in the help."""

_EXTRAS = {"serve": "cluster,conductor", "conductor": "conductor", "coordinator": "cluster,conductor"}


class CommandTable(TyperGroup):
    """A group whose commands are imported when they are run."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Put the real command in the place of its line in the table."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, load(str(name)), rest


def load(name: str) -> Any:
    """The command of this name, ready to be invoked."""
    module, _, function = COMMANDS[name][0].partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except ImportError as error:
        extra = _EXTRAS.get(name)
        if extra is None:
            raise
        raise DiminuendoError(
            f"`diminuendo {name}` needs a part that is not installed ({error}); pip install 'diminuendo[{extra}]'"
        ) from error
    if isinstance(found, typer.Typer):  # a command that has commands
        return get_command(found)
    holder = typer.Typer(add_completion=False, rich_markup_mode=None)
    holder.command(name, help=COMMANDS[name][1] if not found.__doc__ else None)(found)
    return get_command(holder)


def _table() -> typer.Typer:
    """The app with one line for each command."""
    app = typer.Typer(
        name="diminuendo",
        cls=CommandTable,
        callback=_options,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog="\b\nExit codes:\n" + "\n".join(f"{code:>5}  {meaning}" for code, meaning in EXIT_CODES.items()),
    )
    for name, (_, line) in COMMANDS.items():
        app.command(name, help=line)(_placeholder)
    return app


def _placeholder() -> None:
    """Stands for a command that has not been imported."""


def _options(
    debug: bool = typer.Option(False, "--debug", help="Show tracebacks."),
) -> None:
    """Make trained networks smaller and faster without losing more accuracy than you allow."""


app = _table()


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    if "_DIMINUENDO_COMPLETE" in os.environ:
        from diminuendo.client.cli.complete import answer

        sys.exit(answer())
    words = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]  # wherever it stands
    if not debug:
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's own log would be more than one line
    try:
        code = app(words, prog_name="diminuendo", standalone_mode=False)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        if debug:
            raise
        code = _say(error)
    _flush()
    sys.exit(code if isinstance(code, int) else 0)


def _say(error: Exception) -> int:
    """Write the error as one line; returns the exit code."""
    if isinstance(error, BrokenPipeError):  # the reader of our output has gone, e.g. `| head`
        return FAILURE
    show = getattr(error, "format_message", None)  # an error of the command line itself
    if callable(show):
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(show())
            return MISTAKE
        _line(f"{show().replace('Value error, ', '')} See `diminuendo --help`.")
        return int(getattr(error, "exit_code", MISTAKE))
    if isinstance(error, typer.Abort):
        return INTERRUPTED
    if isinstance(error, DiminuendoError):
        _line(error.message)
        return MISTAKE if isinstance(error, _MISTAKES) else FAILURE
    if isinstance(error, OSError):
        _line(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        return FAILURE
    _line(f"{type(error).__name__}: {error}; run it again with --debug for the traceback")
    return FAILURE


def _line(text: str) -> None:
    typer.echo(f"error: {one_line(text)}", err=True)


def _flush() -> None:
    """Write out what is left; a reader that has gone is no error."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
