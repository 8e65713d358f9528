"""What is asked for at about the same time, done as one: what costs most is the way to a thread and back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

K = TypeVar("K")
V = TypeVar("V")

ReadAll = Callable[[Sequence[K]], Awaitable[Mapping[K, V | Exception]]]
"""The value, or the error, of every key."""


class _Line(Generic[K, V]):
    """Who waits on one event loop."""

    def __init__(self) -> None:
        self.waiting: dict[K, list[asyncio.Future[V]]] = {}
        self.reading: asyncio.Task[None] | None = None


class Together(Generic[K, V]):
    """Reads by key: on each event loop one at a time, and the next one for all who asked meanwhile.

    A read begins after it was asked for, so who asks sees every change that was acknowledged before. Whoever asks for
    the same is answered with the same object.
    """

    def __init__(self, read: ReadAll[K, V], *, most: int) -> None:
        """Read with this function; when it fails, that is the answer to all whom it was for.

        Args:
            most: Keys that are read at a time; the others wait for the next read.
        """
        self._read, self._most = read, most
        self._lines: WeakKeyDictionary[asyncio.AbstractEventLoop, _Line[K, V]] = WeakKeyDictionary()

    async def get(self, key: K) -> V:
        """The key's value; raises what the read has for it."""
        loop = asyncio.get_running_loop()
        line = self._lines.get(loop)
        if line is None:
            line = self._lines[loop] = _Line()
        future: asyncio.Future[V] = loop.create_future()
        line.waiting.setdefault(key, []).append(future)
        if line.reading is None:
            line.reading = loop.create_task(self._run(line), name="read-together")
        return await future

    async def _run(self, line: _Line[K, V]) -> None:
        try:
            while line.waiting:
                keys = list(islice(line.waiting, self._most))
                await self._answer({key: line.waiting.pop(key) for key in keys})
        finally:
            line.reading = None

    async def _answer(self, asked: Mapping[K, Sequence[asyncio.Future[V]]]) -> None:
        try:
            found: Mapping[K, V | Exception] = await self._read(list(asked))
        except Exception as error:  # noqa: BLE001 - it belongs to those who asked
            found = dict.fromkeys(asked, error)
        for key, futures in asked.items():
            value = found[key]
            for future in futures:
                if future.done():
                    continue  # who asked has left
                if isinstance(value, Exception):
                    future.set_exception(value)
                else:
                    future.set_result(value)
