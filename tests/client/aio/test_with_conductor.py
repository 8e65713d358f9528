"""The asyncio client against a real conductor: one that is killed, and one that hundreds follow."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from tests.client.conductor import Conductor
from tests.client.test_with_conductor import Coordinator

from diminuendo.client import (
    AlreadyExistsError,
    AsyncClient,
    ClientConfig,
    ConflictError,
    DiminuendoError,
    Event,
    FleetModel,
    JobState,
    NotFoundError,
    StateChanged,
    StepCommitted,
    WaitTimeoutError,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.client.conftest import Recorded


@pytest.fixture(scope="module")
def conductor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Conductor]:
    """One for all tests here; each has a project of its own."""
    conductor = Conductor(tmp_path_factory.mktemp("conductor"))
    yield conductor
    conductor.child.stop(timeout_s=15)


async def test_a_job_is_followed_to_its_files_while_the_conductor_is_killed(
    conductor: Conductor, recorded: Recorded, tmp_path: Path
) -> None:
    cuts: list[DiminuendoError] = []
    seen: list[Event] = []
    news = asyncio.Condition()

    async with AsyncClient(conductor.target, config=ClientConfig(patience_s=40)) as client:
        job = await client.submit("zoo:digits", delta=1.0, effort="quick", seed=7, labels={"team": "vision"})

        async def watch() -> None:
            async for event in job.watch(on_cut=cuts.append):
                async with news:
                    seen.append(event)
                    news.notify_all()

        async def seen_step(number: int) -> None:
            async with asyncio.timeout(30), news:
                await news.wait_for(lambda: any(isinstance(e, StepCommitted) and e.step == number for e in seen))

        watching = asyncio.create_task(watch())
        waiting = asyncio.create_task(job.wait())
        coordinator = await asyncio.to_thread(Coordinator, conductor.target, recorded)
        await asyncio.to_thread(coordinator.play, 0, 5)
        await seen_step(4)
        await asyncio.to_thread(conductor.kill)
        await asyncio.to_thread(conductor.start)
        await asyncio.to_thread(coordinator.play, 5, recorded.works)
        await asyncio.to_thread(coordinator.finish, conductor.store())
        await asyncio.wait_for(watching, 30)
        info = await asyncio.wait_for(waiting, 30)

        assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
        assert [event.step for event in seen if isinstance(event, StepCommitted)] == list(range(recorded.works))
        assert [event.state for event in seen if isinstance(event, StateChanged)] == [
            *(JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED)
        ]
        assert cuts
        assert (info.state, info.last_sequence) == (JobState.SUCCEEDED, len(seen))
        folder = await job.download(tmp_path / "out")
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == recorded.files


async def test_hundreds_follow_on_one_event_loop(conductor: Conductor) -> None:
    """Watches and waits of 250 tasks, each of which is told of every change."""
    async with AsyncClient(conductor.target, project="many", config=ClientConfig(timeout_s=60, connect_s=20)) as client:
        jobs = await asyncio.gather(*(client.submit(seed=number) for number in range(50)))

        async def watch(number: int) -> list[Event]:
            return [event async for event in jobs[number % 50].watch()]

        following = [asyncio.create_task(watch(number)) for number in range(200)]
        waiting = [asyncio.create_task(job.wait(timeout_s=60)) for job in jobs]
        listed = [job.name async for job in client.list(states=[JobState.QUEUED])]
        assert sorted(listed) == sorted(job.name for job in jobs)
        await asyncio.gather(*(job.cancel() for job in jobs))
        for events in await asyncio.wait_for(asyncio.gather(*following), 60):
            assert [event.state for event in events if isinstance(event, StateChanged)] == [
                *(JobState.QUEUED, JobState.CANCELLED)
            ]
        assert {info.state for info in await asyncio.gather(*waiting)} == {JobState.CANCELLED}


async def test_jobs_are_paused_changed_retried_and_deleted(conductor: Conductor) -> None:
    async with AsyncClient(conductor.target, project="changes", config=ClientConfig(page_size=2)) as client:
        job = await client.submit(job_id="one", labels={"team": "a"}, priority=3)
        with pytest.raises(AlreadyExistsError):
            await client.submit(job_id="one", seed=2)
        assert (await client.pause("one")).state is JobState.PAUSED
        assert (await client.resume("one")).state is JobState.QUEUED
        etag = (await job.info()).etag
        assert (await job.update(labels={"team": "b"}, etag=etag)).labels == {"team": "b"}
        with pytest.raises(ConflictError, match="get the job, and decide again"):
            await job.update(priority=4, etag=etag)
        with pytest.raises(WaitTimeoutError, match=r"is QUEUED after 0\.2 s"):
            await job.wait(timeout_s=0.2)
        await client.cancel("one")
        again = await client.retry("one", job_id="two")
        assert (await again.info()).retry_of == job.name
        assert (await client.cluster()).evaluators == await again.evaluators() == ()
        await client.delete("one")
        with pytest.raises(NotFoundError):
            await job.info()


async def test_a_fleet_is_submitted_twice_followed_and_forgotten(conductor: Conductor, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "task.py").write_text("def task():\n    ...\n")
    models = [FleetModel(name="a", source="zoo:digits"), FleetModel(name="b", bundle=tmp_path / "bundle")]
    sent: list[tuple[str, int]] = []

    async with AsyncClient(conductor.target, project="fleets", config=ClientConfig(page_size=2)) as client:
        fleet = client.fleet("vision")
        with pytest.raises(NotFoundError):
            await fleet.info()

        def on_sent(folder: Path, size: int) -> None:
            sent.append((folder.name, size))

        assert [each.created for each in await fleet.submit(models, on_sent=on_sent)] == [True, True]
        again = await fleet.submit([*models, FleetModel(name="c", source="zoo:digits", seed=1)], on_sent=on_sent)
        assert [each.created for each in again] == [False, False, True]
        assert [name for name, _ in sent] == ["bundle"], "the same content is sent once"
        assert [each.name async for each in client.fleets()] == [fleet.name]
        assert sorted([job.model async for job in fleet.jobs()]) == ["a", "b", "c"]

        told: dict[str, JobState] = {}
        caught_up = asyncio.Event()

        async def watch() -> None:
            async for update in fleet.watch():
                told.update({job.model: job.state for job in update.jobs})
                if update.caught_up:
                    caught_up.set()

        watching = asyncio.create_task(watch())
        await asyncio.wait_for(caught_up.wait(), 20)
        with pytest.raises(WaitTimeoutError, match=r"0 of 3 models of \S+ have ended after 0\.2 s; the others go on"):
            await fleet.wait(timeout_s=0.2)
        await fleet.cancel()
        await asyncio.wait_for(watching, 20)
        assert told == dict.fromkeys("abc", JobState.CANCELLED)
        assert (await fleet.wait(timeout_s=10)).states == {JobState.CANCELLED: 3}
        downloads = await fleet.download(tmp_path / "out")
        assert [(each.model, each.folder) for each in downloads] == [("a", None), ("b", None), ("c", None)]
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["fleet.json"]
        assert len((await fleet.report()).rows) == 3
        assert len(await fleet.retry(["a"])) == 1
        await fleet.cancel()
        await fleet.delete()
        assert [each async for each in client.fleets()] == []
