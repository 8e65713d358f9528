"""Every backend of the conductor's store, for the contract suite."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from diminuendo.v1 import job_pb2
from tests.postgres import Postgres

from diminuendo.services.conductor.records import CommittedStep, NewJob, Report
from diminuendo.services.conductor.store.base import Store
from diminuendo.services.conductor.store.sql import SqlStore

NOW = 1_700_000_000_000_000


@pytest.fixture
def now() -> list[int]:
    """The store's clock: one element, microseconds; set it to let time pass."""
    return [NOW]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of this test's own."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'store.db'}"
        return
    server: Postgres = request.getfixturevalue("postgres")
    with server.database() as url:
        yield url


@pytest.fixture
async def open_store(url: str, now: list[int]) -> AsyncIterator[Callable[[], Awaitable[Store]]]:
    """Opens the same store, again and again."""
    opened: list[Store] = []

    async def open_again() -> Store:
        opened.append(await asyncio.to_thread(SqlStore.open, url, clock=lambda: now[0]))
        return opened[-1]

    yield open_again
    for store in opened:
        await store.close()


@pytest.fixture
async def store(open_store: Callable[[], Awaitable[Store]]) -> Store:
    return await open_store()


@pytest.fixture
def new_job() -> Callable[..., NewJob]:
    """A job to be created, by its id."""

    def make(job_id: str, project: str = "p", *, priority: int = 0, **labels: str) -> NewJob:
        return NewJob(
            name=f"projects/{project}/jobs/{job_id}",
            project=project,
            spec=job_pb2.JobSpec(zoo="digits", delta=1.0, seed=3),
            labels={"team": "vision"} | labels,
            priority=priority,
        )

    return make


@pytest.fixture
def new_step() -> Callable[..., CommittedStep]:
    """A step by its number."""

    def make(number: int, state: bytes = b"", warnings: int = 0, summary: str = "") -> CommittedStep:
        progress = job_pb2.JobProgress(stage=job_pb2.STAGE_EXPLORE, steps=number + 1, works_done=number + 1)
        step = job_pb2.StepCommitted(step=number, progress=progress, summary=summary)
        return CommittedStep(step, state, tuple(job_pb2.Warning(reason="W", message=str(i)) for i in range(warnings)))

    return make


@pytest.fixture
def new_report() -> Callable[..., Report]:
    """An evaluation that came back, by its index and key."""

    def make(index: int, key: str, outcome: bytes = b"") -> Report:
        return Report(job_pb2.EvaluationFinished(index=index, key=key, kind="evaluate", seconds=1.5), outcome)

    return make
