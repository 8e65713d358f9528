"""What each call says of who calls: the client's version, and its token, which may be renewed meanwhile.

Imports no gRPC: what it makes is the metadata of the calls of any client.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Iterable
from importlib.metadata import version as version_of
from typing import TypeAlias

from diminuendo.client.config import Access, check_token, read_token
from diminuendo.client.errors import DiminuendoError, ServerVersionError

Metadata: TypeAlias = "tuple[tuple[str, str], ...]"

VERSION_KEY = "diminuendo-version"
"""Key of the metadata that says the version: of the client in a call's, of the server in an answer's."""


@functools.cache
def client_version() -> str:
    """The version of this client, such as ``0.1.0``."""
    return version_of("diminuendo")


class Caller:
    """The metadata of a connection's calls. Safe to use from several threads.

    A call takes `metadata`. When the server refuses its token, `renewed` says whether there is a newer one: then the
    call is made again with what `metadata` has become.
    """

    def __init__(self, access: Access) -> None:
        """Say what the access says.

        Raises:
            InvalidArgumentError: Its token file cannot be read, or holds no token.
        """
        self._access = access
        self._lock = threading.Lock()
        token = access.token if access.token_file is None else read_token(access.token_file)
        self._metadata = _metadata(token)

    @property
    def metadata(self) -> Metadata:
        """For the next call."""
        return self._metadata

    def renewed(self, refused: Metadata) -> bool:
        """Whether there is another token by now than in this metadata, which the server has refused."""
        with self._lock:
            if self._metadata == refused:
                token = self._newest()
                if token is not None:
                    self._metadata = _metadata(token)
            return self._metadata != refused

    def _newest(self) -> str | None:
        """The token of the moment, from where this one came; None where that says nothing of use."""
        try:
            if self._access.token_file is not None:
                return read_token(self._access.token_file)
            token = None if self._access.renew_token is None else self._access.renew_token()
            return None if token is None else check_token(token)
        except (DiminuendoError, OSError):  # that the server refused the token is what its owner should hear
            return None


def _metadata(token: str | None) -> Metadata:
    said = ((VERSION_KEY, client_version()),)
    return said if token is None else (("authorization", f"Bearer {token}"), *said)


def said_version(metadata: Iterable[tuple[str, str | bytes]] | None) -> str | None:
    """The server's version, from the metadata of one of its answers; None where that does not say."""
    for key, value in metadata or ():
        if key == VERSION_KEY and isinstance(value, str) and re.fullmatch(r"[\w.+!-]{1,64}", value):
            return value
    return None


def version_error(where: str, message: str, server: str | None, *, reason: str = "") -> ServerVersionError:
    """The error of a call that one of two versions does not know.

    Args:
        where: The server's address.
        message: What the server said.
        server: Its version; None: it does not say.
    """
    own = client_version()
    if server is None:
        text = (
            f"the server at {where} does not say its version and does not know what this client, {own}, asked for:"
            f" {message}; update the server, or check that the address is a Diminuendo server's"
        )
    else:
        remedy = "the older of them"
        if _ordered(server) != _ordered(own):
            remedy = "the server" if _ordered(server) < _ordered(own) else "this client"
        text = f"the server at {where} is of version {server} and this client of {own}: {message}; update {remedy}"
    return ServerVersionError(text, reason=reason, client_version=own, server_version=server)


def _ordered(version: str) -> tuple[int, ...]:
    """The release's numbers: 0.10.1rc1 as (0, 10, 1)."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in found[0].split(".")) if found else ()


def refused_message(where: str, message: str, *, known: bool) -> str:
    """What a client says of a call that the server does not take from who calls.

    Args:
        where: The server's address.
        message: What the server said.
        known: Whether the server knows the token, which then does not allow what was asked.
    """
    remedy = "`diminuendo config set NAME --token-file FILE`, or DIMINUENDO_TOKEN"
    if known:
        return f"the server at {where} does not allow that: {message}; give a token that does, with {remedy}"
    return f"the server at {where} does not let this client in: {message}; give another token, with {remedy}"
