"""Databases that released versions wrote: a conductor starts on each, reads everything, and goes on.

`data/store-NNNN.db` was written by the code at revision NNNN: six jobs, one in each state, those of 0002 as it upgraded
them. It is never changed; a revision gets a file of its own when the next one comes.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diminuendo.v1 import coordinator_service_pb2, job_pb2, job_service_pb2

from diminuendo.services.conductor.app import conducting
from diminuendo.services.conductor.settings import ConductorSettings
from diminuendo.services.conductor.store.migrate import MIGRATIONS

DATA = Path(__file__).parent / "data"
START = 1_700_000_000
STATES = {
    "p/jobs/queued": (job_pb2.JOB_STATE_QUEUED, 1),
    "p/jobs/running": (job_pb2.JOB_STATE_RUNNING, 10),
    "p/jobs/cancelling": (job_pb2.JOB_STATE_CANCELLING, 4),
    "q/jobs/cancelled": (job_pb2.JOB_STATE_CANCELLED, 2),
    "p/jobs/failed": (job_pb2.JOB_STATE_FAILED, 4),
    "p/jobs/succeeded": (job_pb2.JOB_STATE_SUCCEEDED, 6),
}
"""Newest first, with the number of events."""
RUNNING = "projects/p/jobs/running"


@pytest.fixture(params=sorted(path.stem.rpartition("-")[2] for path in DATA.glob("store-*.db")))
def old(request: pytest.FixtureRequest, settings: ConductorSettings) -> str:
    """The revision of the database that the conductor will find."""
    settings.data_dir.mkdir()
    shutil.copy(DATA / f"store-{request.param}.db", settings.data_dir / "diminuendo.db")
    return str(request.param)


def revision(file: Path) -> str:
    connection = sqlite3.connect(file)
    (found,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    connection.close()
    return str(found)


def test_every_revision_but_the_newest_has_a_database() -> None:
    revisions = sorted(path.name[:4] for path in (MIGRATIONS / "versions").glob("*.py"))
    kept = sorted(path.stem.rpartition("-")[2] for path in DATA.glob("store-*.db"))
    assert kept[: len(revisions[:-1])] == revisions[:-1]
    for name in kept:
        assert revision(DATA / f"store-{name}.db") == name


async def test_what_old_outcomes_and_results_name_is_kept(
    settings: ConductorSettings, clock: Any, connect: Callable[[str], Any]
) -> None:
    """Nobody said then what an opaque outcome names: whatever looks like a sha256 in it counts."""
    file = settings.data_dir / "diminuendo.db"
    settings.data_dir.mkdir()
    shutil.copy(DATA / "store-0002.db", file)
    named, longer = "3f" * 32, "3e" * 33
    connection = sqlite3.connect(file)
    outcome = f'{{"weights":"{named}","again":"{named}","no":"{longer}","NO":"{named.upper()}"}}'.encode()
    connection.execute("UPDATE evaluations SET outcome = ? WHERE key = ?", (outcome, "b" * 64))
    connection.execute("UPDATE evaluations SET key = ? WHERE key = ?", ("e" * 64, "c" * 64))  # nobody has reported it
    connection.execute("UPDATE evaluations SET outcome = ? WHERE key = ?", (("5d" * 32).encode(), "e" * 64))
    connection.commit()
    connection.close()
    clock.micros = (START + 5) * 1_000_000
    async with conducting(settings, clock=clock) as running:
        content = ["0" * 64, named, longer[:64], named.upper(), "5d" * 32]
        found = await running.store.sort_artifacts(content, unused_before=0)
        assert found.held == {"0" * 64, named}, "a result's file, and what a running job's evaluation names"
        await running.store.age_evaluations(unused_before=0)
        clock.advance(10)
        assert await running.store.age_evaluations(unused_before=clock.micros) == 1
        assert set(await running.store.get_evaluations(["a" * 64, "b" * 64, "e" * 64])) == {"a" * 64, "b" * 64}


async def test_everything_is_read_and_goes_on(
    old: str, settings: ConductorSettings, clock: Any, connect: Callable[[str], Any]
) -> None:
    clock.micros = (START + 5) * 1_000_000
    async with conducting(settings, clock=clock) as running:
        api = connect(running.grpc)
        listed = (await api.jobs.ListJobs(job_service_pb2.ListJobsRequest(parent="projects/-"), timeout=10)).jobs
        assert {j.name.removeprefix("projects/"): (j.state, j.last_sequence) for j in listed} == STATES
        assert [job.name.removeprefix("projects/") for job in listed] == list(STATES)
        for job in listed:
            assert job == await api.get(job.name)
            assert (job.spec.zoo, job.spec.delta, job.spec.seed) == ("digits", 1.0, 3)
            assert dict(job.labels) == {"team": "vision"}
            watch = api.watch(job.name)
            events = [await watch.read() for _ in range(job.last_sequence)]
            watch.cancel()
            assert [event.sequence for event in events] == list(range(1, job.last_sequence + 1))
            changes = [event.state_changed.state for event in events if event.HasField("state_changed")]
            assert (changes[0], changes[-1]) == (job_pb2.JOB_STATE_QUEUED, job.state)
        by_id = {job.name.rpartition("/")[2]: job for job in listed}
        assert by_id["queued"].spec.effort == job_pb2.EFFORT_DEEP
        assert (by_id["succeeded"].result.drop, by_id["succeeded"].result.files[0].name) == (0.5, "plan.json")
        assert (by_id["failed"].failure.reason, by_id["failed"].failure.message) == ("USER_CODE", "it broke")
        assert by_id["running"].progress.steps == 3
        assert by_id["running"].start_time.seconds > START
        assert (await api.create("again", "r-other")).last_sequence == 1

        keys = [letter * 64 for letter in "abcd"]
        request = coordinator_service_pb2.BatchGetEvaluationsRequest(keys=keys)
        known = (await api.coordinators.BatchGetEvaluations(request, timeout=10)).evaluations
        assert {e.key[0]: e.outcome for e in known} == {"a": b"outcome a", "b": b"outcome b", "c": b"outcome c"}

        assert (await api.lease("c2", request_id="l2")).epoch == 2, "the lease that it still holds"
        again = await api.lease("c2", request_id="l3")
        assert (again.job.name, again.epoch, again.next_step, again.session_state) == (RUNNING, 3, 3, b"state 1")
        await api.commit(RUNNING, 3, 3)
        await api.finish(RUNNING, 3)
        assert (await api.lease("c1")).job.name == "projects/p/jobs/queued"
        assert (await api.get("projects/p/jobs/cancelling")).state == job_pb2.JOB_STATE_CANCELLED, "c1 had lost it"
    newest = max(path.name[:4] for path in (MIGRATIONS / "versions").glob("*.py"))
    assert revision(settings.data_dir / "diminuendo.db") == newest
