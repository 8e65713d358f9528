"""Jobs that are kept as they were read, until their rows are written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from diminuendo.v1 import job_pb2
from sqlalchemy import event

from diminuendo.services.common.errors import JobNotFoundError
from diminuendo.services.conductor import jobs as rules
from diminuendo.services.conductor.records import Job, NewJob, Update
from diminuendo.services.conductor.store.fresh import Fresh
from diminuendo.services.conductor.store.sql import SqlStore

SPEC = job_pb2.JobSpec(zoo="digits", delta=1.0)


def named(name: str) -> NewJob:
    return NewJob(name=f"projects/p/jobs/{name}", project="p", spec=SPEC, labels={})


def job(name: str) -> Job:
    return rules.create(named(name), 1).job


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    opened = SqlStore.open(f"sqlite:///{tmp_path}/fresh.db")
    yield opened
    await opened.close()


def test_what_is_written_while_it_is_read_is_not_kept() -> None:
    fresh = Fresh()
    begun = fresh.mark()
    fresh.written({job("a").name})
    fresh.keep(job("a"), begun)
    fresh.keep(job("b"), begun)
    assert fresh.get(job("a").name) is None
    assert fresh.get(job("b").name) == job("b")
    fresh.keep(job("a"), fresh.mark())
    assert fresh.get(job("a").name) == job("a")


def test_after_a_commit_that_nobody_knows_of_nothing_is_kept() -> None:
    fresh = Fresh()
    fresh.keep(job("a"), fresh.mark())
    begun = fresh.mark()
    fresh.written(None)
    assert fresh.get(job("a").name) is None
    fresh.keep(job("a"), begun)
    assert fresh.get(job("a").name) is None


def test_a_read_that_began_before_all_that_is_remembered_is_not_kept() -> None:
    fresh = Fresh(most=2)
    begun = fresh.mark()
    for name in "abc":  # of a nothing is remembered now
        fresh.written({job(name).name})
    fresh.keep(job("a"), begun)
    assert fresh.get(job("a").name) is None
    fresh.keep(job("a"), fresh.mark())
    assert fresh.get(job("a").name) is not None


def test_the_ones_asked_for_longest_ago_go_first() -> None:
    fresh = Fresh(most=2)
    for name in ("a", "b"):
        fresh.keep(job(name), fresh.mark())
    fresh.get(job("a").name)
    fresh.keep(job("c"), fresh.mark())
    assert [fresh.get(job(name).name) is not None for name in "abc"] == [True, False, True]


async def test_who_asks_again_needs_no_database(store: SqlStore) -> None:
    made = await store.create_job(named("a"))
    reads: list[str] = []
    event.listen(store._engines[1], "before_cursor_execute", lambda *call: reads.append(call[2]))
    assert await store.get_job(made.name) == made
    assert reads
    reads.clear()
    assert await store.get_job(made.name) == made
    assert not reads
    lease = await store.lease_job(coordinator="c", lease_us=30_000_000)
    assert lease is not None
    assert await store.get_job(made.name) == lease.job
    extended = await store.heartbeat(made.name, epoch=lease.job.epoch, lease_us=60_000_000)
    assert await store.get_job(made.name) == extended
    assert (await store.cancel_job(made.name)).state == (await store.get_job(made.name)).state
    await store.release_job(made.name, epoch=lease.job.epoch, outcome=None)
    await store.delete_job(made.name)
    with pytest.raises(JobNotFoundError):
        await store.get_job(made.name)


async def test_what_was_acknowledged_is_seen(store: SqlStore) -> None:
    name = (await store.create_job(named("a"))).name
    acknowledged, done = 0, asyncio.Event()

    async def write() -> None:
        nonlocal acknowledged
        for priority in range(1, 200):
            await store.update_job(name, Update(priority=priority))
            acknowledged = priority
        done.set()

    async def read() -> int:
        count = 0
        while not done.is_set():
            least = acknowledged
            assert (await store.get_job(name)).priority >= least
            count += 1
            await asyncio.sleep(0)
        return count

    counts = (await asyncio.gather(write(), *(read() for _ in range(8))))[1:]
    assert min(int(count or 0) for count in counts) > 100
    assert (await store.get_job(name)).priority == 199
