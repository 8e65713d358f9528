"""What happens around every call: its errors go out as google.rpc.Status, it is counted, timed and traced."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, aclosing, contextmanager, nullcontext, suppress
from typing import Any, TypeAlias

import grpc
from grpc.aio import AbortError, ServicerContext

from diminuendo.services.common import logs, tracing
from diminuendo.services.common.errors import DiminuendoError, InternalError, StoppingError, to_status
from diminuendo.services.conductor.metrics import Metrics
from diminuendo.services.conductor.notify import wait

OURS = "/diminuendo."
TRACE_PARENT = "traceparent"
"""Key of the metadata that says which span of the caller's a call belongs to, by W3C Trace Context."""
TRACED = frozenset({"CreateJob", "BatchCreateJobs"})
"""Calls that are traced also where their caller does not trace: evaluations are linked to them."""
_log = logs.get(__name__)
_Context = ServicerContext[Any, Any]
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of our own services; health and reflection pass as they are."""

    def __init__(self, metrics: Metrics) -> None:
        """Count into these metrics."""
        self._metrics = metrics
        self._wrapped: dict[str, _Handler] = {}
        self._refusing = False
        self._arrived = asyncio.Event()
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def refuse(self, *, quiet_s: float, at_most_s: float) -> None:
        """Answer new calls with UNAVAILABLE from now on; return when none has come for a moment.

        A server that stops cancels what has reached it but not yet its handlers, and clients do not take CANCELLED
        for a reason to try again. So they are answered first.
        """
        self._refusing = True
        with suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                while await self._call_comes(quiet_s):
                    pass

    async def _call_comes(self, within_s: float) -> bool:
        self._arrived.clear()
        await wait(self._arrived, within_s)
        return self._arrived.is_set()

    async def drained(self, at_most_s: float) -> None:
        """Return when no call of ours is under way. Health watches, which never end, are not waited for."""
        await wait(self._idle, at_most_s)

    def _admit(self) -> None:
        self._arrived.set()
        if self._refusing:
            raise StoppingError("the conductor is stopping; connect again and ask its successor")

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """The handler of the call, wrapped."""
        path = str(handler_call_details.method)
        if path in self._wrapped:
            return self._wrapped[path]
        handler = await continuation(handler_call_details)
        if handler is None or not path.startswith(OURS):
            return handler
        self._wrapped[path] = wrapped = self._wrap(path.rpartition("/")[2], handler)
        return wrapped

    def _wrap(self, method: str, handler: _Handler) -> _Handler:
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(method, handler.unary_stream),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(
                self._unary(method, handler.stream_unary),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(method, handler.unary_unary),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _unary(self, method: str, behaviour: Any) -> Callable[[Any, _Context], Awaitable[Any]]:
        async def call(request: Any, context: _Context) -> Any:
            with _traced(method, context), self._counted(method) as ended:
                try:
                    self._admit()
                    return await behaviour(request, context)
                except Exception as error:  # noqa: BLE001 - each goes to the client, logged
                    await _refuse(method, error, context, ended)

        return call

    def _stream(self, method: str, behaviour: Any) -> Callable[[Any, _Context], Awaitable[None]]:
        async def call(request: Any, context: _Context) -> None:
            with _traced(method, context), self._counted(method, streams=True) as ended:
                try:
                    self._admit()
                    # A generator that the server merely drops when the client leaves is closed at some later
                    # collection; this one is closed here and now, with what it holds.
                    async with aclosing(behaviour(request, context)) as replies:
                        async for reply in replies:
                            await context.write(reply)
                except Exception as error:  # noqa: BLE001 - each goes to the client, logged
                    await _refuse(method, error, context, ended)

        return call

    @contextmanager
    def _counted(self, method: str, *, streams: bool = False) -> Iterator[list[grpc.StatusCode]]:
        """Count the call with the code that is left in the list; OK without one."""
        start = time.monotonic()
        ended: list[grpc.StatusCode] = []
        self._under_way += 1
        self._metrics.began(method)
        self._idle.clear()
        try:
            yield ended
        except asyncio.CancelledError:
            ended.append(grpc.StatusCode.CANCELLED)
            raise
        finally:
            code = ended[-1] if ended else grpc.StatusCode.OK
            self._metrics.count_rpc(method, code, time.monotonic() - start, streams=streams)
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()


def _traced(method: str, context: _Context) -> AbstractContextManager[None]:
    """A span around the call, where it is to be traced."""
    given = next((str(value) for key, value in context.invocation_metadata() or () if key == TRACE_PARENT), "")
    if not given and not (method in TRACED and tracing.active()):
        return nullcontext()
    return tracing.serving(method, given, root=method in TRACED)


async def _refuse(method: str, error: Exception, context: _Context, ended: list[grpc.StatusCode]) -> None:
    """End the call with the error; one that nobody expected is logged under an id that the client is told."""
    if isinstance(error, AbortError):
        raise error
    if not isinstance(error, DiminuendoError):
        error_id = secrets.token_hex(8)
        _log.error("rpc_failed", method=method, error_id=error_id, exc_info=error)
        error = InternalError(
            f"the conductor failed in {method}; look for error id {error_id} in its log", error_id=error_id
        )
    else:
        _log.info("rpc_refused", method=method, code=error.code.name, reason=error.reason, error=str(error))
    ended.append(error.code)
    await context.abort_with_status(to_status(error))
