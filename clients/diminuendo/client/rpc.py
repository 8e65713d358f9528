"""Calls over one gRPC channel: deadlines, retries, streams that resume, errors from google.rpc details."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.rpc import error_details_pb2  # type: ignore[import-untyped, unused-ignore]
from grpc_status import rpc_status  # type: ignore[import-untyped, unused-ignore]

from diminuendo.client import errors
from diminuendo.client.caller import Caller, Metadata, refused_message, said_version, version_error
from diminuendo.client.config import Access, ClientConfig, RetryPolicy, is_loopback
from diminuendo.client.oneline import one_line
from diminuendo.client.traces import trace_metadata

Answer = TypeVar("Answer")

_MAX_MESSAGE = 8 * 2**20
CUTS = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.ABORTED,
}
"""Codes after which a stream that only reads is worth opening again."""

_CLASSES: dict[grpc.StatusCode, type[errors.DiminuendoError]] = {
    grpc.StatusCode.UNAVAILABLE: errors.ServerUnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.ServerUnavailableError,
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidArgumentError,
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidArgumentError,
    grpc.StatusCode.NOT_FOUND: errors.NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: errors.AlreadyExistsError,
    grpc.StatusCode.FAILED_PRECONDITION: errors.FailedPreconditionError,
    grpc.StatusCode.ABORTED: errors.ConflictError,
    grpc.StatusCode.UNAUTHENTICATED: errors.UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDeniedError,
}


_ANSWERED = (grpc.Call, grpc.aio.AioRpcError)
"""Errors that know how the call ended."""
_UNKNOWN_FIELD = "UNKNOWN_FIELD"
"""Reason of a server for which a request has fields of a later version."""
_NOBODY = Access()


class Backoff:
    """Pauses between tries: exponential, with jitter, counted from the last progress on."""

    def __init__(self, policy: RetryPolicy, closed: threading.Event) -> None:
        """Pause by the policy; a set `closed` ends a pause at once."""
        self._policy = policy
        self._closed = closed
        self.progress()

    def progress(self) -> None:
        """Something came: the pauses and the time without progress start anew."""
        self._tries = 0
        self._since: float | None = None

    @property
    def failing_s(self) -> float:
        """Seconds since the first pause after the last progress."""
        return 0.0 if self._since is None else time.monotonic() - self._since

    def next_s(self) -> float:
        """How long to wait before the next try; whoever asks waits so long, and counts as failing from now on."""
        if self._since is None:
            self._since = time.monotonic()
        longest = min(self._policy.max_s, self._policy.initial_s * self._policy.factor**self._tries)
        self._tries += 1
        return random.uniform(longest / 2, longest)

    def pause(self) -> None:
        """Wait before the next try."""
        self._closed.wait(self.next_s())


class Connection:
    """One channel to one server."""

    def __init__(self, target: str, config: ClientConfig, access: Access = _NOBODY) -> None:
        """Open a channel; nothing is sent before the first call.

        Raises:
            InvalidArgumentError: The access cannot be, see `Access.check`, or a file of it cannot be read.
        """
        access.check(target)
        self.target = target
        self._where = f"{target} by TLS" if access.tls else target
        self.caller = Caller(access)
        self.config = config
        self.closed = threading.Event()
        self.without_urls: set[str] = set()  # `put`, `get`: for what the server's store gives no URL that can be used
        self._answered = False
        self._version: str | None = None
        self.channel = _channel(target, access)
        self._probe: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(
            "/grpc.health.v1.Health/Check", request_serializer=bytes, response_deserializer=bytes
        )

    def close(self) -> None:
        """Close the channel; calls under way end with an error."""
        self.closed.set()
        self.channel.close()

    def call(
        self,
        method: grpc.UnaryUnaryMultiCallable[Any, Answer],
        request: object,
        *,
        timeout_s: float | None = None,
    ) -> Answer:
        """One call; while the server is away it is tried again for `connect_s`, at most until its deadline.

        Raises:
            DiminuendoError: By the status code; see `errors`.
        """
        deadline = time.monotonic() + (self.config.timeout_s if timeout_s is None else timeout_s)
        self._require_server(deadline)
        backoff = Backoff(self.config.retry, self.closed)
        while True:
            metadata = self.caller.metadata
            try:
                left_s = max(0.001, deadline - time.monotonic())
                return method(request, timeout=left_s, metadata=(*metadata, *trace_metadata()))
            except grpc.RpcError as error:
                if self._token_renewed(error, metadata):
                    continue
                patient = backoff.failing_s < self.config.connect_s and time.monotonic() < deadline
                if self.closed.is_set() or code_of(error) is not grpc.StatusCode.UNAVAILABLE or not patient:
                    raise error_from(error, self._where) from error
            backoff.pause()

    def stream(
        self,
        method: grpc.UnaryStreamMultiCallable[Any, Answer],
        request: Callable[[], object],
        *,
        until: float | None = None,
        on_cut: Callable[[errors.DiminuendoError], None] | None = None,
    ) -> Generator[Answer, None, None]:
        """Messages of a stream, which is opened again after every cut.

        Args:
            method: The streaming method.
            request: Makes the request for the next opening, from where the reader now is.
            until: When to stop (time.monotonic); the stream then ends as if the server had ended it.
            on_cut: Told each time that the stream was cut and is tried again.

        Raises:
            DiminuendoError: By the status code, or after `patience_s` without a message.
        """
        self._require_server(until)
        backoff = Backoff(self.config.retry, self.closed)
        while (left_s := self._stream_s(until)) > 0:
            opened = time.monotonic()
            metadata = self.caller.metadata
            call = method(request(), timeout=left_s, metadata=metadata)
            try:
                for message in call:
                    backoff.progress()
                    yield message
                return
            except grpc.RpcError as error:
                if self._token_renewed(error, metadata):
                    continue
                failure = error_from(error, self._where)
                if self.closed.is_set() or code_of(error) not in CUTS:
                    raise failure from error
                own_deadline = code_of(error) is grpc.StatusCode.DEADLINE_EXCEEDED
            finally:
                # A stream that is dropped without this is never collected, and the server goes on sending.
                call.cancel()
            lived_s = time.monotonic() - opened
            if lived_s >= min(self.config.connect_s, 0.9 * left_s):  # it was up, and had nothing to say
                backoff.progress()
            if not (own_deadline and lived_s >= 0.9 * left_s):
                self._reconnect(backoff, failure, on_cut)

    def send(self, method: grpc.StreamUnaryMultiCallable[Any, Answer], requests: Iterator[object]) -> Answer:
        """One call whose request is a stream, of `stream_s` at most. Not tried again: ask first what has arrived.

        Raises:
            ServerUnavailableError: It was cut, or its token was refused and there is a newer one by now.
            DiminuendoError: By the status code; see `errors`.
        """
        self._require_server(None)
        metadata = self.caller.metadata
        try:
            return method(requests, timeout=self.config.stream_s, metadata=metadata)
        except grpc.RpcError as error:
            failure = error_from(error, self._where)
            cut = code_of(error) in CUTS and not isinstance(failure, errors.ConflictError)
            if cut or self._token_renewed(error, metadata):
                raise errors.ServerUnavailableError(failure.message, reason=failure.reason) from error
            raise failure from error

    def server_version(self, timeout_s: float | None = None) -> str | None:
        """The server's version, such as ``0.1.0``; None where it does not say.

        Raises:
            ServerUnavailableError: Nobody answers.
        """
        self._require_server(time.monotonic() + (self.config.connect_s if timeout_s is None else timeout_s))
        return self._version

    def _token_renewed(self, error: grpc.RpcError, metadata: Metadata) -> bool:
        """Whether the server refused the token that the call was made with, and there is a newer one."""
        return code_of(error) is grpc.StatusCode.UNAUTHENTICATED and self.caller.renewed(metadata)

    def _stream_s(self, until: float | None) -> float:
        """Deadline of the next opening of a stream, in seconds from now."""
        return self.config.stream_s if until is None else min(self.config.stream_s, until - time.monotonic())

    def _reconnect(
        self,
        backoff: Backoff,
        failure: errors.DiminuendoError,
        on_cut: Callable[[errors.DiminuendoError], None] | None,
    ) -> None:
        """Pause until the channel is connected again; raises the failure when patience ends."""
        connected = False
        while not connected:
            if self.closed.is_set() or backoff.failing_s >= self.config.patience_s:
                raise failure
            if on_cut is not None:
                on_cut(failure)
            backoff.pause()
            connected = self._connected(self.config.retry.max_s)

    def _require_server(self, deadline: float | None) -> None:
        """Wait for the first connection: an address that nobody answers at is told apart from a slow call."""
        if self.closed.is_set():
            raise errors.ServerUnavailableError("this client is closed; make another Client")
        if self._answered:
            return
        left_s = self.config.connect_s if deadline is None else deadline - time.monotonic()
        if not self._connected(min(self.config.connect_s, max(0.001, left_s))):
            raise errors.ServerUnavailableError(nobody_at(self._where), reason="NO_SERVER")
        self._answered = True

    def _connected(self, timeout_s: float) -> bool:
        """Whether a server answers in time; any answer will do, also that it knows no health service.

        A probe and no watch on the channel's state: grpcio does that in a thread which raises when the channel
        is closed meanwhile.
        """
        try:
            _, call = self._probe.with_call(b"", timeout=timeout_s, wait_for_ready=True, metadata=self.caller.metadata)
        except grpc.RpcError as error:
            self._version = version_said_by(error)
            return code_of(error) not in CUTS
        self._version = said_version(call.initial_metadata())
        return True


def error_from(error: grpc.RpcError, where: str) -> errors.DiminuendoError:
    """The client's error for a call that failed: class by code, text and fields from google.rpc details."""
    code = code_of(error)
    details = error.details() if isinstance(error, _ANSWERED) else str(error)
    info, violations = _google_rpc(error)
    message = one_line(details or "") or f"the server at {where} answered {code.name} without a message"
    kind = _CLASSES.get(code, errors.ServerError)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return version_error(where, message, version_said_by(error), reason=info.reason)
    if kind is errors.InvalidArgumentError:
        text = "; ".join(f"{item.field}: {item.description}" for item in violations)
        if info.reason == _UNKNOWN_FIELD:
            return version_error(where, text or message, version_said_by(error), reason=info.reason)
        return errors.InvalidArgumentError(text or message, reason=info.reason, violations=violations)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        message = f"the server at {where} did not answer in time; try again, or give a longer timeout"
    elif code is grpc.StatusCode.UNAVAILABLE and not info.reason:
        message = nobody_at(where)
    elif code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        message = refused_message(where, message, known=code is grpc.StatusCode.PERMISSION_DENIED)
    elif kind is errors.ServerError:
        message = f"the server at {where} failed ({code.name}): {message}; see its log"
    return kind(message, reason=info.reason)


def version_said_by(error: grpc.RpcError) -> str | None:
    """The version of the server that failed a call; None where it does not say."""
    if not isinstance(error, _ANSWERED):
        return None
    return said_version(error.trailing_metadata()) or said_version(error.initial_metadata())


def _google_rpc(error: grpc.RpcError) -> tuple[error_details_pb2.ErrorInfo, list[errors.Violation]]:
    """ErrorInfo (empty when absent) and BadRequest's violations."""
    info = error_details_pb2.ErrorInfo()
    violations: list[errors.Violation] = []
    try:
        status = rpc_status.from_call(error) if isinstance(error, _ANSWERED) else None
    except ValueError:  # details that contradict the status itself: the status counts
        status = None
    if status is None:
        return info, violations
    for detail in status.details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            violations += [errors.Violation(item.field, one_line(item.description)) for item in bad.field_violations]
        else:
            detail.Unpack(info)
    return info, violations


def code_of(error: grpc.RpcError) -> grpc.StatusCode:
    """The status code of a call that failed; UNKNOWN where it has none."""
    code = error.code() if isinstance(error, _ANSWERED) else None
    return code if code is not None else grpc.StatusCode.UNKNOWN


def nobody_at(where: str) -> str:
    """That no server answers, and what to do."""
    remedy = "start one with `diminuendo serve`, or give its address"
    if where.endswith(" by TLS"):
        remedy = "check its address, that it speaks TLS, and that ca_file has the authority of its certificate"
    return f"no Diminuendo server answers at {where}; {remedy}"


def _channel(target: str, access: Access) -> grpc.Channel:
    """A channel, encrypted where that was asked for."""
    if not access.tls:
        return grpc.insecure_channel(target, options=channel_options(target))
    return grpc.secure_channel(target, channel_credentials(access), options=channel_options(target))


def channel_credentials(access: Access) -> grpc.ChannelCredentials:
    """What TLS needs; InvalidArgumentError where a file of it cannot be read."""
    roots, key, chain = (_pem(access, name) for name in ("ca_file", "key_file", "cert_file"))
    return grpc.ssl_channel_credentials(roots, key, chain)


def _pem(access: Access, name: str) -> bytes | None:
    path: Path | None = getattr(access, name)
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        kind = "the key of cert_file" if name == "key_file" else "certificates"
        raise errors.InvalidArgumentError.of(
            name, f"{path} cannot be read ({error.strerror}); give a PEM file of {kind}"
        ) from error


def channel_options(target: str) -> list[tuple[str, int | str]]:
    """Options of every channel to the target."""
    options: list[tuple[str, int | str]] = [
        ("grpc.max_receive_message_length", _MAX_MESSAGE),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", 2000),
        ("grpc.primary_user_agent", "diminuendo-client"),
    ]
    if is_loopback(target):
        # A proxy from the environment cannot reach this machine's own ports.
        options.append(("grpc.enable_http_proxy", 0))
    return options
