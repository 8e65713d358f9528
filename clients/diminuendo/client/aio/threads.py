"""Work on the disk in threads, which nobody leaves behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Answer = TypeVar("Answer")
Given = ParamSpec("Given")


async def in_thread(run: Callable[Given, Answer], *args: Given.args, **kwargs: Given.kwargs) -> Answer:
    """What `run` returns, run in a thread of the loop's executor.

    A task that is cancelled meanwhile waits until it is over: nothing writes to a file that is being closed.
    """
    return await _finished(asyncio.ensure_future(asyncio.to_thread(run, *args, **kwargs)), threading.Event())


async def stopped_in_thread(run: Callable[[threading.Event], Answer]) -> Answer:
    """As `in_thread`; `run` is given an event that is set when the task is cancelled, after which it ends soon."""
    stopped = threading.Event()
    return await _finished(asyncio.ensure_future(asyncio.to_thread(run, stopped)), stopped)


async def _finished(running: asyncio.Future[Answer], stopped: threading.Event) -> Answer:
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stopped.set()
        await asyncio.wait([running])
        raise
