"""Wakes those who wait for something in the database to change. Belongs to one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from diminuendo.services.common.errors import StoppingError
from diminuendo.services.conductor.records import Changes

QUEUE = "queue"
"""Key of those who wait for a job to become free."""
PARTING = "parting"
"""Key of those who wait for jobs that coordinators are to let go of."""


class Hints:
    """Which models of a fleet may have changed since they were last taken."""

    def __init__(self) -> None:
        """All of them, to begin with."""
        self._models: set[str] | None = set()
        self._event = asyncio.Event()
        self.add(None)

    def add(self, models: Collection[str] | None) -> None:
        """These have changed; None: any may have."""
        if models is None or self._models is None:
            self._models = None
        else:
            self._models |= set(models)
        self._event.set()

    def take(self) -> frozenset[str] | None:
        """Those that have changed, from here on forgotten; None: any may have."""
        models, self._models = self._models, set()
        self._event.clear()
        return None if models is None else frozenset(models)

    @property
    def waiting(self) -> bool:
        """Whether there are some."""
        return self._models is None or bool(self._models)

    async def wait(self) -> None:
        """Return when there are some, or the server stops."""
        await self._event.wait()

    def wake(self) -> None:
        """Have who waits look, though nothing has changed."""
        self._event.set()


class Notifier:
    """Hands the store's changes to the tasks that listen for them.

    A listener clears its event, looks at the store, and then waits: what changes after the look sets the event, so
    nothing is missed.
    """

    def __init__(self) -> None:
        """Belong to the running loop."""
        self._loop = asyncio.get_running_loop()
        self._listeners: dict[str, set[asyncio.Event]] = {}
        self._fleets: dict[str, set[Hints]] = {}
        self._closed = False
        self._closing = asyncio.Event()

    def publish(self, changes: Changes) -> None:
        """Wake whom the changes concern; from any thread."""
        keys = set(changes.jobs)
        keys |= {QUEUE} if changes.queue else set()
        keys |= {PARTING} if changes.parting else set()
        self._loop.call_soon_threadsafe(self._wake, None if changes.everything else keys, changes.models)

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

    @contextmanager
    def listen_to_fleet(self, name: str) -> Iterator[Hints]:
        """Hints about the models of the fleet of this name."""
        hints = Hints()
        self._fleets.setdefault(name, set()).add(hints)
        try:
            yield hints
        finally:
            self._fleets[name].discard(hints)
            if not self._fleets[name]:
                del self._fleets[name]

    @property
    def listening(self) -> int:
        """How many listen now."""
        return sum(map(len, self._listeners.values())) + sum(map(len, self._fleets.values()))

    async def pause(self, seconds: float) -> None:
        """Return when the time is over, or the server stops."""
        await wait(self._closing, seconds)

    def close(self) -> None:
        """Wake everybody for good: see `check_open`."""
        self._closed = True
        self._closing.set()
        self._wake(set(self._listeners))
        for listening in self._fleets.values():
            for hints in listening:
                hints.wake()

    def check_open(self) -> None:
        """To be called after each waking. StoppingError when the server stops."""
        if self._closed:
            raise StoppingError("the conductor is stopping; connect again and ask for what comes after")

    def _wake(self, keys: set[str] | None, models: Collection[tuple[str, str]] = ()) -> None:
        """Wake the listeners of these keys, and of these models of fleets; None: all."""
        for key in self._listeners if keys is None else keys:
            for event in self._listeners.get(key, ()):
                event.set()
        if keys is None:
            for listening in self._fleets.values():
                for hints in listening:
                    hints.add(None)
            return
        for fleet, model in models:
            for hints in self._fleets.get(fleet, ()):
                hints.add((model,))


async def wait(event: asyncio.Event, timeout_s: float | None) -> None:
    """Return when the event is set or the time is over."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
