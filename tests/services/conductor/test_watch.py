"""WatchJob: nothing missed, nothing twice, from any number, and nothing left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from diminuendo.v1 import job_pb2

from diminuendo.services.conductor.app import Running, conducting
from diminuendo.services.conductor.settings import ConductorSettings
from diminuendo.services.conductor.waiting import follow

Api = Any
Failing = Callable[[Awaitable[object]], Awaitable[Any]]
NAME = "projects/p/jobs/a"


async def idle(conductor: Running) -> None:
    """Return when only the sweeper listens."""
    async with asyncio.timeout(5):
        while conductor.notifier.listening > 1:
            await asyncio.sleep(0)


async def test_events_come_live_and_the_stream_ends_with_the_job(api: Api, conductor: Running) -> None:
    await api.create("a")
    watch = api.watch(NAME)
    assert (await watch.read()).state_changed.state == job_pb2.JOB_STATE_QUEUED
    await api.lease()
    assert (await watch.read()).state_changed.state == job_pb2.JOB_STATE_RUNNING
    assert (await watch.read()).leased.coordinator == "c1"
    for step in range(3):
        await api.commit(NAME, 1, step)
        assert (await watch.read()).step_committed.step == step
    await api.finish(NAME, 1)
    last = await watch.read()
    assert (last.state_changed.state, last.sequence) == (job_pb2.JOB_STATE_SUCCEEDED, 7)
    assert await watch.read() == grpc.aio.EOF
    assert await watch.code() is grpc.StatusCode.OK
    await idle(conductor)


async def test_a_watch_resumes_from_any_number(api: Api, failing: Failing) -> None:
    await api.create("a")
    await api.lease()
    for step in range(5):
        await api.commit(NAME, 1, step)
    await api.finish(NAME, 1)
    whole = [event async for event in api.watch(NAME)]
    assert [event.sequence for event in whole] == list(range(1, 10))
    for after in range(10):
        assert [event async for event in api.watch(NAME, after)] == whole[after:]

    async def too_far(after: int) -> None:
        async for _ in api.watch(NAME, after):
            pass

    for after, says in ((10, "10 is past the job's newest event, 9"), (-1, "-1 is negative")):
        failure = await failing(too_far(after))
        assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
        assert says in failure.fields["after_sequence"]


async def test_many_watchers_see_the_same(api: Api, conductor: Running) -> None:
    await api.create("a")

    async def sequences(after: int) -> list[int]:
        return [event.sequence async for event in api.watch(NAME, after)]

    watchers = [asyncio.create_task(sequences(i % 2)) for i in range(20)]
    await api.lease()
    for step in range(40):
        await api.commit(NAME, 1, step)
    await api.finish(NAME, 1)
    for i, seen in enumerate(await asyncio.gather(*watchers)):
        assert seen == list(range(1 + i % 2, 45))
    await idle(conductor)


async def test_pages_smaller_than_the_log_lose_nothing(api: Api, conductor: Running) -> None:
    await api.create("a")
    await api.lease()
    for step in range(10):
        await api.commit(NAME, 1, step)
    await api.finish(NAME, 1)
    for page in (1, 2, 7, 14):
        events = follow(conductor.store, conductor.notifier, NAME, page=page)
        assert [event.sequence async for event in events] == list(range(1, 15))


async def test_an_abandoned_watch_is_let_go_of(api: Api, conductor: Running) -> None:
    await api.create("a")
    watches = [api.watch(NAME) for _ in range(5)]
    for watch in watches:
        await watch.read()
    assert conductor.notifier.listening == 6
    for watch in watches:
        watch.cancel()
    await idle(conductor)


async def test_a_client_that_vanishes_is_let_go_of(conductor: Running, connect: Callable[[str], Any], api: Api) -> None:
    await api.create("a")
    other = connect(conductor.grpc)
    watch = other.watch(NAME)
    await watch.read()
    await other.channel.close()
    await idle(conductor)


async def test_stopping_ends_watches_and_waits_so_that_clients_reconnect(
    settings: ConductorSettings, connect: Callable[[str], Any], failing: Failing
) -> None:
    async with conducting(settings) as running:
        api = connect(running.grpc)
        await api.create("b")
        await api.cancel("projects/p/jobs/b")
        await api.create("a")
        await api.lease("holder")
        watch = api.watch(NAME)
        for _ in range(3):
            await watch.read()
        waiting = asyncio.create_task(api.lease(wait_s=30))
        while running.notifier.listening < 3:
            await asyncio.sleep(0)
    for call in (watch.read(), waiting):
        failure = await failing(call)
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STOPPING")


async def test_a_slow_reader_does_not_hold_the_others(api: Api) -> None:
    await api.create("a")
    slow = aiter(api.watch(NAME))
    await anext(slow)
    fast = [api.watch(NAME) for _ in range(3)]
    await api.lease()
    for step in range(200):
        await api.commit(NAME, 1, step)
    await api.finish(NAME, 1)
    for watch in fast:
        assert [event.sequence async for event in watch] == list(range(1, 205))
    assert [event.sequence async for event in slow] == list(range(2, 205))
