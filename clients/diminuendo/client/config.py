"""How a client connects and who it says it is, how long it waits and when it tries again."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diminuendo.client.errors import InvalidArgumentError

DEFAULT_TARGET = "127.0.0.1:50300"
_TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with full jitter.

    Attributes:
        initial_s: Longest pause before the second try.
        factor: How much the longest pause grows with each try.
        max_s: Where it stops growing.
    """

    initial_s: float = 0.1
    factor: float = 2.0
    max_s: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """Everything that a client can be told apart from whom to call.

    Attributes:
        timeout_s: Deadline of a call, its retries included.
        connect_s: How long a server may take to answer at all, and how long calls are retried while it is
            away.
        stream_s: Deadline of one stream; it is then resumed where it was. Bounds how long a dead connection
            can go unnoticed.
        patience_s: How long a stream that was cut is tried again without any progress.
        page_size: Jobs fetched at once by `Client.list`.
        retry: The pauses between tries.
    """

    timeout_s: float = 10.0
    connect_s: float = 4.0
    stream_s: float = 120.0
    patience_s: float = 60.0
    page_size: int = 100
    retry: RetryPolicy = field(default_factory=RetryPolicy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who a client says it is, and whether the line is encrypted.

    Attributes:
        token: Sent with every call as ``authorization: Bearer TOKEN``; None sends none.
        token_file: A file with the token, in place of `token`. It is read again when the server refuses the token, so
            that one that is renewed there is taken up, also by a watch under way.
        renew_token: Asked for the token of the moment when the server refuses the one before; None where there is no
            newer one.
        tls: Whether the server is spoken to by TLS, which checks its certificate.
        ca_file: PEM file of the authorities that are trusted; None: those that gRPC trusts.
        cert_file: PEM file of a certificate of this client's own, where the server asks for one.
        key_file: PEM file of that certificate's key.
        allow_insecure_token: Whether a token may leave this machine on a line that is not encrypted.
    """

    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    renew_token: Callable[[], str | None] | None = field(default=None, repr=False, compare=False)
    tls: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    allow_insecure_token: bool = False

    @classmethod
    def of(
        cls,
        *,
        token_file: Path | str | None = None,
        ca_file: Path | str | None = None,
        cert_file: Path | str | None = None,
        key_file: Path | str | None = None,
        **given: Any,
    ) -> Access:
        """An access whose files may also be given as text; everything else as in the class."""
        files = {"token_file": token_file, "ca_file": ca_file, "cert_file": cert_file, "key_file": key_file}
        given |= {name: Path(path) for name, path in files.items() if path is not None}
        return cls(**given)

    def check(self, target: str) -> None:
        """Refuse what cannot be, and to send the token where others can read it.

        Raises:
            InvalidArgumentError: The token is no token, or is given twice, a file for TLS is given without TLS or
                without its counterpart, or the token would go unencrypted to another machine.
        """
        for name in ("ca_file", "cert_file", "key_file"):
            if getattr(self, name) is not None and not self.tls:
                raise InvalidArgumentError.of(name, f"{getattr(self, name)} is for TLS; switch tls on as well")
        if (self.cert_file is None) != (self.key_file is None):
            given, other = ("cert_file", "key_file") if self.key_file is None else ("key_file", "cert_file")
            raise InvalidArgumentError.of(given, f"{getattr(self, given)} is of no use alone; give {other} as well")
        if self.token is None and self.token_file is None:
            return
        if self.token is not None:
            check_token(self.token)
            if self.token_file is not None:
                raise InvalidArgumentError.of("token_file", f"{self.token_file} is beside a token; give one of them")
        if not self.tls and not self.allow_insecure_token and not is_loopback(target):
            raise InvalidArgumentError.of(
                "token",
                f"it would go unencrypted to {target}, which is not this machine; switch tls on, or set"
                " allow_insecure_token where the line is safe",
            )


def read_token(path: Path) -> str:
    """The token that a file holds, without the blanks around it.

    Raises:
        InvalidArgumentError: The file cannot be read, or holds no token; what it holds is not shown.
    """
    try:
        return check_token(path.read_text(encoding="utf-8").strip())
    except OSError as error:
        text = f"{path} cannot be read ({error.strerror}); give a file with the token alone"
    except UnicodeDecodeError:
        text = f"{path} is no text; give a file with the token alone"
    raise InvalidArgumentError.of("token_file", text)


def check_token(token: str) -> str:
    """The token, when it can be sent; InvalidArgumentError, which does not show it, otherwise."""
    if not _TOKEN.fullmatch(token):
        raise InvalidArgumentError.of("token", "it is empty, or has letters that no token has; give visible ASCII")
    return token


def check_target(target: str) -> str:
    """``HOST:PORT``; InvalidArgumentError otherwise."""
    if not re.fullmatch(r"\S+:\d+", target):
        raise InvalidArgumentError.of("server", f"{target!r} is not HOST:PORT; give {DEFAULT_TARGET}, say")
    return target


def is_loopback(target: str) -> bool:
    """Whether ``HOST:PORT`` is on this machine, by its name alone: nothing is looked up."""
    host = target.rpartition(":")[0].removeprefix("[").removesuffix("]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
