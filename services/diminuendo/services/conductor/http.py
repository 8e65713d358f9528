"""The conductor's HTTP side: /metrics for Prometheus, /livez and /readyz for whoever watches over it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from diminuendo.services.common.errors import DiminuendoError, StartError
from diminuendo.services.conductor.metrics import Metrics
from diminuendo.services.conductor.notify import Notifier, wait
from diminuendo.services.conductor.store.base import Store


def application(store: Store, notifier: Notifier, metrics: Metrics) -> Starlette:
    """The pages: alive as long as they answer; ready when the database can be used and no stop was asked for."""

    async def page(request: Request) -> Response:
        content, kind = (await metrics.page(store)).encoded(request.headers.get("accept", ""))
        return Response(content, headers={"content-type": kind})

    async def livez(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_request: Request) -> Response:
        try:
            notifier.check_open()
            await store.ping()
        except DiminuendoError as error:
            return PlainTextResponse(f"{error.reason}: {error}\n", status_code=503)
        return PlainTextResponse("ok\n")

    return Starlette(routes=[Route("/metrics", page), Route("/livez", livez), Route("/readyz", readyz)])


class _Server(uvicorn.Server):
    """uvicorn within a process that handles its signals itself."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self.told_to_stop = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say when it is done."""
        await super().startup(sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        """Tick as uvicorn does, and stop when told to instead of at the next tick."""
        counter = 0
        while not await self.on_tick(counter):
            counter = (counter + 1) % 864_000
            await wait(self.told_to_stop, 0.1)

    def stop(self) -> None:
        """Finish what is being answered, then end."""
        self.should_exit = True
        self.told_to_stop.set()


@asynccontextmanager
async def serving(app: Starlette, listener: socket.socket, *, drain_s: float) -> AsyncIterator[None]:
    """Serve the pages on a bound socket; on the way out, finish what is being answered."""
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=max(1, round(drain_s))
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    ready = asyncio.create_task(server.ready.wait())
    await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    try:
        if task.done():
            raise StartError(f"the HTTP server did not start: {task.exception()!r}; see the log")
        yield
    finally:
        server.stop()
        await task
