"""A thousand watches that their clients left: the conductor forgets each of them, and is as small as before."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import psutil
from diminuendo.v1 import job_pb2

from diminuendo.services.conductor.app import Running

Api = Any
Spawn = Callable[..., Awaitable[Any]]
AT_ONCE, ROUNDS, WARM_ROUNDS = 100, 10, 3
MOST_MIB = 4.0
"""What a thousand watches may leave: 4 KiB each, which is the allocator's. One that stayed would hold more."""


async def leave_watches(api: Api, name: str, rounds: int) -> None:
    """Open watches, see that each is served, and leave them."""
    for _ in range(rounds):
        watches = [api.watch(name) for _ in range(AT_ONCE)]
        for watch in watches:
            assert (await watch.read()).state_changed.state == job_pb2.JOB_STATE_QUEUED
        for watch in watches:
            watch.cancel()
        for watch in watches:
            assert await watch.code() is grpc.StatusCode.CANCELLED


async def only_the_sweeper_listens(conductor: Running) -> None:
    async with asyncio.timeout(20):
        while conductor.notifier.listening > 1:
            await asyncio.sleep(0.005)


async def no_more_tasks_than(before: int) -> None:
    """Calls that ended go a few turns of the loop after their last word: one that stays would be seen as a timeout."""
    async with asyncio.timeout(20):
        while len(asyncio.all_tasks()) > before:
            await asyncio.sleep(0.005)


def streams() -> int:
    """Streams of events that are still there."""
    return sum("follow" in repr(thing) for thing in gc.get_objects() if type(thing).__name__ == "async_generator")


async def test_nobody_goes_on_waiting_for_them(api: Api, conductor: Running) -> None:
    name = (await api.create("a")).name
    before = len(asyncio.all_tasks())
    await leave_watches(api, name, ROUNDS)
    await only_the_sweeper_listens(conductor)
    await no_more_tasks_than(before)
    gc.collect()
    assert streams() == 0
    assert (await api.get(name)).state == job_pb2.JOB_STATE_QUEUED


async def test_they_take_no_memory(spawn: Spawn, connect: Callable[[str], Api]) -> None:
    spawned = await spawn()
    api, memory = connect(spawned.grpc), psutil.Process(spawned.process.pid).memory_info
    name = (await api.create("a")).name
    await leave_watches(api, name, WARM_ROUNDS)
    before = memory().rss
    await leave_watches(api, name, ROUNDS)
    grown_mib = (memory().rss - before) / 2**20
    assert grown_mib < MOST_MIB, f"{grown_mib:.1f} MiB more after {AT_ONCE * ROUNDS} abandoned watches"
