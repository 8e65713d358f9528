"""A database that goes away, or a disk that is full: UNAVAILABLE, not ready, alive, and whole once it is back."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from diminuendo.v1 import job_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.postgres import Postgres
from tests.services.conductor.test_pages import fetch

from diminuendo.services.common.errors import StoreUnavailableError
from diminuendo.services.conductor import readiness
from diminuendo.services.conductor.app import Running, conducting
from diminuendo.services.conductor.server import SERVICES
from diminuendo.services.conductor.settings import ConductorSettings
from diminuendo.services.conductor.store.sql import SqlStore

Connect = Callable[[str], Any]
Failing = Callable[[Awaitable[object]], Awaitable[Any]]
READY, LOST = (200, 200, "SERVING"), (200, 503, "NOT_SERVING")


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A server that a test may stop, if it starts it again."""
    server = Postgres()
    yield server
    server.close()


@pytest.fixture
def url(server: Postgres) -> str:
    return server.empty_database()


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "WELL_S", 0.05)
    monkeypatch.setattr(readiness, "LOST_S", 0.05)


async def condition(running: Running, api: Any) -> tuple[int, int, str]:
    """What /livez, /readyz and the health of the services say."""
    live, ready = [(await fetch(running.http, page))[0] for page in ("/livez", "/readyz")]
    health = health_pb2_grpc.HealthStub(api.channel)
    alive = await health.Check(health_pb2.HealthCheckRequest(service=""), timeout=5)
    assert alive.status == health_pb2.HealthCheckResponse.SERVING
    told = {(await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)).status for name in SERVICES}
    return live, ready, "+".join(health_pb2.HealthCheckResponse.ServingStatus.Name(status) for status in told)


async def comes(running: Running, api: Any, expected: tuple[int, int, str]) -> None:
    async with asyncio.timeout(20):
        while await condition(running, api) != expected:
            await asyncio.sleep(0.05)


async def tried(call: Callable[[], Awaitable[Any]]) -> Any:
    """The answer of a call that is made again as long as it is UNAVAILABLE, as clients do."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.05)


@pytest.fixture
async def running(url: str, tmp_path: Path) -> AsyncIterator[Running]:
    async with conducting(shared(url, tmp_path / "one")) as running:
        yield running


def shared(url: str, folder: Path) -> ConductorSettings:
    """The settings of one of several conductors on a database."""
    return ConductorSettings.load(data_dir=folder, port=0, http_port=0, drain_s=2.0, database=url)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["in good order", "at once"])
async def test_a_postgresql_that_goes_and_comes_back(
    running: Running, server: Postgres, connect: Connect, failing: Failing, how: signal.Signals
) -> None:
    api = connect(running.grpc)
    job = await api.create("a", "r1")
    lease = await api.lease("c1", request_id="l1")
    await api.commit(job.name, 1, 0)
    assert await condition(running, api) == READY
    watch = api.watch(job.name)
    seen = [await watch.read() for _ in range(4)]
    await asyncio.to_thread(server.stop, how)
    for call in (api.get(job.name), api.create("b", "r2"), api.commit(job.name, 1, 1), api.lease("c2")):
        failure = await failing(call)
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    await comes(running, api, LOST)
    await asyncio.to_thread(server.start)
    await comes(running, api, READY)
    assert (await tried(lambda: api.create("b", "r2"))).name == "projects/p/jobs/b"
    assert (await api.create("a", "r1")).name == job.name
    assert (await api.lease("c1", request_id="l1")).epoch == lease.epoch
    await api.commit(job.name, 1, 1)
    assert (await asyncio.wait_for(watch.read(), 10)).step_committed.step == 1, "who watched hears of it"
    await api.finish(job.name, 1)
    whole = [event async for event in api.watch(job.name)]
    assert whole[:4] == seen
    assert [event.sequence for event in whole] == list(range(1, 7))
    assert whole[-1].state_changed.state == job_pb2.JOB_STATE_SUCCEEDED


async def test_two_conductors_hear_of_each_other_after_the_database_was_away(
    running: Running, server: Postgres, url: str, connect: Connect, tmp_path: Path
) -> None:
    async with conducting(shared(url, tmp_path / "other")) as other:
        here, there = connect(running.grpc), connect(other.grpc)
        job = await here.create("a")
        watch = there.watch(job.name)
        assert (await watch.read()).sequence == 1
        waiting = asyncio.create_task(there.lease("c1", wait_s=20))
        assert (await asyncio.wait_for(waiting, 10)).job.name == job.name
        assert [(await watch.read()).sequence for _ in range(2)] == [2, 3]
        await asyncio.to_thread(server.stop, signal.SIGQUIT)
        await comes(other, there, LOST)
        await asyncio.to_thread(server.start)
        await comes(running, here, READY)
        await here.cancel(job.name)
        assert (await asyncio.wait_for(watch.read(), 10)).state_changed.state == job_pb2.JOB_STATE_CANCELLING


async def limit(store: SqlStore, pages: int) -> None:
    """Let the writer's file grow to so many pages at most; it never counts as smaller than it is.

    On a full disk the look at the database may share the transaction, and fail both.
    """
    pragma = f"PRAGMA max_page_count={pages}"
    async with asyncio.timeout(20):
        while True:
            done = store._writer.submit(lambda tx: tx.connection.exec_driver_sql(pragma).scalar())
            try:
                await asyncio.wrap_future(done)
            except StoreUnavailableError:
                await asyncio.sleep(0.01)
            else:
                return


async def test_a_full_disk(settings: ConductorSettings, connect: Connect) -> None:
    made, refused = list[str](), list[str]()
    async with conducting(settings) as running:
        api, store = connect(running.grpc), running.store
        assert isinstance(store, SqlStore)
        await api.create("first", "first")
        await limit(store, 1)
        for i in range(300):  # what is left of the last pages takes some
            try:
                await api.create(f"a{i}", f"a{i}")
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE or "disk is full" not in str(error.details()):
                    raise
                refused.append(f"a{i}")
            else:
                made.append(f"a{i}")
            if len(refused) == 3:
                break
        await comes(running, api, LOST)
        assert (await api.get("projects/p/jobs/first")).last_sequence == 1, "what is there can be read"
        await limit(store, 2**30)
        await comes(running, api, READY)
        for job_id in (*refused, *made):
            assert (await api.create(job_id, job_id)).last_sequence == 1
        assert await store.get_evaluations(["probe"]) == {}
    with sqlite3.connect(settings.data_dir / "diminuendo.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        stored = [name.rpartition("/")[2] for (name,) in connection.execute("SELECT name FROM jobs ORDER BY id")]
    connection.close()
    assert stored == ["first", *made, *refused]
