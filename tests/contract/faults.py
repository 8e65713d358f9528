"""A store whose every call fails twice: once before anything happened, once after all of it did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, cast

from diminuendo.services.common.errors import StoreUnavailableError
from diminuendo.services.conductor.store.base import FleetStore, Store

LOCAL = frozenset({"subscribe", "close"})
"""What does not go to a database."""


class FaultyStore:
    """Wraps a store.

    The first time that a call is made, nothing happens; the second time it happens, and the answer is lost; the third
    time it is answered, and after that the turns begin anew. Calls of one method take turns with one another, whatever
    their arguments: of several at once, each fails now and then, and who tries again gets through.

    Attributes:
        failed: How many calls failed, by method and moment.
        fleets: The store's fleets, wrapped alike.
    """

    def __init__(self, store: Store | FleetStore) -> None:
        self._store = store
        self._made = Counter[str]()
        self.failed = Counter[tuple[str, str]]()
        self.fleets = FaultyStore(store.fleets) if hasattr(store, "fleets") else None

    def __getattr__(self, method: str) -> Callable[..., Any]:
        real: Callable[..., Any] = getattr(self._store, method)
        if method in LOCAL:
            return real

        async def call(*args: object, **options: object) -> object:
            turn = self._made[method] % 3
            self._made[method] += 1
            if turn == 0:
                raise self._failure(method, "before")
            answer = await real(*args, **options)
            if turn == 1:
                raise self._failure(method, "after")
            return answer

        return call

    def _failure(self, method: str, moment: str) -> StoreUnavailableError:
        self.failed[method, moment] += 1
        return StoreUnavailableError(f"on purpose, {moment} {method}; try again")


def faulty(store: Store) -> tuple[Store, FaultyStore]:
    """The wrapped store, as a store and as what it is."""
    wrapped = FaultyStore(store)
    return cast("Store", wrapped), wrapped
