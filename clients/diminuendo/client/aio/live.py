"""Follows a job on whatever display suits, on asyncio; see `diminuendo.client.display.follow`."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from rich.console import Console

from diminuendo.client.display.follow import ASK_S, LOST, Display, open_display, view_of
from diminuendo.client.display.plain import PlainDisplay
from diminuendo.client.errors import DiminuendoError, ServerVersionError
from diminuendo.client.types import JobInfo

if TYPE_CHECKING:
    from diminuendo.client.aio.job import AsyncJob


async def follow(job: AsyncJob, console: Console) -> JobInfo:
    """Show the job until it has ended; returns it as it ended."""
    with open_display(console, view_of(await job.info())) as display:
        # Of plain lines nobody reads what the evaluators do.
        asking = None if isinstance(display, PlainDisplay) else asyncio.create_task(_ask(job, display))
        try:
            async with contextlib.aclosing(job.watch(on_cut=lambda _: display.say(trouble=LOST))) as events:
                async for event in events:
                    display.show(event)
        finally:
            if asking is not None:
                asking.cancel()
                await asyncio.wait([asking])
    return await job.info()


async def _ask(job: AsyncJob, display: Display) -> None:
    """Ask now and then what works on the job, and show it."""
    while True:
        try:
            found = await job.evaluators(timeout_s=ASK_S)
        except ServerVersionError:  # it will not learn it
            return
        except DiminuendoError:
            display.working(None)
        else:
            display.working(found)
        await asyncio.sleep(ASK_S)
