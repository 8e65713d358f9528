"""Answers shells that ask how a command line may go on; what a parameter takes is told by its metavar.

The question is in the environment: ``_DIMINUENDO_COMPLETE=SHELL_complete``, ``COMP_WORDS`` with the line up to the
cursor, and ``COMP_CWORD`` with the index of the word to complete; empty: the last one. The answer has one row a
candidate, ``plain``, its value and its help between tabs; a row ``dir`` or ``file`` asks the shell for its own.
Only the command that the line names is imported. Nothing that goes wrong is told: a prompt is no place for it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer
from typer.main import get_command

from diminuendo.client.errors import DiminuendoError
from diminuendo.client.oneline import one_line

if TYPE_CHECKING:
    from diminuendo.client.client import Client

_CONNECT_S, _ANSWER_S, _MOST = 0.5, 1.0, 50
_SAFE = re.compile(r"[\w./:?=@%+,*-]+")
"""What no shell makes anything else of."""


@dataclass(frozen=True, slots=True)
class Row:
    """One candidate.

    Attributes:
        value: The whole word.
        help: One line.
        kind: plain, or dir or file for what the shell itself knows.
    """

    value: str
    help: str = ""
    kind: str = "plain"


def answer(environ: Mapping[str, str] = os.environ) -> int:
    """Write the candidates for the line in the environment; returns the exit code."""
    args, incomplete = _question(environ.get("COMP_WORDS", ""), environ.get("COMP_CWORD", ""))
    rows: list[Row] = []
    with contextlib.suppress(Exception):  # also of a command that cannot be imported
        rows = candidates(args, incomplete)
    for row in rows:
        typer.echo(f"{row.kind}\t{row.value}\t{one_line(row.help)[:70]}".rstrip())
    return 0


def candidates(args: Sequence[str], incomplete: str) -> list[Row]:
    """How a line may go on.

    Args:
        args: The words behind the program's name, without the last.
        incomplete: The last word, as far as it is there.
    """
    name, command, rest = _descend(args)
    if command is None:
        return []
    ctx = command.make_context(name, list(rest), resilient_parsing=True)
    options = {flag: one for one in command.get_params(ctx) for flag in _flags(one)}
    prefix = ""
    if incomplete.startswith("--") and "=" in incomplete:
        flag, _, incomplete = incomplete.partition("=")
        prefix, rest = f"{flag}=", [*rest, flag]
    pending = options.get(rest[-1]) if rest and "--" not in rest else None
    if pending is not None and not pending.is_flag:
        found = _values(pending, ctx, incomplete)
    elif incomplete.startswith("-") and "--" not in rest:
        found = _unused(options, rest)
    elif hasattr(command, "commands"):
        found = [Row(name, one.get_short_help_str(70)) for name, one in command.commands.items()]
    else:
        argument = _argument(command, ctx, _position(rest, options))
        found = [] if argument is None else _values(argument, ctx, incomplete)
    fitting = [row for row in found if row.kind == "plain" and row.value.startswith(incomplete)]
    whole = [Row(prefix + row.value, row.help) for row in fitting if _SAFE.fullmatch(row.value)]
    return whole + [row for row in found if row.kind != "plain"]


def _question(line: str, index: str) -> tuple[list[str], str]:
    """The words before the one to complete, without the program's name; and that one."""
    lexer = shlex.shlex(line, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    try:
        words.extend(lexer)
    except ValueError:  # a quotation that is not closed yet
        words.append(lexer.token)
    if index.isdigit():
        return words[1 : int(index)], words[int(index)] if int(index) < len(words) else ""
    if not line or line[-1].isspace():
        words.append("")
    return words[1:-1], words[-1]


def _descend(args: Sequence[str]) -> tuple[str, Any, Sequence[str]]:
    """The command that the words lead to, its name, and the words behind it; None when there is no such command."""
    from diminuendo.client.cli.main import app, load

    name, command, rest = "diminuendo", get_command(app), args
    root = command
    while hasattr(command, "commands"):
        at = next((at for at, word in enumerate(rest) if not word.startswith("-")), None)
        if at is None:
            break
        name = rest[at]
        if name not in command.commands:
            return name, None, ()
        command, rest = load(name) if command is root else command.commands[name], rest[at + 1 :]
    return name, command, rest


def _flags(parameter: Any) -> list[str]:
    return [flag for flag in (*parameter.opts, *parameter.secondary_opts) if flag.startswith("-")]


def _unused(options: Mapping[str, Any], given: Sequence[str]) -> list[Row]:
    """Options that may still be given."""
    used = [options[word] for word in given if word in options]
    free = {flag: one for flag, one in options.items() if one.multiple or one not in used}
    return [Row(flag, one.help or "") for flag, one in free.items() if flag.startswith("--") and not one.hidden]


def _position(args: Sequence[str], options: Mapping[str, Any]) -> int:
    """How many arguments the words have."""
    count, value = 0, False
    for at, word in enumerate(args):
        if word == "--" and not value:
            return count + len(args) - at - 1
        if value or (word.startswith("-") and word != "-"):
            option = None if value else options.get(word)
            value = option is not None and not option.is_flag
        else:
            count += 1
    return count


def _argument(command: Any, ctx: Any, position: int) -> Any:
    """The argument at a position; the last one, where it takes all the rest."""
    arguments = [one for one in command.get_params(ctx) if not _flags(one)]
    if position < len(arguments):
        return arguments[position]
    return arguments[-1] if arguments and arguments[-1].nargs == -1 else None


def _values(parameter: Any, ctx: Any, incomplete: str) -> list[Row]:
    """What a parameter may be: its choices, or what its metavar stands for."""
    choices = [Row(item.value) for item in parameter.shell_complete(ctx, incomplete) if item.value]
    metavar = parameter.metavar or _METAVARS.get(parameter.name, "")
    if choices:
        return choices
    if metavar.startswith("<"):  # <queued|running|...>
        return [Row(value) for value in metavar[1:-1].split("|")]
    end = "=" if "=" in metavar else ""
    rows: list[Row] = []
    for word in dict.fromkeys(re.findall("[A-Z]+", metavar.partition("=")[0])):
        with contextlib.suppress(DiminuendoError, OSError):  # one that cannot be asked does not silence the others
            rows += _GIVERS[word](ctx, incomplete) if word in _GIVERS else ()
    return [Row(row.value + end, row.help, row.kind) for row in rows]


_ONGOING = ("queued", "running", "pausing", "paused")
_STATES = {
    "cancel": _ONGOING,
    "pause": ("queued", "running"),
    "resume": ("pausing", "paused"),
    "retry": ("cancelled", "failed"),
    "delete": ("cancelled", "succeeded", "failed"),
    "download": ("succeeded",),
    "report": ("succeeded",),
}
"""Jobs that a command can do something with; all, where it is not here."""


def _jobs(ctx: Any, incomplete: str) -> Iterable[Row]:
    """The server's newest jobs, by their ids, or by their names where one is begun."""
    from diminuendo.client.types import JobState

    states = [JobState(state.upper()) for state in _STATES.get(ctx.info_name, ())]
    with _asked(ctx) as client:
        for job in itertools.islice(client.list(states=states), _MOST):
            whole = incomplete.startswith("projects/")
            yield Row(job.name if whole else job.job_id, f"{job.state.value} {job.source}")


def _fleets(ctx: Any, incomplete: str) -> Iterable[Row]:
    """The server's newest fleets, by their ids, or by their names where one is begun."""
    with _asked(ctx) as client:
        for fleet in itertools.islice(client.fleets(), _MOST):
            whole = incomplete.startswith("projects/")
            yield Row(fleet.name if whole else fleet.fleet_id, f"{fleet.ended} of {fleet.models} models ended")


def _models(ctx: Any, incomplete: str) -> Iterable[Row]:
    """The models of the fleet that the line names."""
    with _asked(ctx) as client:
        for job in itertools.islice(client.fleet(ctx.params.get("name") or "").jobs(), _MOST):
            yield Row(job.model, job.state.value)


def _asked(ctx: Any) -> Client:
    """A client of whom the line calls, which gives up soon."""
    from diminuendo.client.cli.options import connect
    from diminuendo.client.config import ClientConfig

    config = ClientConfig(timeout_s=_ANSWER_S, connect_s=_CONNECT_S, page_size=_MOST)
    whom = {name: ctx.params.get(name) for name in ("server", "project", "context")}
    return connect(**whom, config=config)


def _contexts(ctx: Any, incomplete: str) -> Iterable[Row]:
    from diminuendo.client.contexts import read

    return [Row(name, context.server) for name, context in read().by_name.items()]


def _zoo(ctx: Any, incomplete: str) -> Iterable[Row]:
    from diminuendo.client.cli.engine import engine

    return [Row(f"zoo:{entry.name}", entry.title) for entry in engine("zoo.catalog").CATALOG]


def _folder(ctx: Any, incomplete: str) -> Iterable[Row]:
    return [Row("", kind="dir")]


def _file(ctx: Any, incomplete: str) -> Iterable[Row]:
    return [Row("", kind="file")]


def _words(*values: str) -> Callable[[Any, str], Iterable[Row]]:
    return lambda ctx, incomplete: [Row(value) for value in values]


_GIVERS: dict[str, Callable[[Any, str], Iterable[Row]]] = {
    "NAME": _jobs,
    "JOB": _jobs,
    "FLEET": _fleets,
    "MODEL": _models,
    "CONTEXT": _contexts,
    "SOURCE": _zoo,
    "TARGET": lambda ctx, incomplete: [*_folder(ctx, incomplete), *_zoo(ctx, incomplete)],
    "DIR": _folder,
    "FILE": _file,
    "PLAN": _file,
    "FIGURE": _words("params", "macs", "size", "memory", "latency"),
    "KIND": _words("evaluations", "epochs", "minutes"),
    "FORM": _words("onnx", "pt2", "torchscript", "onnx:fp16", "pt2:fp16", "safetensors:fp16"),
}
_METAVARS = {"config": "FILE", "data_dir": "DIR"}
"""Of parameters that have none of their own."""
