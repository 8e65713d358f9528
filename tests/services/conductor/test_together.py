from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from diminuendo.services.conductor.store.together import Together


class Reads:
    """A reader whose reads last until they are let go."""

    def __init__(self) -> None:
        self.keys: list[list[str]] = []
        self.go = asyncio.Semaphore(0)
        self.broken: Exception | None = None

    async def __call__(self, keys: Sequence[str]) -> Mapping[str, str | Exception]:
        self.keys.append(list(keys))
        await self.go.acquire()
        if self.broken is not None:
            raise self.broken
        return {key: KeyError(key) if key == "none" else f"{key}@{len(self.keys)}" for key in keys}


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_asks_during_a_read_is_answered_by_the_next_one() -> None:
    reads = Reads()
    together = Together[str, str](reads, most=10)
    first = [asyncio.create_task(together.get(key)) for key in ("a", "b", "a")]
    await settle()
    later = [asyncio.create_task(together.get(key)) for key in ("a", "c")]
    await settle()
    assert reads.keys == [["a", "b"]]
    reads.go.release()
    assert await asyncio.gather(*first) == ["a@1", "b@1", "a@1"]
    await settle()
    assert reads.keys[1:] == [["a", "c"]]
    reads.go.release()
    assert await asyncio.gather(*later) == ["a@2", "c@2"]
    reads.go.release()
    assert await together.get("d") == "d@3"


async def test_no_read_takes_more_than_it_may() -> None:
    reads = Reads()
    together = Together[str, str](reads, most=2)
    reads.go.release()
    reads.go.release()
    assert await asyncio.gather(*(together.get(key) for key in "abc")) == ["a@1", "b@1", "c@2"]
    assert reads.keys == [["a", "b"], ["c"]]


async def test_errors_go_to_those_whom_they_concern() -> None:
    reads = Reads()
    together = Together[str, str](reads, most=10)
    reads.go.release()
    good, bad = await asyncio.gather(together.get("a"), together.get("none"), return_exceptions=True)
    assert good == "a@1"
    assert isinstance(bad, KeyError)
    reads.broken = OSError("gone")
    reads.go.release()
    both = await asyncio.gather(together.get("a"), together.get("b"), return_exceptions=True)
    assert list(both) == [reads.broken] * 2
    reads.broken = None
    reads.go.release()
    assert await together.get("a") == "a@3"


async def test_who_leaves_takes_nothing_with_him() -> None:
    reads = Reads()
    together = Together[str, str](reads, most=10)
    leaves, stays = asyncio.create_task(together.get("a")), asyncio.create_task(together.get("a"))
    await settle()
    leaves.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaves
    reads.go.release()
    assert await stays == "a@1"
