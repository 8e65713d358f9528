"""WatchFleet: everything first, then what changes, cheap however many look, and nothing left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from diminuendo.v1 import fleet_service_pb2, job_pb2, job_service_pb2
from tests.services.conductor.fleets import FLEET, Fleets, model, states

from diminuendo.services.conductor.app import Running, conducting
from diminuendo.services.conductor.fleet_watch import Told, follow_fleet
from diminuendo.services.conductor.records import Changes
from diminuendo.services.conductor.servicers import fleet_service
from diminuendo.services.conductor.settings import ConductorSettings

Api = Any
Failing = Callable[[Awaitable[object]], Awaitable[Any]]


@pytest.fixture
async def fleets(api: Api) -> Fleets:
    made = Fleets(api.channel)
    await made.create()
    return made


def watch(fleets: Fleets) -> Any:
    return fleets.stub.WatchFleet(fleet_service_pb2.WatchFleetRequest(name=FLEET), timeout=60)


async def one_round(watching: Any) -> tuple[dict[str, str], Any]:
    """Models and the states of their jobs, up to the message that says that it is all, and that message."""
    told = dict[str, str]()
    async with asyncio.timeout(20):
        while True:
            message = await watching.read()
            assert message is not grpc.aio.EOF, told
            told |= {job.model: job_pb2.JobState.Name(job.state)[10:] for job in message.jobs}
            if message.caught_up:
                return told, message


async def idle(conductor: Running) -> None:
    """Return when only the sweeper listens."""
    async with asyncio.timeout(5):
        while conductor.notifier.listening > 1:
            await asyncio.sleep(0)


async def test_everything_comes_first_then_what_changes_and_the_stream_ends_with_the_jobs(
    api: Api, fleets: Fleets, conductor: Running
) -> None:
    await fleets.batch("a", "b")
    watching = watch(fleets)
    told, last = await one_round(watching)
    assert told == {"a": "QUEUED", "b": "QUEUED"}
    assert last.fleet == await fleets.get()
    lease = await api.lease()
    assert (await one_round(watching))[0] == {"a": "RUNNING"}
    await fleets.batch("c")
    told, last = await one_round(watching)
    assert (told, states(last.fleet)) == ({"c": "QUEUED"}, {"QUEUED": 2, "RUNNING": 1})
    await api.finish(lease.job.name, 1)
    await fleets.cancel()
    told = {}
    while (message := await watching.read()) is not grpc.aio.EOF:
        told |= {job.model: job_pb2.JobState.Name(job.state)[10:] for job in message.jobs}
        last = message
    assert told == {"a": "SUCCEEDED", "b": "CANCELLED", "c": "CANCELLED"}
    assert (last.caught_up, last.fleet) == (True, await fleets.get())
    assert await watching.code() is grpc.StatusCode.OK
    await idle(conductor)


async def test_a_fleet_whose_jobs_have_all_ended_is_told_once(fleets: Fleets) -> None:
    assert [message.caught_up async for message in watch(fleets)] == [True], "one without jobs, too"
    await fleets.batch("a", "b")
    await fleets.cancel()
    messages = [message async for message in watch(fleets)]
    assert [[job.model for job in message.jobs] for message in messages] == [["a", "b"]]
    assert messages[0].caught_up


async def test_changes_that_follow_each_other_quickly_are_told_together(api: Api, fleets: Fleets) -> None:
    await fleets.batch("a", "b")
    watching = watch(fleets)
    await one_round(watching)
    lease = await api.lease()
    for step in range(20):
        await api.commit(lease.job.name, 1, step)
    name = lease.job.name
    rounds, steps = 0, 0
    while steps < 20:
        message = await asyncio.wait_for(watching.read(), 20)
        rounds += 1
        (job,) = message.jobs
        steps = job.progress.steps
        assert message.caught_up
    assert rounds <= 10, "each commit is an event of its own"
    assert job == await api.get(name)
    watching.cancel()


async def test_a_job_that_is_deleted_gives_way_to_the_one_before(api: Api, fleets: Fleets) -> None:
    await fleets.batch("a", "b", "c")
    await api.cancel("projects/p/jobs/f-a")
    await fleets.retry("a")
    await api.cancel("projects/p/jobs/f-a-2")
    await api.cancel("projects/p/jobs/f-b")
    watching = watch(fleets)
    assert (await one_round(watching))[1].fleet.counts.models == 3
    for name in ("f-a-2", "f-b"):
        await api.jobs.DeleteJob(job_service_pb2.DeleteJobRequest(name=f"projects/p/jobs/{name}"), timeout=10)
    models, names = 3, set[str]()
    while models > 2:
        message = await asyncio.wait_for(watching.read(), 20)
        models = message.fleet.counts.models
        names |= {job.name for job in message.jobs}
    assert names == {"projects/p/jobs/f-a"}
    watching.cancel()


async def test_only_what_changed_is_read(
    api: Api, fleets: Fleets, conductor: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fleets.batch(*(f"m{i:02}" for i in range(30)))
    store, read = conductor.store.fleets, list[set[str]]()
    newest, together = store.newest, asyncio.Barrier(10)

    async def counted(name: str, models: Any) -> Any:
        read.append(set(models))
        return await newest(name, models)

    async def whole(*_: object, **__: object) -> Any:
        raise AssertionError("nothing says that any model may have changed")

    async def follower() -> list[Told]:
        told = list[Told]()
        async for part in follow_fleet(store, conductor.notifier, FLEET, pause_s=0.05):
            told.append(part)
            if len(told) == 1:
                await together.wait()
        return told

    watching = [asyncio.create_task(follower()) for _ in range(9)]
    await together.wait()
    monkeypatch.setattr(store, "newest", counted)
    monkeypatch.setattr(store, "models_after", whole)
    await api.lease()
    await api.finish("projects/p/jobs/f-m00", 1)
    async with asyncio.timeout(20):
        while not read:
            await asyncio.sleep(0)
    assert read[0] == {"m00"}
    await fleets.cancel()
    ends = [[job.model for part in told for job in part.jobs] for told in await asyncio.gather(*watching)]
    for models in ends:
        assert len(models) >= 60
        assert set(models) == {f"m{i:02}" for i in range(30)}


async def test_a_hint_that_all_may_have_changed_is_followed(fleets: Fleets, conductor: Running) -> None:
    """As after the connection was lost on which other conductors tell of what they changed."""
    await fleets.batch("a", "b", "c")
    following = follow_fleet(conductor.store.fleets, conductor.notifier, FLEET, page=2, pause_s=0.01)
    first = [await anext(following) for _ in range(2)]
    assert [(len(part.jobs), part.caught_up) for part in first] == [(2, False), (1, True)]
    waiting = asyncio.ensure_future(anext(following))
    conductor.notifier.publish(Changes(everything=True))
    conductor.notifier.publish(Changes(models=frozenset({(FLEET, "a")})))
    done, _ = await asyncio.wait({waiting}, timeout=0.2)
    assert not done, "nothing has changed, so nothing is told"
    await fleets.cancel()
    parts = [await waiting, *[part async for part in following]]
    assert {job.model for part in parts for job in part.jobs} == {"a", "b", "c"}
    assert parts[-1].caught_up


@pytest.mark.parametrize("page", [1, 2, 3, 4, 100])
async def test_pages_smaller_than_the_fleet_lose_nothing(fleets: Fleets, conductor: Running, page: int) -> None:
    await fleets.batch("d", "b", "a", "c")
    await fleets.cancel()
    parts = [part async for part in follow_fleet(conductor.store.fleets, conductor.notifier, FLEET, page=page)]
    assert [job.model for part in parts for job in part.jobs] == ["a", "b", "c", "d"]
    assert [part.caught_up for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].fleet == await conductor.store.fleets.get(FLEET)


async def test_messages_are_of_bounded_bytes(fleets: Fleets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_service, "MAX_WATCH_BYTES", 3000)
    await fleets.batch(*(model(f"m{i}", freeze=["x" * 250] * 4) for i in range(7)), model("n", freeze=["y" * 250] * 20))
    await fleets.cancel()
    messages = [message async for message in watch(fleets)]
    assert [[job.model for job in message.jobs] for message in messages] == [
        ["m0", "m1"],
        ["m2", "m3"],
        ["m4", "m5"],
        ["m6"],
        ["n"],
    ]
    assert [message.caught_up for message in messages] == [False] * 4 + [True]


async def test_abandoned_watches_are_let_go_of(fleets: Fleets, conductor: Running) -> None:
    await fleets.batch("a")
    watches = [watch(fleets) for _ in range(5)]
    for watching in watches:
        await watching.read()
    assert conductor.notifier.listening == 6
    for watching in watches:
        watching.cancel()
    await idle(conductor)


async def test_stopping_ends_watches_so_that_clients_reconnect(
    settings: ConductorSettings, connect: Callable[[str], Any], failing: Failing
) -> None:
    async with conducting(settings) as running:
        fleets = Fleets(connect(running.grpc).channel)
        await fleets.create()
        await fleets.batch("a")
        watching = watch(fleets)
        await one_round(watching)
    failure = await failing(watching.read())
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STOPPING")
    async with conducting(settings) as running:
        again = watch(Fleets(connect(running.grpc).channel))
        assert (await one_round(again))[0] == {"a": "QUEUED"}
        again.cancel()
