"""Calls over one channel of grpc.aio: deadlines, retries, streams that resume, as `diminuendo.client.rpc` has them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from diminuendo.v1 import (
    artifact_service_pb2_grpc,
    cluster_service_pb2_grpc,
    fleet_service_pb2_grpc,
    job_service_pb2_grpc,
)

from diminuendo.client import errors
from diminuendo.client.caller import Caller, Metadata, said_version
from diminuendo.client.config import Access, ClientConfig
from diminuendo.client.rpc import (
    CUTS,
    Backoff,
    channel_credentials,
    channel_options,
    code_of,
    error_from,
    nobody_at,
    version_said_by,
)
from diminuendo.client.traces import trace_metadata

if TYPE_CHECKING:
    from diminuendo.v1.artifact_service_pb2_grpc import ArtifactServiceAsyncStub
    from diminuendo.v1.cluster_service_pb2_grpc import ClusterServiceAsyncStub
    from diminuendo.v1.fleet_service_pb2_grpc import FleetServiceAsyncStub
    from diminuendo.v1.job_service_pb2_grpc import JobServiceAsyncStub

Answer = TypeVar("Answer")


class _Line:
    """A channel, and what is called over it."""

    def __init__(self, target: str, credentials: grpc.ChannelCredentials | None) -> None:
        options = channel_options(target)
        if credentials is None:
            self.channel = grpc.aio.insecure_channel(target, options=options)
        else:
            self.channel = grpc.aio.secure_channel(target, credentials, options=options)
        self.loop = asyncio.get_running_loop()
        self.jobs: JobServiceAsyncStub = job_service_pb2_grpc.JobServiceStub(self.channel)
        self.artifacts: ArtifactServiceAsyncStub = artifact_service_pb2_grpc.ArtifactServiceStub(self.channel)
        self.fleets: FleetServiceAsyncStub = fleet_service_pb2_grpc.FleetServiceStub(self.channel)
        self.clusters: ClusterServiceAsyncStub = cluster_service_pb2_grpc.ClusterServiceStub(self.channel)
        self.probe: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(
            "/grpc.health.v1.Health/Check", request_serializer=bytes, response_deserializer=bytes
        )


class AsyncConnection:
    """One channel to one server, opened at the first call; from then on it belongs to that call's event loop.

    Attributes:
        target: ``HOST:PORT`` of the server.
        caller: What calls say of who calls.
        config: How long it waits, and when it tries again.
        closed: Set once it is closed.
        without_urls: ``put``, ``get``: for what the server's store gives no URL that can be used.
    """

    def __init__(self, target: str, config: ClientConfig, access: Access) -> None:
        """Make a connection; nothing is sent before the first call.

        Raises:
            InvalidArgumentError: The access cannot be, see `Access.check`, or a file of it cannot be read.
        """
        access.check(target)
        self.target = target
        self.caller = Caller(access)
        self.config = config
        self.closed = threading.Event()
        self.without_urls: set[str] = set()
        self._where = f"{target} by TLS" if access.tls else target
        self._credentials = channel_credentials(access) if access.tls else None
        self._line: _Line | None = None
        self._closing = asyncio.Event()
        self._answered = False
        self._version: str | None = None

    @property
    def jobs(self) -> JobServiceAsyncStub:
        """The calls of JobService."""
        return self._opened().jobs

    @property
    def artifacts(self) -> ArtifactServiceAsyncStub:
        """The calls of ArtifactService."""
        return self._opened().artifacts

    @property
    def fleets(self) -> FleetServiceAsyncStub:
        """The calls of FleetService."""
        return self._opened().fleets

    @property
    def clusters(self) -> ClusterServiceAsyncStub:
        """The calls of ClusterService."""
        return self._opened().clusters

    def _opened(self) -> _Line:
        """The line, opened where it was not.

        Raises:
            ServerUnavailableError: The connection is closed.
            DiminuendoError: It belongs to another event loop.
        """
        if self.closed.is_set():
            raise self._is_closed()
        if self._line is None:
            self._line = _Line(self.target, self._credentials)
        elif self._line.loop is not asyncio.get_running_loop():
            raise errors.DiminuendoError(
                f"this client of {self.target} has made calls in another event loop; make an AsyncClient in each"
            )
        return self._line

    async def close(self) -> None:
        """Close the channel; calls under way end with an error."""
        self.closed.set()
        self._closing.set()
        line, self._line = self._line, None
        if line is not None and line.loop is asyncio.get_running_loop():  # else its loop took it along
            await line.channel.close()

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Any, Answer],
        request: object,
        *,
        timeout_s: float | None = None,
    ) -> Answer:
        """One call; while the server is away it is tried again for `connect_s`, at most until its deadline.

        Raises:
            DiminuendoError: By the status code; see `errors`.
        """
        deadline = time.monotonic() + (self.config.timeout_s if timeout_s is None else timeout_s)
        await self._require_server(deadline)
        backoff = self.backoff()
        while True:
            metadata = self.caller.metadata
            try:
                left_s = max(0.001, deadline - time.monotonic())
                with self._closing_is_an_error():
                    return await method(request, timeout=left_s, metadata=(*metadata, *trace_metadata()))
            except grpc.RpcError as error:
                if await self._token_renewed(error, metadata):
                    continue
                patient = backoff.failing_s < self.config.connect_s and time.monotonic() < deadline
                if self.closed.is_set() or code_of(error) is not grpc.StatusCode.UNAVAILABLE or not patient:
                    raise error_from(error, self._where) from error
            await self.pause(backoff)

    async def stream(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[Any, Answer],
        request: Callable[[], object],
        *,
        until: float | None = None,
        on_cut: Callable[[errors.DiminuendoError], None] | None = None,
    ) -> AsyncGenerator[Answer, None]:
        """Messages of a stream, which is opened again after every cut; see `Connection.stream`.

        Closing the generator, or cancelling the task that waits for it, ends the stream on the server as well.

        Raises:
            DiminuendoError: By the status code, or after `patience_s` without a message.
        """
        await self._require_server(until)
        backoff = self.backoff()
        while (left_s := self._stream_s(until)) > 0:
            opened = time.monotonic()
            metadata = self.caller.metadata
            call = method(request(), timeout=left_s, metadata=metadata)
            try:
                with self._closing_is_an_error():
                    async for message in call:
                        backoff.progress()
                        yield message
                return
            except grpc.RpcError as error:
                if await self._token_renewed(error, metadata):
                    continue
                failure = error_from(error, self._where)
                if self.closed.is_set() or code_of(error) not in CUTS:
                    raise failure from error
                own_deadline = code_of(error) is grpc.StatusCode.DEADLINE_EXCEEDED
            finally:
                call.cancel()
            lived_s = time.monotonic() - opened
            if lived_s >= min(self.config.connect_s, 0.9 * left_s):  # it was up, and had nothing to say
                backoff.progress()
            if not (own_deadline and lived_s >= 0.9 * left_s):
                await self._reconnect(backoff, failure, on_cut)

    async def send(
        self, method: grpc.aio.StreamUnaryMultiCallable[Any, Answer], requests: AsyncIterator[object]
    ) -> Answer:
        """One call whose request is a stream, of `stream_s` at most. Not tried again: ask first what has arrived.

        Args:
            method: The method.
            requests: Raises nothing: grpc.aio would tell nobody.

        Raises:
            ServerUnavailableError: It was cut, or ended while it was sent, or its token was refused and there is a
                newer one by now.
            DiminuendoError: By the status code; see `errors`.
        """
        await self._require_server(None)
        metadata = self.caller.metadata
        try:
            with self._closing_is_an_error():
                return await method(requests, timeout=self.config.stream_s, metadata=metadata)
        except grpc.RpcError as error:
            failure = error_from(error, self._where)
            cut = code_of(error) in CUTS and not isinstance(failure, errors.ConflictError)
            if cut or _ended_while_sending(error) or await self._token_renewed(error, metadata):
                raise errors.ServerUnavailableError(failure.message, reason=failure.reason) from error
            raise failure from error

    async def server_version(self, timeout_s: float | None = None) -> str | None:
        """The server's version, such as ``0.1.0``; None where it does not say.

        Raises:
            ServerUnavailableError: Nobody answers.
        """
        await self._require_server(time.monotonic() + (self.config.connect_s if timeout_s is None else timeout_s))
        return self._version

    def backoff(self) -> Backoff:
        """Pauses for `pause`."""
        return Backoff(self.config.retry, self.closed)

    async def pause(self, backoff: Backoff) -> None:
        """Wait before the next try.

        Raises:
            ServerUnavailableError: The connection was closed, which ends the pause at once.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(backoff.next_s()):
                await self._closing.wait()
        if self.closed.is_set():
            raise self._is_closed()

    async def _token_renewed(self, error: grpc.RpcError, metadata: Metadata) -> bool:
        """Whether the server refused the token that the call was made with, and there is a newer one."""
        if code_of(error) is not grpc.StatusCode.UNAUTHENTICATED:
            return False
        return await asyncio.to_thread(self.caller.renewed, metadata)

    def _stream_s(self, until: float | None) -> float:
        """Deadline of the next opening of a stream, in seconds from now."""
        return self.config.stream_s if until is None else min(self.config.stream_s, until - time.monotonic())

    async def _reconnect(
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
            await self.pause(backoff)
            connected = await self._connected(self.config.retry.max_s)

    async def _require_server(self, deadline: float | None) -> None:
        """Wait for the first connection: an address that nobody answers at is told apart from a slow call."""
        if self.closed.is_set():
            raise self._is_closed()
        if self._answered:
            return
        left_s = self.config.connect_s if deadline is None else deadline - time.monotonic()
        if not await self._connected(min(self.config.connect_s, max(0.001, left_s))):
            raise errors.ServerUnavailableError(nobody_at(self._where), reason="NO_SERVER")
        self._answered = True

    async def _connected(self, timeout_s: float) -> bool:
        """Whether a server answers in time; any answer will do, also that it knows no health service."""
        try:
            with self._closing_is_an_error():
                call = self._opened().probe(b"", timeout=timeout_s, wait_for_ready=True, metadata=self.caller.metadata)
                await call
                self._version = said_version(await call.initial_metadata())
        except grpc.RpcError as error:
            self._version = version_said_by(error)
            return code_of(error) not in CUTS
        return True

    @contextlib.contextmanager
    def _closing_is_an_error(self) -> Iterator[None]:
        """grpc.aio cancels whoever waits for a call on a channel that is closed; nobody cancelled the task."""
        try:
            yield
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self.closed.is_set() and task is not None and not task.cancelling():
                raise self._is_closed() from None
            raise

    @staticmethod
    def _is_closed() -> errors.ServerUnavailableError:
        return errors.ServerUnavailableError("this client is closed; make another AsyncClient")


def _ended_while_sending(error: grpc.RpcError) -> bool:
    """Whether a call had ended while its request was still sent: grpc.aio then hides what it ended with.

    The code is INTERNAL, which here is grpc.aio's own word and none of the server's.
    """
    hidden = isinstance(error, grpc.aio.AioRpcError) and "execute_batch" in (error.debug_error_string() or "")
    return hidden and code_of(error) is grpc.StatusCode.INTERNAL
