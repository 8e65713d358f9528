"""The tokens that a conductor knows: their file, which is read again when it changes, and who has which.

    [[tokens]]
    name = "ci"
    sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0bbd6d1c8f2b0f00a08aa1"
    role = "writer"
    projects = ["vision", "text"]
    expires = 2027-01-31T00:00:00Z

The file has the SHA-256 of each token and never a token itself. No error shows a value that may be one.
"""

from __future__ import annotations

import difflib
import enum
import hashlib
import hmac
import re
import secrets
import threading
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from diminuendo.engine.store import is_sha256
from diminuendo.services.common import logs
from diminuendo.services.common.errors import StartError
from diminuendo.services.common.names import COMPONENT
from diminuendo.services.conductor.store.base import Clock

EVERY = "*"
"""In place of a list of projects: all of them, also those to come."""

_KEYS = ("name", "sha256", "role", "projects", "expires")
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_log = logs.get(__name__)


class Role(enum.Enum):
    """What a token is for. An admin may do what a writer may, and a writer what a reader may; a coordinator neither."""

    READER = "reader"
    WRITER = "writer"
    ADMIN = "admin"
    COORDINATOR = "coordinator"

    def includes(self, wanted: Role) -> bool:
        """Whether who has this role may do what that one is wanted for."""
        return wanted in _INCLUDED[self]


_INCLUDED = {
    Role.READER: {Role.READER},
    Role.WRITER: {Role.READER, Role.WRITER},
    Role.ADMIN: {Role.READER, Role.WRITER, Role.ADMIN},
    Role.COORDINATOR: {Role.COORDINATOR},
}


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token.

    Attributes:
        name: For people and logs.
        sha256: SHA-256 of the token.
        role: What it is for.
        projects: The projects that it is for; None: all.
        expires_us: When it ends, in microseconds since 1970; None: it does not.
    """

    name: str
    sha256: bytes = field(repr=False)
    role: Role
    projects: frozenset[str] | None = None
    expires_us: int | None = None

    @property
    def said_expiry(self) -> str:
        """When it ends, for people."""
        return (
            ""
            if self.expires_us is None
            else f"{datetime.fromtimestamp(self.expires_us / 1e6, UTC):%Y-%m-%d %H:%M:%SZ}"
        )


class TokensError(ValueError):
    """A tokens file that cannot be used; the message has the file, the entry, what is wrong, and the remedy."""


class Tokens:
    """The tokens of a conductor, as its file has them now. Safe to use from several threads."""

    def __init__(self, path: Path | None, clock: Clock, *, coordinator_token: str = "") -> None:
        """Read the file.

        Args:
            path: The file; None: there is only the coordinator's token.
            clock: Says when a token has expired.
            coordinator_token: One more token, of a coordinator; empty: none.

        Raises:
            StartError: The file cannot be used, or the coordinator's token is none.
        """
        self._path, self._clock = path, clock
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._own: tuple[Token, ...] = ()
        if coordinator_token:
            if not _VISIBLE.fullmatch(coordinator_token):
                raise StartError("the coordinator's token has letters that no token has; give visible ASCII")
            digest = hashlib.sha256(coordinator_token.encode()).digest()
            self._own = (Token("the server's own coordinator", digest, Role.COORDINATOR),)
        self._seen: tuple[int, ...] | None = None
        try:
            self._by_tag = self._read()
        except TokensError as error:
            raise StartError(f"--tokens-file {error}") from None

    def find(self, sha256: bytes) -> Token | None:
        """The token of this SHA-256, expired or not; None where there is none.

        How long it takes says nothing about what is known: what is compared are tags under a random key.
        """
        tag = self._tag(sha256)
        found = self._by_tag.get(tag)
        return found if found is not None and hmac.compare_digest(found.sha256, sha256) else None

    def expired(self, token: Token) -> bool:
        """Whether its time is over."""
        return token.expires_us is not None and self._clock() >= token.expires_us

    def refresh(self) -> None:
        """Read the file again if it has changed. One that cannot be used leaves all as it was, and is logged once."""
        with self._lock:
            if self._path is None or _stamp(self._path) == self._seen:
                return
            try:
                self._by_tag = self._read()
            except TokensError as error:
                _log.error("tokens_not_read", reason=str(error), kept=len(self._by_tag))
            else:
                _log.info("tokens_read", file=str(self._path), tokens=len(self._by_tag))

    def _read(self) -> dict[bytes, Token]:
        tokens = self._own
        if self._path is not None:
            self._seen = _stamp(self._path)
            tokens += _from_file(self._path)
        return {self._tag(token.sha256): token for token in tokens}

    def _tag(self, sha256: bytes) -> bytes:
        return hmac.digest(self._key, sha256, "sha256")


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What changes when the file does; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _from_file(path: Path) -> tuple[Token, ...]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TokensError(f"{str(path)!r} cannot be read ({error.strerror}); name another file") from None
    except tomllib.TOMLDecodeError as error:
        raise TokensError(f"{str(path)!r} is no TOML ({error}); mend it") from None
    except UnicodeDecodeError:
        raise TokensError(f"{str(path)!r} is no text; give TOML with [[tokens]] entries") from None
    try:
        return parsed(content)
    except TokensError as error:
        raise TokensError(f"{str(path)!r}: {error}") from None


def parsed(content: Mapping[str, object]) -> tuple[Token, ...]:
    """The tokens of a file's content.

    Raises:
        TokensError: An entry is wrong, or there is none.
    """
    _only(content, ("tokens",), "")
    entries = content.get("tokens", [])
    if not isinstance(entries, Sequence) or isinstance(entries, str) or not entries:
        raise TokensError("it has no token, and would let nobody in; give one [[tokens]] entry at least")
    tokens = tuple(_token(entry, f"tokens[{index}]") for index, entry in enumerate(entries))
    for what, values in (("name", [t.name for t in tokens]), ("sha256", [t.sha256.hex() for t in tokens])):
        first: dict[str, int] = {}
        for index, value in enumerate(values):
            if first.setdefault(value, index) != index:
                raise TokensError(f"tokens[{index}].{what}: is that of tokens[{first[value]}] too; give each its own")
    return tokens


def _token(entry: object, where: str) -> Token:
    if not isinstance(entry, Mapping):
        raise TokensError(f"{where}: is no table; write it as [[tokens]]")
    _only(entry, _KEYS, f"{where}.")
    name, sha256, role = (_text(entry, key, where) for key in ("name", "sha256", "role"))
    if not name.isprintable() or not 1 <= len(name) <= 63:
        raise TokensError(f"{where}.name: {name[:70]!r} is no name; give 1 to 63 printable letters")
    if not is_sha256(sha256):
        raise TokensError(f"{where}.sha256: is no SHA-256 in lower-case hex; give what `sha256sum` prints of the token")
    roles = [one.value for one in Role]
    if role not in roles:
        raise TokensError(f"{where}.role: {role!r} is no role; give one of {', '.join(roles)}")
    projects = _projects(entry, Role(role), where)
    return Token(name, bytes.fromhex(sha256), Role(role), projects, _expiry(entry, where))


def _projects(entry: Mapping[str, object], role: Role, where: str) -> frozenset[str] | None:
    found = entry.get("projects", EVERY if role is Role.COORDINATOR else None)
    if found == EVERY:
        return None
    if role is Role.COORDINATOR:
        raise TokensError(f"{where}.projects: a coordinator takes jobs of all projects; leave it out")
    if not isinstance(found, list) or not found:
        raise TokensError(f'{where}.projects: is missing or no list; give ["PROJECT", ...], or "{EVERY}" for all')
    for project in found:
        if not isinstance(project, str) or not COMPONENT.fullmatch(project):
            raise TokensError(f"{where}.projects: {project!r} is no project; give 1 to 63 characters of a-z, 0-9 and -")
    return frozenset(found)


def _expiry(entry: Mapping[str, object], where: str) -> int | None:
    found = entry.get("expires")
    if found is None:
        return None
    if not isinstance(found, datetime) or found.tzinfo is None:
        raise TokensError(
            f"{where}.expires: {found!s:.40} is no time with its zone; give 2027-01-31T00:00:00Z, unquoted"
        )
    return round(found.timestamp() * 1_000_000)


def _text(entry: Mapping[str, object], key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str):
        raise TokensError(f"{where}.{key}: is {'missing' if value is None else 'no text'}; give it as a text")
    return value


def _only(found: Iterable[str], known: Sequence[str], where: str) -> None:
    for key in found:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(known)}"
            raise TokensError(f"{where}{key[:40]} is unknown; {hint}")
