"""Which of several conductors acts on the clusters: one at a time.

On PostgreSQL it is whoever holds an advisory lock, on a connection kept for it. The server lets go of the lock as soon
as the connection ends, with its process or by itself. On SQLite a conductor is alone: it holds its data folder.

Two may still act for a moment, when one has lost its connection and not seen it yet. That does no harm: what they make
has the same names, so that one of them is refused, and a size is set again to what it is.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol

import psycopg
from sqlalchemy import make_url

from diminuendo.services.common import logs
from diminuendo.services.conductor.store.connect import POSTGRES, postgres_options

log = logs.get(__name__)

LOOK_S = 1.0
"""Between two looks at whether we hold it."""
_LOCK = "SELECT pg_try_advisory_lock(hashtext('diminuendo'), hashtext(%s))"


class Leader(Protocol):
    """Says whether this conductor may act."""

    async def holds(self) -> bool:
        """Whether it may, now. Asking also tries to get there."""
        ...

    async def close(self) -> None:
        """Let others."""
        ...


class Alone:
    """There is no other conductor."""

    async def holds(self) -> bool:
        """It may."""
        return True

    async def close(self) -> None:
        """Nothing to let go of."""


class Elected:
    """Holds an advisory lock of a PostgreSQL database while it can."""

    def __init__(self, url: str, instance: str) -> None:
        """Nothing is held yet.

        Args:
            url: Of the database, as SQLAlchemy writes it.
            instance: What is led: one conductor for each.
        """
        self._url = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._instance = instance
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._held = False
        self._one_at_a_time = threading.Lock()

    async def holds(self) -> bool:
        """Whether the lock is ours, asked of the server."""
        return await asyncio.to_thread(self._holds)

    async def close(self) -> None:
        """End the connection, and with it the lock."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        with self._one_at_a_time:  # who was cancelled while asking has left a thread behind that still asks
            self._drop()

    def _holds(self) -> bool:
        with self._one_at_a_time:
            return self._ask()

    def _ask(self) -> bool:
        try:
            if self._connection is None:
                self._connection = psycopg.connect(self._url, autocommit=True, **postgres_options())
            if self._held:
                self._connection.execute("SELECT 1")
            else:
                row = self._connection.execute(_LOCK, (self._instance,)).fetchone()
                self._held = bool(row and row[0])
        except psycopg.Error as error:
            if self._held:
                log.warning("lead_lost", reason=" ".join(str(error).split()))
            self._drop()
        return self._held

    def _drop(self) -> None:
        self._held = False
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None


def leader_for(url: str, instance: str) -> Leader:
    """Who acts, by the database that the conductors have in common."""
    return Elected(url, instance) if make_url(url).get_backend_name() == POSTGRES else Alone()


async def while_leading(leader: Leader, act: Callable[[], Awaitable[None]]) -> None:
    """Act for as long as this conductor may, again and again, until cancelled. What `act` raises is raised."""
    try:
        while True:
            if await leader.holds():
                log.info("leading")
                await _act(leader, act)
                log.info("not_leading")
            await asyncio.sleep(LOOK_S)
    finally:
        await leader.close()


async def _act(leader: Leader, act: Callable[[], Awaitable[None]]) -> None:
    task = asyncio.ensure_future(act())
    try:
        while await leader.holds():
            done, _ = await asyncio.wait({task}, timeout=LOOK_S)
            if done:
                return task.result()
        task.cancel()
        await asyncio.wait({task})
        return None if task.cancelled() else task.result()
    finally:
        task.cancel()
        await asyncio.wait({task})
