"""The SQL store's writer: what is committed together stands or falls alone, and a lost database is told."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import insert, text
from tests.postgres import Postgres

from diminuendo.services.common.errors import JobNotFoundError, StoreUnavailableError
from diminuendo.services.conductor.records import Changes
from diminuendo.services.conductor.store import connect, writer
from diminuendo.services.conductor.store.migrate import upgrade
from diminuendo.services.conductor.store.sql import SqlStore
from diminuendo.services.conductor.store.tables import evaluations
from diminuendo.services.conductor.store.writer import Transaction, Writer

PUBLISHED = list[Changes]


@pytest.fixture
def published() -> PUBLISHED:
    return []


@pytest.fixture
def store_writer(tmp_path: Path, published: PUBLISHED) -> Iterator[Writer]:
    engine, reader = connect.connect(f"sqlite:///{tmp_path / 'a.db'}")
    upgrade(engine)
    writer = Writer(engine, clock=lambda: 1, publish=published.append)
    yield writer
    writer.close()
    engine.dispose()
    reader.dispose()


def stored(tmp_path: Path) -> list[str]:
    """Keys that another connection sees."""
    connection = sqlite3.connect(tmp_path / "a.db")
    keys = [key for (key,) in connection.execute("SELECT key FROM evaluations ORDER BY key")]
    connection.close()
    return keys


def keep(tx: Transaction, key: str) -> str:
    tx.connection.execute(insert(evaluations).values(key=key, outcome=b"", time=tx.now))
    tx.jobs.add(key)
    return key


def keep_and_fail(tx: Transaction, key: str) -> str:
    keep(tx, key)
    raise JobNotFoundError("on purpose")


def test_of_a_batch_each_operation_stands_alone(store_writer: Writer, tmp_path: Path, published: PUBLISHED) -> None:
    started, go = threading.Event(), threading.Event()

    def hold(tx: Transaction) -> None:
        started.set()
        assert go.wait(10)

    first = store_writer.submit(hold)
    assert started.wait(10)
    good = [store_writer.submit(partial(keep, key=key)) for key in ("a", "b")]
    bad = store_writer.submit(lambda tx: keep_and_fail(tx, "bad"))
    twice = store_writer.submit(lambda tx: keep(tx, "a"))
    more = store_writer.submit(lambda tx: keep(tx, "c"))
    go.set()
    first.result(10)
    assert [future.result(10) for future in (*good, more)] == ["a", "b", "c"]
    with pytest.raises(JobNotFoundError, match="on purpose"):
        bad.result(10)
    with pytest.raises(Exception, match="UNIQUE"):
        twice.result(10)
    assert stored(tmp_path) == ["a", "b", "c"]
    assert published == [Changes(frozenset({"a", "b", "c"}))], "one commit for all that waited"


def test_an_answer_comes_after_the_commit(store_writer: Writer, tmp_path: Path) -> None:
    for i in range(20):
        assert store_writer.submit(partial(keep, key=f"{i:02}")).result(10) == f"{i:02}"
        assert len(stored(tmp_path)) == i + 1


def test_closing_runs_what_is_in_line(store_writer: Writer, tmp_path: Path) -> None:
    futures = [store_writer.submit(partial(keep, key=f"{i:03}")) for i in range(200)]
    store_writer.close()
    assert all(future.done() for future in futures)
    assert len(stored(tmp_path)) == 200
    with pytest.raises(StoreUnavailableError, match="closed"):
        store_writer.submit(lambda tx: keep(tx, "late"))


def test_a_line_that_is_too_long_is_refused(store_writer: Writer) -> None:
    go = threading.Event()
    held = [store_writer.submit(lambda tx: go.wait(30))]
    refused: list[str] = []
    for _ in range(writer.MAX_WAITING + writer.MAX_TOGETHER + 1):
        try:
            held.append(store_writer.submit(lambda tx: True))
        except StoreUnavailableError as error:
            refused.append(str(error))
    go.set()
    assert refused
    assert set(refused) == {"4096 changes are waiting for the database; try again in a moment"}
    assert all(future.result(30) for future in held)


async def test_a_locked_database_is_unavailable_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "BUSY_TIMEOUT_MS", 50)
    store = SqlStore.open(f"sqlite:///{tmp_path / 'a.db'}")
    other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    results = await asyncio.gather(*(store.cancel_job("projects/p/jobs/a") for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailableError] * 3
    assert "database is locked" in str(results[0])
    assert await store.list_jobs() == [], "readers go on"
    other.execute("ROLLBACK")
    other.close()
    with pytest.raises(JobNotFoundError):
        await store.cancel_job("projects/p/jobs/a")
    await store.close()


async def test_a_broken_database_is_unavailable(tmp_path: Path) -> None:
    store = SqlStore.open(f"sqlite:///{tmp_path / 'a.db'}")
    engine, reader = connect.connect(f"sqlite:///{tmp_path / 'a.db'}")
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE evaluations"))
    with pytest.raises(StoreUnavailableError, match="no such table"):
        await store.get_evaluations(["k"])
    engine.dispose()
    reader.dispose()
    await store.close()


def test_a_connection_that_is_lost_within_an_operation_is_told_as_such(postgres: Postgres) -> None:
    with postgres.database() as url:
        engine, reader = connect.connect(url)
        writer = Writer(engine, clock=lambda: 1, publish=lambda changes: None)
        lost = writer.submit(lambda tx: tx.connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())")))
        with pytest.raises(StoreUnavailableError, match="terminating connection"):
            lost.result(10)
        assert writer.submit(lambda tx: keep(tx, "a")).result(10) == "a"
        writer.close()
        engine.dispose()
        reader.dispose()
