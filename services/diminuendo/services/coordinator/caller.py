"""Who a coordinator says it is to the conductor, and by what kind of line: its token, its version, TLS."""

from __future__ import annotations

import ipaddress
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from diminuendo.services.common.errors import StartError
from diminuendo.services.common.version import VERSION_KEY, own_version
from diminuendo.services.coordinator.settings import CoordinatorSettings

_VISIBLE = re.compile(r"[\x21-\x7e]+")


class Caller:
    """What each call says of this coordinator. Safe to use from several threads."""

    def __init__(self, settings: CoordinatorSettings) -> None:
        """Read the token and what TLS needs.

        Raises:
            StartError: A file cannot be used, the token is none, or it would go unencrypted to another machine.
        """
        self._file = settings.token_file
        self._lock = threading.Lock()
        own = settings.token.get_secret_value()
        if own and self._file is not None:
            raise StartError(
                f"--token-file {str(self._file)!r} is beside DIMINUENDO_COORDINATOR_TOKEN; give one of them"
            )
        self._token = own if self._file is None else _read(self._file)
        if own and not _VISIBLE.fullmatch(own):
            raise StartError("DIMINUENDO_COORDINATOR_TOKEN has letters that no token has; give visible ASCII")
        if self._token and not (settings.tls or settings.allow_insecure_token or _is_loopback(settings.conductor)):
            raise StartError(
                f"the token would go unencrypted to {settings.conductor}, which is not this machine; give --tls, or "
                "--allow-insecure-token where the line is safe"
            )
        self._credentials = _credentials(settings) if settings.tls else None

    def channel(self, target: str, options: tuple[tuple[str, object], ...]) -> grpc.Channel:
        """A channel whose calls, of one request and one answer, say who calls."""
        if self._credentials is None:
            channel = grpc.insecure_channel(target, options=options)
        else:
            channel = grpc.secure_channel(target, self._credentials, options=options)
        return grpc.intercept_channel(channel, _Saying(self))

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """For the next call."""
        said = ((VERSION_KEY, own_version()),)
        return (("authorization", f"Bearer {self._token}"), *said) if self._token else said

    def renew(self) -> None:
        """Read the token's file again: the conductor has refused what it held."""
        if self._file is None:
            return
        with self._lock:
            try:
                self._token = _read(self._file)
            except StartError:  # it is being written, say; the call is made again
                return


class _Details(NamedTuple):
    """The details of a call, as gRPC asks for them."""

    method: str
    timeout: float | None
    metadata: tuple[tuple[str, str], ...]
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class _Saying(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc, unused-ignore]
    """Puts the caller's metadata into each call."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def intercept_unary_unary(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        """The call, with what is said."""
        metadata = (*(details.metadata or ()), *self._caller.metadata)
        asked = _Details(
            details.method,
            details.timeout,
            metadata,
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )
        return continuation(asked, request)


def _read(path: Path) -> str:
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise StartError(f"--token-file {str(path)!r} cannot be read ({reason}); give a file with the token") from None
    if not _VISIBLE.fullmatch(token):
        raise StartError(f"--token-file {str(path)!r} holds no token; give a file with the token alone")
    return token


def _credentials(settings: CoordinatorSettings) -> grpc.ChannelCredentials:
    def content(option: str, path: Path | None) -> bytes | None:
        try:
            return None if path is None else path.read_bytes()
        except OSError as error:
            raise StartError(f"{option} {str(path)!r} cannot be read ({error.strerror}); give a PEM file") from None

    roots, key = content("--ca-file", settings.ca_file), content("--key-file", settings.key_file)
    return grpc.ssl_channel_credentials(roots, key, content("--cert-file", settings.cert_file))


def _is_loopback(target: str) -> bool:
    host = target.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
