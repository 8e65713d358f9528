"""Tells every caller the conductor's version, and one of another version what this one does not know."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias, cast

import grpc
from grpc.aio import ServicerContext

from diminuendo.services.common.errors import UnknownMethodError, to_status
from diminuendo.services.common.version import VERSION_KEY, own_version

_OURS = "/diminuendo."
_Context: TypeAlias = "ServicerContext[Any, Any]"
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_MAKE = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}
"""Handlers by whether requests and answers are streams."""


class VersionInterceptor(grpc.aio.ServerInterceptor):
    """Sends the version with each answer. To be the outermost one.

    One answer of ours has it in its trailing metadata, which costs nothing; to send metadata before it would be a frame
    more. Streams, and what others made, have it in their initial metadata. Errors bring it along: see `to_status`.
    """

    def __init__(self) -> None:
        """Nothing has been called yet."""
        self._metadata = ((VERSION_KEY, own_version()),)
        self._wrapped: dict[str, _Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """The handler of the call, which says the version."""
        path = str(handler_call_details.method)
        if path in self._wrapped:
            return self._wrapped[path]
        handler = await continuation(handler_call_details)
        if handler is None:
            # Not kept: callers may think of any number of names.
            return grpc.unary_unary_rpc_method_handler(self._unknown(path)) if path.startswith(_OURS) else None
        kind, make = _MAKE[handler.request_streaming, handler.response_streaming]
        later = path.startswith(_OURS) and not handler.response_streaming
        self._wrapped[path] = wrapped = make(
            cast("Any", self._telling(getattr(handler, kind), later=later)),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return wrapped

    def _telling(self, behaviour: Any, *, later: bool) -> Callable[[Any, _Context], Any]:
        async def call(request: Any, context: _Context) -> Any:
            if later:
                context.set_trailing_metadata(self._metadata)
            else:
                await context.send_initial_metadata(self._metadata)
            return await behaviour(request, context)

        async def stream(request: Any, context: _Context) -> AsyncIterator[Any]:
            await context.send_initial_metadata(self._metadata)
            async for reply in behaviour(request, context):
                yield reply

        return stream if inspect.isasyncgenfunction(behaviour) else call

    def _unknown(self, path: str) -> Callable[[Any, _Context], Awaitable[Any]]:
        async def call(_request: Any, context: _Context) -> None:
            said = [str(value) for key, value in context.invocation_metadata() or () if key == VERSION_KEY]
            caller = f"a caller of version {said[0]}" if said else "a caller that does not say its version"
            name = path.rpartition("/")[2]
            await context.abort_with_status(
                to_status(
                    UnknownMethodError(
                        f"{name[:100]!r} is not known to this server of version {own_version()}, and was asked for by "
                        f"{caller[:100]}; update the older of them",
                        method=path[:200],
                    )
                )
            )

        return call
