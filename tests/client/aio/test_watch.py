"""Following a job on asyncio: streams that are cut, repeat themselves, skip, or are left."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from diminuendo.v1 import job_pb2, job_service_pb2

from diminuendo.client import (
    AsyncClient,
    ClientConfig,
    DiminuendoError,
    Event,
    JobState,
    NotFoundError,
    ServerError,
    ServerUnavailableError,
    WaitTimeoutError,
)

if TYPE_CHECKING:
    from tests.client.conftest import FakeServer, Recorded


async def sequences(events: AsyncIterator[Event]) -> list[int]:
    return [event.sequence async for event in events]


@pytest.mark.parametrize("cuts", [[0], [5], [1, 1, 1], [0, 7, 0, 0, 2], [27]])
async def test_watch_resumes_without_loss_or_repeat(
    fake: FakeServer, aclient: AsyncClient, recorded: Recorded, cuts: list[int]
) -> None:
    fake.add(recorded.job(), recorded.events())
    fake.cuts += cuts
    seen: list[DiminuendoError] = []
    events = aclient.job("recorded").watch(on_cut=seen.append)
    assert await sequences(events) == list(range(1, len(recorded.events()) + 1))
    assert len(seen) == len(cuts)
    asked = [request.after_sequence for request in fake.asked(job_service_pb2.WatchJobRequest)]
    assert asked == [0, *itertools.accumulate(cuts)]


async def test_repeats_are_given_once_and_gaps_read_again(
    fake: FakeServer, aclient: AsyncClient, recorded: Recorded
) -> None:
    fake.add(recorded.job(), recorded.events())
    holes = iter([True, False])
    fake.garble = lambda events: [*events[:6], *events[2:4], *events[8:]] if next(holes, False) else events
    assert await sequences(aclient.job("recorded").watch()) == list(range(1, len(recorded.events()) + 1))
    assert [r.after_sequence for r in fake.asked(job_service_pb2.WatchJobRequest)] == [0, 6]


async def test_a_gap_that_stays_is_an_error(fake: FakeServer, aclient: AsyncClient, recorded: Recorded) -> None:
    fake.add(recorded.job(), recorded.events())
    fake.garble = lambda events: [*events[:6], *events[8:]]
    events = aclient.job("recorded").watch()
    assert [(await anext(events)).sequence for _ in range(6)] == [1, 2, 3, 4, 5, 6]
    with pytest.raises(ServerError, match=r"lost the events of projects/default/jobs/recorded after number 6"):
        await anext(events)


async def test_a_stream_that_outlives_its_deadline_goes_on(
    fake: FakeServer, recorded: Recorded, quick: ClientConfig
) -> None:
    events = recorded.events()
    fake.add(recorded.job(), events[:4])
    async with AsyncClient(fake.target, config=replace(quick, stream_s=0.3, patience_s=0.1)) as client:
        watching = client.job("recorded").watch(on_cut=lambda error: pytest.fail(f"cut: {error}"))
        assert [(await anext(watching)).sequence for _ in range(4)] == [1, 2, 3, 4]
        started = time.monotonic()
        fake.garble = lambda _: events if time.monotonic() - started > 0.8 else events[:4]
        assert await sequences(watching) == list(range(5, len(events) + 1))
    assert len(fake.asked(job_service_pb2.WatchJobRequest)) >= 3


async def test_cancelling_the_task_ends_the_stream_on_the_server(
    fake: FakeServer, aclient: AsyncClient, recorded: Recorded
) -> None:
    fake.add(recorded.job(), recorded.events()[:4])
    seen = asyncio.Event()

    async def watch() -> None:
        async for event in aclient.job("recorded").watch():
            if event.sequence == 4:
                seen.set()

    watching = asyncio.create_task(watch())
    await asyncio.wait_for(seen.wait(), 10)
    assert not fake.gone.is_set()
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
    assert await asyncio.to_thread(fake.gone.wait, 5)


@pytest.mark.parametrize("closing", [True, False])
async def test_leaving_the_loop_ends_the_stream_on_the_server(
    fake: FakeServer, aclient: AsyncClient, recorded: Recorded, closing: bool
) -> None:
    fake.add(recorded.job(), recorded.events()[:4])
    if closing:
        async with contextlib.aclosing(aclient.job("recorded").watch()) as events:
            async for _ in events:
                break
    else:
        async for _ in aclient.job("recorded").watch():
            break
    assert await asyncio.to_thread(fake.gone.wait, 5)


async def test_watch_gives_up_when_nobody_comes_back(
    fake: FakeServer, aclient: AsyncClient, recorded: Recorded
) -> None:
    fake.add(recorded.job(), recorded.events())
    fake.cuts += [3] + [0] * 1000
    started = time.monotonic()
    with pytest.raises(ServerUnavailableError):
        await sequences(aclient.job("recorded").watch())
    assert 1.4 < time.monotonic() - started < 6


async def test_watch_of_no_job_is_not_found_at_once(aclient: AsyncClient) -> None:
    with pytest.raises(NotFoundError, match="there is no job projects/default/jobs/none"):
        await sequences(aclient.job("none").watch())


async def test_wait_returns_the_job_as_it_ended(fake: FakeServer, aclient: AsyncClient, recorded: Recorded) -> None:
    job = recorded.job()
    fake.add(job, recorded.events())
    job.state, job.last_sequence = job_pb2.JOB_STATE_RUNNING, 5

    def finish(events: list[job_pb2.JobEvent]) -> list[job_pb2.JobEvent]:
        job.state, job.last_sequence = job_pb2.JOB_STATE_SUCCEEDED, len(events)
        return events

    fake.garble = finish
    info = await aclient.job("recorded").wait(timeout_s=5)
    assert (info.state, info.result is not None) == (JobState.SUCCEEDED, True)
    assert [r.after_sequence for r in fake.asked(job_service_pb2.WatchJobRequest)] == [5]


async def test_wait_stops_in_time_and_leaves_no_stream(
    fake: FakeServer, aclient: AsyncClient, recorded: Recorded
) -> None:
    job = recorded.job()
    fake.add(job, recorded.events()[:4])
    job.state = job_pb2.JOB_STATE_RUNNING
    with pytest.raises(WaitTimeoutError, match=r"RUNNING after 0\.3 s; it goes on"):
        await aclient.job("recorded").wait(timeout_s=0.3)
    fake.gone.clear()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await aclient.job("recorded").wait()
    assert await asyncio.to_thread(fake.gone.wait, 5)
