"""Lets calls in by their tokens, and ends those whose token has ended meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import grpc
import structlog
from google.protobuf.message import Message
from grpc.aio import ServicerContext

from diminuendo.services.common.errors import (
    DiminuendoError,
    TokenExpiredError,
    TokenMissingError,
    TokenUnknownError,
    to_status,
)
from diminuendo.services.conductor import access
from diminuendo.services.conductor.tokens import Token, Tokens

CHECK_S = 1.0
"""How often the tokens' file, and the tokens of calls under way, are looked at."""
OURS = "/diminuendo."
OPEN = "/grpc.health.v1.Health/"
"""What is answered without a token."""
_ASK = "ask who runs this server for a new one"
_Context: TypeAlias = "ServicerContext[Any, Any]"
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


@dataclass(slots=True)
class _Admitted:
    """A call that was let in.

    Attributes:
        sha256: Of its token.
        name: Of its token.
        request: What it asks; None for a stream.
        path: Of its RPC.
        refusal: Why it is no longer let in.
    """

    sha256: bytes
    name: str
    path: str
    request: Message | None
    refusal: DiminuendoError | None = None


class Authenticator(grpc.aio.ServerInterceptor):
    """Checks the token of every call. Its errors are for the interceptor around it to send."""

    def __init__(self, tokens: Tokens) -> None:
        """Know these tokens."""
        self._tokens = tokens
        self._under_way: dict[asyncio.Timeout, _Admitted] = {}

    async def watch(self) -> None:
        """For as long as the server runs: look at the file, and end the calls of tokens that have ended."""
        while True:
            await asyncio.sleep(CHECK_S)
            await asyncio.to_thread(self._tokens.refresh)
            for scope, call in list(self._under_way.items()):
                if call.refusal is None:
                    try:
                        self._check(call)
                    except DiminuendoError as error:
                        call.refusal = error
                        scope.reschedule(asyncio.get_running_loop().time())

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """The handler of the call, behind the check of its token."""
        path = str(handler_call_details.method)
        handler = await continuation(handler_call_details)
        if handler is None or path.startswith(OPEN):
            return handler
        return self._checked(path, handler) if path.startswith(OURS) else self._closed(path, handler)

    def _checked(self, path: str, handler: _Handler) -> _Handler:
        """One of our own, whose RPC has a rule."""
        codec = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(self._stream(path, handler.unary_stream), **codec)
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(self._unary(path, handler.stream_unary, True), **codec)
        return grpc.unary_unary_rpc_method_handler(self._unary(path, handler.unary_unary, False), **codec)

    def _unary(self, path: str, behaviour: Any, streamed: bool) -> Callable[[Any, _Context], Awaitable[Any]]:
        async def call(request: Any, context: _Context) -> Any:
            admitted = self._admit(path, None if streamed else request, context)
            with self._lasting(admitted) as scope:
                async with scope:
                    return await behaviour(request, context)

        return call

    def _stream(self, path: str, behaviour: Any) -> Callable[[Any, _Context], AsyncIterator[Any]]:
        async def call(request: Any, context: _Context) -> AsyncIterator[Any]:
            admitted = self._admit(path, request, context)
            async with aclosing(behaviour(request, context)) as replies:
                while True:
                    # Each step in a scope of its own: a scope must not be left open while the reply is on its way.
                    with self._lasting(admitted) as scope:
                        async with scope:
                            reply = await anext(replies, None)
                    if reply is None:
                        return
                    yield reply

        return call

    @contextmanager
    def _lasting(self, call: _Admitted) -> Iterator[asyncio.Timeout]:
        """A scope that ends, with the refusal, when the call's token does."""
        if call.refusal is not None:
            raise call.refusal
        scope = asyncio.timeout(None)
        self._under_way[scope] = call
        try:
            yield scope
        except TimeoutError:
            if call.refusal is not None and scope.expired():
                raise call.refusal from None
            raise
        finally:
            del self._under_way[scope]

    def _closed(self, path: str, handler: _Handler) -> _Handler:
        """What others made, such as reflection: any token will do."""

        async def call(requests: Any, context: _Context) -> AsyncIterator[Any]:
            try:
                self._find(context)
            except DiminuendoError as error:
                await context.abort_with_status(to_status(error))
            async for reply in behaviour(requests, context):
                yield reply

        behaviour: Any = handler.stream_stream
        if behaviour is None:
            raise TypeError(f"{path} is no stream of requests and answers; say how its token is checked")
        return grpc.stream_stream_rpc_method_handler(
            cast("Any", call),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _admit(self, path: str, request: Message | None, context: _Context) -> _Admitted:
        token = self._find(context)
        structlog.contextvars.bind_contextvars(caller=token.name)  # of this call's own task
        access.check(token, path, request)
        return _Admitted(token.sha256, token.name, path, request)

    def _find(self, context: _Context) -> Token:
        """The token of a call.

        Raises:
            TokenMissingError: There is none, or it is not sent as it should be.
            TokenUnknownError: It is not one of ours.
            TokenExpiredError: Its time is over.
        """
        said = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
        if not said:
            raise TokenMissingError(f"this server takes no call without a token; {_ASK}")
        scheme, _, token = str(said[0]).partition(" ")
        if len(said) > 1 or scheme.lower() != "bearer" or not token.strip():
            raise TokenMissingError("the call's authorization is not one `Bearer TOKEN`; send it so")
        found = self._tokens.find(hashlib.sha256(token.strip().encode()).digest())
        if found is None:
            raise TokenUnknownError(f"the token is none that this server knows; {_ASK}")
        return self._lasts(found)

    def _check(self, call: _Admitted) -> None:
        """Whether a call would still be let in; raises why not."""
        token = self._tokens.find(call.sha256)
        if token is None:
            raise TokenUnknownError(f"the token {call.name!r} was taken away; {_ASK}")
        self._lasts(token)
        access.check(token, call.path, call.request)

    def _lasts(self, token: Token) -> Token:
        if self._tokens.expired(token):
            raise TokenExpiredError(f"the token {token.name!r} expired at {token.said_expiry}; {_ASK}")
        return token
