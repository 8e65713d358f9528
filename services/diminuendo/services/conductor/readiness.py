"""Tells those who send calls here whether the database can be used. The process lives on whatever it says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from diminuendo.services.common import logs
from diminuendo.services.common.errors import StoreUnavailableError
from diminuendo.services.conductor.store.base import Store

WELL_S, LOST_S = 2.0, 0.5
"""Between two looks, while all is well and while it is not."""
_log = logs.get(__name__)


async def watch_store(store: Store, tell: Callable[[bool], Awaitable[None]]) -> None:
    """For as long as the server runs: look at the store, and tell what changes. It begins as ready."""
    ready = True
    while True:
        await asyncio.sleep(WELL_S if ready else LOST_S)
        try:
            await store.ping()
        except StoreUnavailableError as error:
            well = False
            if ready:
                _log.error("store_lost", error=str(error))
        else:
            well = True
            if not ready:
                _log.info("store_back")
        if well is not ready:
            ready = well
            await tell(ready)
