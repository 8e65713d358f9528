"""The file of contexts: whom a client calls by default, under a name, as kubectl has it.

The file is ``~/.config/diminuendo/config.toml`` (below ``XDG_CONFIG_HOME`` where that is set), or the one that
``DIMINUENDO_CLIENT_CONFIG`` names:

    current = "lab"

    [contexts.lab]
    server = "10.0.0.5:50300"
    project = "vision"
    token = "..."
    tls = true
    ca_file = "/etc/ssl/lab.pem"

A token follows its server: that of a context goes to the context's server alone, and ``DIMINUENDO_TOKEN`` to the one of
``DIMINUENDO_SERVER`` where both are set.

Imports no gRPC.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import functools
import json
import os
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from diminuendo.client.config import DEFAULT_TARGET, Access, check_target, check_token
from diminuendo.client.errors import InvalidArgumentError

CONFIG, CONTEXT = "DIMINUENDO_CLIENT_CONFIG", "DIMINUENDO_CONTEXT"
SERVER, PROJECT = "DIMINUENDO_SERVER", "DIMINUENDO_PROJECT"
TOKEN, TOKEN_FILE = "DIMINUENDO_TOKEN", "DIMINUENDO_TOKEN_FILE"
DEFAULT_PROJECT = "default"
_HEAD = "# Kept by `diminuendo config`, which keeps no comments.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """A server under a name.

    Attributes:
        server: ``HOST:PORT``.
        project: The project of its jobs; None: ``default``.
        token: Sent with every call, see `Access.token`; it is sent to no other server.
        tls: Whether the server speaks TLS.
        ca_file: PEM file of the authorities that are trusted.
        cert_file: PEM file of a certificate of the client's own, where the server asks for one.
        key_file: PEM file of that certificate's key.
        allow_insecure_token: Whether the token may leave this machine on a line that is not encrypted.
    """

    server: str
    project: str | None = None
    token: str | None = field(default=None, repr=False)
    tls: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    allow_insecure_token: bool = False

    @property
    def access(self) -> Access:
        """What a connection to its server needs."""
        return Access(
            token=self.token,
            tls=self.tls,
            ca_file=self.ca_file,
            cert_file=self.cert_file,
            key_file=self.key_file,
            allow_insecure_token=self.allow_insecure_token,
        )

    def check(self) -> None:
        """Refuse what no client could be made of; InvalidArgumentError."""
        self.access.check(check_target(self.server))


@dataclass(frozen=True, slots=True)
class Contexts:
    """All that the file says.

    Attributes:
        path: Where it is, or would be.
        current: The context that is used where none is named.
        by_name: In the order of the file.
    """

    path: Path
    current: str | None = None
    by_name: Mapping[str, Context] = field(default_factory=dict)

    def get(self, name: str) -> Context:
        """The context of this name; InvalidArgumentError when there is none."""
        if name in self.by_name:
            return self.by_name[name]
        near = _near(name, self.by_name) or "make it with `diminuendo config set`"
        raise InvalidArgumentError.of("context", f"{name!r} is not in {self.path}; {near}")

    def access(self, name: str) -> Access:
        """What a connection to a context's server needs; its token is looked up again when the server refuses it.

        Raises:
            InvalidArgumentError: There is no such context.
        """
        context = self.get(name)
        if context.token is None:
            return context.access
        return replace(context.access, renew_token=functools.partial(_token_of, self.path, name, context.server))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Whom a client calls, and where each part of that was said.

    Attributes:
        server: ``HOST:PORT``.
        project: The project of its jobs.
        access: What the connection needs.
        origins: For ``server``, ``project`` and ``token``: ``option``, the variable's name, ``context NAME``, or
            ``default``.
        context: The context that was looked at, if any.
    """

    server: str
    project: str
    access: Access
    origins: Mapping[str, str]
    context: str | None = None


def _token_of(path: Path, name: str, server: str) -> str | None:
    """The token that a context has by now; None where it is of another server, or gone."""
    context = read(path).by_name.get(name)
    return context.token if context is not None and context.server == server else None


def config_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the file of contexts is, or would be."""
    if environ.get(CONFIG):
        return Path(environ[CONFIG]).expanduser()
    home = Path(environ.get("XDG_CONFIG_HOME", ""))
    if not home.is_absolute():  # as the XDG specification has it
        home = Path.home() / ".config"
    return home / "diminuendo" / "config.toml"


def read(path: Path | None = None) -> Contexts:
    """What the file says; nothing when there is none.

    Raises:
        InvalidArgumentError: It is not of its form, or holds a token that others can read.
        OSError: It cannot be read.
    """
    path = config_path() if path is None else path
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            found = tomllib.load(file)
    except FileNotFoundError:
        return Contexts(path)
    except ValueError as error:  # of TOML, or of UTF-8
        raise InvalidArgumentError.of("config", f"{path} is no TOML ({error}); correct it, or remove it") from error
    _known(found, ("current", "contexts"), f"{path}: ")
    tables = _of_type(found.get("contexts", {}), dict, f"{path}: contexts")
    by_name = {name: _context(table, f"{path}: contexts.{name}") for name, table in tables.items()}
    if mode & 0o077 and any(context.token is not None for context in by_name.values()):
        remedy = f"run `chmod 600 {path}`, and have new tokens made"
        raise InvalidArgumentError.of("config", f"{path} holds a token and others can read it; {remedy}")
    current = found.get("current")
    return Contexts(path, None if current is None else _of_type(current, str, f"{path}: current"), by_name)


def write(contexts: Contexts) -> None:
    """Replace the file by what is given, for its owner's eyes only: whole, or not at all.

    Raises:
        OSError: It cannot be written; what was there is there still.
    """
    path = contexts.path.resolve()  # a link stays one
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # of mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(_toml(contexts))
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(scratch)
        raise


@contextlib.contextmanager
def changing(path: Path | None = None) -> Iterator[Contexts]:
    """What the file says, which nobody else changes meanwhile; made with its folder when it is missing."""
    path = config_path() if path is None else path
    folder = path.resolve().parent
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield read(path)
    finally:
        os.close(lock)


def resolve(
    server: str | None = None,
    project: str | None = None,
    context: str | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
) -> Endpoint:
    """Whom to call: what is given, else what a named context has, else what the environment says, else what the
    current context has, else this machine.

    A context that is named in the environment counts as a current one. A token and TLS go to their own server alone:
    a context's to the context's, and a token of the environment to the server of the environment, where it names one.

    Args:
        server: ``HOST:PORT``.
        project: A project's id.
        context: A context's name, in place of ``DIMINUENDO_CONTEXT`` and of the file's current one.

    Raises:
        InvalidArgumentError: There is no such context, or the file is not of its form.
        OSError: The file cannot be read.
    """
    contexts = read(config_path(environ))
    name = context or environ.get(CONTEXT) or contexts.current
    chosen = contexts.get(name) if name else None

    def first(given: str | None, variable: str, kept: str | None, default: str) -> tuple[str, str]:
        choices = [(environ.get(variable), variable), (kept, f"context {name}")]
        choices = [(given, "option"), *(reversed(choices) if context else choices)]
        return next(((value, origin) for value, origin in choices if value), (default, "default"))

    called, said = first(server, SERVER, chosen.server if chosen else None, DEFAULT_TARGET)
    within, within_said = first(project, PROJECT, chosen.project if chosen else None, DEFAULT_PROJECT)
    own = contexts.access(name) if name and chosen and chosen.server == called else Access()
    access, token_said = own, f"context {name}" if own.token else "default"
    elsewhere = environ.get(SERVER) not in (None, "", called)
    if not elsewhere and not (context and own.token) and (variable := _token_variable(environ)):
        access, token_said = _with_token(own, variable, environ[variable]), variable
    origins = {"server": said, "project": within_said, "token": token_said}
    return Endpoint(called, within, access, origins, name)


def named(name: str | None = None, *, project: str | None = None) -> Endpoint:
    """Whom a client of a context calls: the context alone, whatever the environment says; of None, as `resolve`.

    Args:
        name: The context's.
        project: In place of the context's.

    Raises:
        InvalidArgumentError: There is no such context, or the file is not of its form.
        OSError: The file cannot be read.
    """
    if name is None:
        return resolve(project=project)
    contexts = read()
    context = contexts.get(name)
    within = project or context.project or DEFAULT_PROJECT
    return Endpoint(context.server, within, contexts.access(name), {}, name)


def _token_variable(environ: Mapping[str, str]) -> str | None:
    """The variable that says the token, if one does; InvalidArgumentError when two do."""
    given = [name for name in (TOKEN, TOKEN_FILE) if environ.get(name)]
    if len(given) > 1:
        raise InvalidArgumentError.of("token", f"{TOKEN_FILE}={environ[TOKEN_FILE]} is beside {TOKEN}; set one of them")
    return given[0] if given else None


def _with_token(access: Access, variable: str, value: str) -> Access:
    if variable == TOKEN:
        return replace(access, token=value, renew_token=None)
    return replace(access, token=None, renew_token=None, token_file=Path(value).expanduser())


def check_name(name: str) -> str:
    """A context's name, when it can be one; InvalidArgumentError otherwise."""
    if not name or not name.isprintable() or any(letter.isspace() for letter in name) or name.startswith("-"):
        raise InvalidArgumentError.of("context", f"{name!r} is no name; give letters without blanks")
    return name


def _context(table: object, where: str) -> Context:
    """One context from its table."""
    found = _of_type(table, dict, where)
    _known(found, [f.name for f in fields(Context)], f"{where}.")
    for name, value in found.items():
        _of_type(value, bool if name in ("tls", "allow_insecure_token") else str, f"{where}.{name}")
    if "server" not in found:
        raise InvalidArgumentError.of("config", f"{where} has no server; give it one, as HOST:PORT")
    given: dict[str, Any] = {name: Path(value) if name.endswith("_file") else value for name, value in found.items()}
    context = Context(**given)
    check_target(context.server)
    if context.token is not None:
        check_token(context.token)
    return context


def _of_type(value: object, kind: type[Any], where: str) -> Any:
    if not isinstance(value, kind):
        shown = "***" if where.endswith(".token") else f"{value!r:.40}"
        names = {dict: "a table", str: "a text", bool: "true or false"}
        raise InvalidArgumentError.of("config", f"{where} is {shown}, not {names[kind]}; correct it")
    return value


def _known(table: Mapping[str, object], names: list[str] | tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in names:
            near = _near(key, names) or f"the keys are {', '.join(names)}"
            raise InvalidArgumentError.of("config", f"{where}{key} is unknown; {near}")


def _near(name: str, names: Mapping[str, object] | list[str] | tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, list(names), n=1)
    return f"did you mean {near[0]}?" if near else ""


def _toml(contexts: Contexts) -> str:
    lines = [] if contexts.current is None else [f"current = {_text(contexts.current)}"]
    for name, context in contexts.by_name.items():
        lines += ["", f"[contexts.{_text(name)}]"]
        for one in fields(Context):
            value = getattr(context, one.name)
            if value is not None and value is not False:
                lines.append(f"{one.name} = {'true' if value is True else _text(str(value))}")
    return _HEAD + "\n".join(lines) + "\n"


def _text(value: str) -> str:
    """A basic string of TOML: as of JSON, which leaves DEL as it is."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
