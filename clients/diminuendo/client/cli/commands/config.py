"""`diminuendo config set | use | list | show | delete`: the file of contexts."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from diminuendo.client import contexts
from diminuendo.client.cli import options
from diminuendo.client.config import Access, check_token
from diminuendo.client.contexts import Context, Contexts
from diminuendo.client.display.page import page
from diminuendo.client.errors import InvalidArgumentError

config = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Name servers, and choose the one that commands call; the file is ~/.config/diminuendo/config.toml.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
Name = Annotated[str, typer.Argument(metavar="CONTEXT", help="Its name.", show_default=False)]


@config.command("set")
def set_context(
    name: Name,
    server: Annotated[str | None, typer.Option("--server", metavar="HOST:PORT", help="The server.")] = None,
    project: Annotated[str | None, typer.Option("--project", help="Project of its jobs.")] = None,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", metavar="FILE", help="A file with the token, which is copied; - for stdin."),
    ] = None,
    no_token: Annotated[bool, typer.Option("--no-token", help="Forget the token.")] = False,
    tls: Annotated[bool | None, typer.Option("--tls/--no-tls", help="Speak TLS.", show_default="no")] = None,
    ca_file: Annotated[
        Path | None, typer.Option("--ca-file", metavar="FILE", help="PEM file of the authorities to trust.")
    ] = None,
    cert_file: Annotated[
        Path | None,
        typer.Option("--cert-file", metavar="FILE", help="PEM file of a certificate of yours, if the server asks."),
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option("--key-file", metavar="FILE", help="PEM file of that certificate's key.")
    ] = None,
    allow_insecure_token: Annotated[
        bool | None,
        typer.Option(
            "--allow-insecure-token/--no-allow-insecure-token",
            help="Send the token unencrypted to another machine.",
            show_default="no",
        ),
    ] = None,
) -> None:
    """Make a context, or change what is given of one. The first one becomes the current one."""
    if token_file is not None and no_token:
        raise InvalidArgumentError.of("token_file", f"{token_file} is beside --no-token; give one of them")
    given: dict[str, Any] = {
        "server": server,
        "project": project,
        "token": None if token_file is None else _token(token_file),
        "tls": tls,
        "allow_insecure_token": allow_insecure_token,
    }
    files = {"ca_file": ca_file, "cert_file": cert_file, "key_file": key_file}
    given |= {field: None if file is None else file.absolute() for field, file in files.items()}
    given = {field: value for field, value in given.items() if value is not None}
    given |= {"token": None} if no_token else {}
    given |= {field: None for field, file in files.items() if tls is False and file is None}
    with contexts.changing() as found:
        context = _changed(found, contexts.check_name(name), given)
        context.check()
        after = Contexts(found.path, found.current or name, {**found.by_name, name: context})
        contexts.write(after)
    typer.echo(f"{name} {context.server}{' (current)' if after.current == name else ''}")


@config.command("use")
def use(name: Name) -> None:
    """Have commands call this context's server from now on."""
    with contexts.changing() as found:
        context = found.get(name)
        contexts.write(replace(found, current=name))
    typer.echo(f"{name} {context.server} (current)")


@config.command("list")
def list_contexts(output: options.Output = "table") -> None:
    """List the contexts; tokens are not shown."""
    found = contexts.read()
    if output == "json":
        rows = [
            {"name": name, "current": name == found.current, **_shown(context.server, context.project, context.access)}
            for name, context in found.by_name.items()
        ]
        typer.echo(json.dumps(rows, indent=2))
    else:
        page(lambda console: console.print(_table(found)))


@config.command("show")
def show(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[CONTEXT]", help="A context; without one: whom commands call now, and why."),
    ] = None,
    output: options.Output = "table",
) -> None:
    """Show a context, or whom commands call now; tokens are not shown."""
    found = contexts.read()
    origins: Mapping[str, str] = {}
    if name is not None:
        context = found.get(name)
        rows: dict[str, Any] = {"context": name, **_shown(context.server, context.project, context.access)}
    else:
        now = contexts.resolve()
        rows = {"context": now.context, **_shown(now.server, now.project, now.access)}
        origins = now.origins
    rows["file"] = str(found.path)
    if output == "json":
        typer.echo(json.dumps(rows if name is not None else {**rows, "origins": dict(origins)}, indent=2))
        return
    for field, value in rows.items():
        origin = origins.get(field, "")
        shown = {None: "none", True: "yes", False: "no"}.get(value, value)
        typer.echo(f"{field:<21} {shown}{f', by {origin}' if origin and value else ''}")


@config.command("delete")
def delete(name: Name) -> None:
    """Forget a context, with its token."""
    with contexts.changing() as found:
        found.get(name)
        rest = {other: context for other, context in found.by_name.items() if other != name}
        contexts.write(Contexts(found.path, None if found.current == name else found.current, rest))
    typer.echo(f"{name} deleted")


def _changed(found: Contexts, name: str, given: dict[str, Any]) -> Context:
    if name in found.by_name:
        return replace(found.by_name[name], **given)
    if "server" not in given:
        raise InvalidArgumentError.of("server", f"context {name} is new and has none; give --server HOST:PORT")
    return Context(**given)


def _token(file: Path) -> str:
    """What a file holds; a token on the command line could be read by others."""
    try:
        return check_token((sys.stdin.read() if str(file) == "-" else file.read_text()).strip())
    except UnicodeDecodeError:
        raise InvalidArgumentError.of("token_file", f"{file} is no text; give a file with the token alone") from None


def _shown(server: str, project: str | None, access: Access) -> dict[str, Any]:
    """What may be seen of whom is called: whether there is a token, but not which."""
    files = {name: getattr(access, name) for name in ("ca_file", "cert_file", "key_file")}
    return {
        "server": server,
        "project": project or contexts.DEFAULT_PROJECT,
        "token": access.token is not None or access.token_file is not None,
        "tls": access.tls,
        **{name: None if path is None else str(path) for name, path in files.items()},
        "allow_insecure_token": access.allow_insecure_token,
    }


def _table(found: Contexts) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for column in ("current", "context", "server", "project", "token", "tls"):
        table.add_column(column, no_wrap=True)
    for name, context in found.by_name.items():
        shown = _shown(context.server, context.project, context.access)
        marks = ["yes" if shown[field] else "" for field in ("token", "tls")]
        table.add_row("*" if name == found.current else "", name, context.server, shown["project"], *marks)
    return table
