"""The store's contract: what coordinators tell of themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future

import pytest
from sqlalchemy import create_engine, text
from tests.contract.conftest import NOW
from tests.postgres import Postgres

from diminuendo.services.common.errors import StoreUnavailableError
from diminuendo.services.conductor.records import StoredCoordinator
from diminuendo.services.conductor.store import coordinators
from diminuendo.services.conductor.store.base import Store
from diminuendo.services.conductor.store.sql import SqlStore
from diminuendo.services.conductor.store.writer import Operation

Open = Callable[[], Awaitable[Store]]
SECOND = 1_000_000


async def test_the_newest_word_of_each_is_kept(store: Store, now: list[int]) -> None:
    await store.report_coordinator("b", b"first")
    await store.report_coordinator("a", b"\x00\xff")
    now[0] += SECOND
    await store.report_coordinator("b", b"second")
    assert await store.list_coordinators(since=NOW) == [
        StoredCoordinator("a", NOW, b"\x00\xff"),
        StoredCoordinator("b", NOW + SECOND, b"second"),
    ]


async def test_only_those_heard_of_since_a_time_are_listed(store: Store, now: list[int]) -> None:
    await store.report_coordinator("early", b"e")
    now[0] += SECOND
    await store.report_coordinator("late", b"l")
    assert [c.name for c in await store.list_coordinators(since=NOW)] == ["early", "late"]
    assert [c.name for c in await store.list_coordinators(since=NOW + 1)] == ["late"]
    assert await store.list_coordinators(since=NOW + SECOND + 1) == []


async def test_one_that_is_forgotten_is_gone_and_may_come_back(store: Store) -> None:
    await store.report_coordinator("a", b"1")
    await store.forget_coordinator("a")
    await store.forget_coordinator("a")
    assert await store.list_coordinators(since=0) == []
    await store.report_coordinator("a", b"2")
    assert [c.body for c in await store.list_coordinators(since=0)] == [b"2"]


async def test_what_is_told_outlives_the_store(open_store: Open) -> None:
    first = await open_store()
    await first.report_coordinator("a", b"1")
    await first.close()
    assert [c.name for c in await (await open_store()).list_coordinators(since=0)] == ["a"]


async def test_those_gone_for_a_day_are_removed_when_a_new_one_comes(store: Store, now: list[int], url: str) -> None:
    await store.report_coordinator("gone", b"1")
    now[0] += coordinators.KEPT_US
    await store.report_coordinator("just", b"2")
    now[0] += 1
    await store.report_coordinator("new", b"3")
    assert [c.name for c in await store.list_coordinators(since=0)] == ["just", "new"]
    engine = create_engine(url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM coordinators")).scalar_one() == 2
    engine.dispose()


async def test_reports_that_come_together_are_stored_together(store: Store) -> None:
    assert isinstance(store, SqlStore)
    written = list[object]()
    submit = store._writer.submit

    def counted(operation: Operation[None]) -> Future[None]:
        written.append(operation)
        return submit(operation)

    store._writer.submit = counted  # type: ignore[assignment,method-assign]
    await asyncio.gather(*(store.report_coordinator(f"c{i}", b"%d" % i) for i in range(20)))
    assert len(written) == 1
    first = asyncio.create_task(store.report_coordinator("c0", b"older"))
    await asyncio.sleep(0)
    await store.report_coordinator("c0", b"newer")
    await first
    assert {c.name: c.body for c in await store.list_coordinators(since=0)} == {
        "c0": b"newer",
        **{f"c{i}": b"%d" % i for i in range(1, 20)},
    }


async def test_a_report_that_could_not_be_stored_says_so(store: Store) -> None:
    assert isinstance(store, SqlStore)
    await store.report_coordinator("c", b"1")
    submit = store._writer.submit

    def refuse(operation: object) -> object:
        raise StoreUnavailableError("the disk is full")

    store._writer.submit = refuse  # type: ignore[assignment,method-assign]
    with pytest.raises(StoreUnavailableError):
        await store.report_coordinator("c", b"2")
    assert [c.body for c in await store.list_coordinators(since=0)] == [b"1"]
    store._writer.submit = submit  # type: ignore[method-assign]
    await store.report_coordinator("c", b"3")
    assert [c.body for c in await store.list_coordinators(since=0)] == [b"3"]


@pytest.fixture
def shared(postgres: Postgres) -> Iterator[str]:
    with postgres.database() as url:
        yield url


async def test_two_conductors_hear_of_one_coordinator_at_once(shared: str, now: list[int]) -> None:
    pair = [await asyncio.to_thread(SqlStore.open, shared, clock=lambda: now[0]) for _ in range(2)]
    await asyncio.gather(*(pair[i % 2].report_coordinator(f"c{i // 2 % 3}", b"%d" % i) for i in range(24)))
    assert await pair[0].list_coordinators(since=0) == await pair[1].list_coordinators(since=0)
    assert [c.name for c in await pair[1].list_coordinators(since=0)] == ["c0", "c1", "c2"]
    for store in pair:
        await store.close()
