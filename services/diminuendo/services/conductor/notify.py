"""Wakes those who wait for something in the database to change. Belongs to one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from diminuendo.services.common.errors import StoppingError
from diminuendo.services.conductor.records import Changes

QUEUE = "queue"
"""Key of those who wait for a job to become free."""
PARTING = "parting"
"""Key of those who wait for jobs that coordinators are to let go of."""


class Notifier:
    """Hands the store's changes to the tasks that listen for them.

    A listener clears its event, looks at the store, and then waits: what changes after the look sets the event, so
    nothing is missed.
    """

    def __init__(self) -> None:
        """Belong to the running loop."""
        self._loop = asyncio.get_running_loop()
        self._listeners: dict[str, set[asyncio.Event]] = {}
        self._closed = False

    def publish(self, changes: Changes) -> None:
        """Wake whom the changes concern; from any thread."""
        keys = set(changes.jobs)
        keys |= {QUEUE} if changes.queue else set()
        keys |= {PARTING} if changes.parting else set()
        self._loop.call_soon_threadsafe(self._wake, None if changes.everything else keys)

    @contextmanager
    def listen(self, key: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever the job of this name, or what this key stands for, changes."""
        event = asyncio.Event()
        self._listeners.setdefault(key, set()).add(event)
        try:
            yield event
        finally:
            self._listeners[key].discard(event)
            if not self._listeners[key]:
                del self._listeners[key]

    @property
    def listening(self) -> int:
        """How many listen now."""
        return sum(map(len, self._listeners.values()))

    def close(self) -> None:
        """Wake everybody for good: see `check_open`."""
        self._closed = True
        self._wake(set(self._listeners))

    def check_open(self) -> None:
        """To be called after each waking. StoppingError when the server stops."""
        if self._closed:
            raise StoppingError("the conductor is stopping; connect again and ask for what comes after")

    def _wake(self, keys: set[str] | None) -> None:
        """Wake the listeners of these keys; None: all."""
        for key in self._listeners if keys is None else keys:
            for event in self._listeners.get(key, ()):
                event.set()


async def wait(event: asyncio.Event, timeout_s: float | None) -> None:
    """Return when the event is set or the time is over."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
