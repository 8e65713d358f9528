"""Several stores on one PostgreSQL, as several conductors have them: nothing is done twice, everybody hears of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator

import psycopg
import pytest
from diminuendo.v1 import job_pb2
from sqlalchemy import make_url
from tests.postgres import Postgres

from diminuendo.services.common.errors import JobExistsError, RequestReusedError, StepOutOfOrderError
from diminuendo.services.conductor.records import (
    Changes,
    CommittedStep,
    NewFleet,
    NewJob,
    Report,
    RequestId,
    State,
    WantedModel,
)
from diminuendo.services.conductor.store import replicas
from diminuendo.services.conductor.store.sql import SqlStore

NewJobs = Callable[..., NewJob]
Steps = Callable[..., CommittedStep]
Reports = Callable[..., Report]
Pair = tuple[SqlStore, SqlStore]
LEASE = 30_000_000


@pytest.fixture
def url(postgres: Postgres) -> Iterator[str]:
    with postgres.database() as url:
        yield url


@pytest.fixture
async def pair(url: str, now: list[int]) -> AsyncIterator[Pair]:
    stores = [await asyncio.to_thread(SqlStore.open, url, clock=lambda: now[0]) for _ in range(2)]
    yield stores[0], stores[1]
    for store in stores:
        await store.close()


class Heard:
    """What a store tells, and a way to wait for it."""

    def __init__(self, store: SqlStore) -> None:
        self.changes: list[Changes] = []
        self._loop, self._more = asyncio.get_running_loop(), asyncio.Event()
        store.subscribe(self._hear)

    def _hear(self, changes: Changes) -> None:
        self.changes.append(changes)
        self._loop.call_soon_threadsafe(self._more.set)

    async def until(self, true: Callable[[list[Changes]], bool]) -> None:
        async with asyncio.timeout(10):
            while not true(self.changes):
                self._more.clear()
                await self._more.wait()


async def test_of_many_who_lease_no_two_get_one_job(pair: Pair, new_job: NewJobs) -> None:
    for i in range(30):
        await pair[i % 2].create_job(new_job(f"a{i}"))
    asked = (pair[i % 2].lease_job(coordinator=f"c{i}", request_id="r", lease_us=LEASE) for i in range(40))
    leases = [lease for lease in await asyncio.gather(*asked) if lease is not None]
    assert len({lease.job.name for lease in leases}) == len(leases) == 30
    assert {lease.job.epoch for lease in leases} == {1}
    for lease in leases:
        kinds = [event.WhichOneof("kind") for event in (await pair[0].read_events(lease.job.name)).events]
        assert kinds == ["state_changed", "state_changed", "leased"]


async def test_one_lease_request_at_two_conductors_gets_one_job(pair: Pair, new_job: NewJobs) -> None:
    for i in range(4):
        await pair[0].create_job(new_job(f"a{i}"))
    asked = (pair[i % 2].lease_job(coordinator="c", request_id="r", lease_us=LEASE) for i in range(10))
    leases = await asyncio.gather(*asked)
    assert {(lease.job.name, lease.job.epoch) for lease in leases if lease} == {("projects/p/jobs/a0", 1)}
    assert len(leases) == 10
    assert (await pair[0].count_jobs())[State.RUNNING] == 1


async def test_one_request_at_two_conductors_makes_one_job(pair: Pair, new_job: NewJobs) -> None:
    for k in range(5):
        request = RequestId("p", f"r{k}", "digest")
        made = await asyncio.gather(*(pair[i % 2].create_job(new_job(f"a{k}-{i}"), request) for i in range(8)))
        assert len({job.name for job in made}) == 1
        with pytest.raises(RequestReusedError):
            await pair[k % 2].create_job(new_job("b"), RequestId("p", f"r{k}", "another"))
    assert len(await pair[0].list_jobs()) == 5


async def test_one_name_is_given_once(pair: Pair, new_job: NewJobs) -> None:
    tries = [pair[i % 2].create_job(new_job("a"), RequestId("p", f"r{i}", "d")) for i in range(10)]
    done = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(job, JobExistsError) for job in done) == 9, done
    assert len(await pair[0].list_jobs()) == 1


async def test_a_step_is_committed_once(pair: Pair, new_job: NewJobs, new_step: Steps) -> None:
    job = await pair[0].create_job(new_job("a"))
    await pair[0].lease_job(coordinator="c", lease_us=LEASE)
    for number in range(4):
        tries = [pair[i % 2].commit_step(job.name, epoch=1, step=new_step(number, summary=str(i))) for i in range(6)]
        done = await asyncio.gather(*tries, return_exceptions=True)
        assert sum(result is True for result in done) == 1
        assert sum(isinstance(result, StepOutOfOrderError) for result in done) == 5
    page = await pair[1].read_events(job.name)
    assert [e.step_committed.step for e in page.events if e.HasField("step_committed")] == [0, 1, 2, 3]
    assert [e.sequence for e in page.events] == list(range(1, page.job.last_sequence + 1))


async def test_a_job_ends_once_whoever_comes_first(pair: Pair, new_job: NewJobs) -> None:
    for k in range(5):
        job = await pair[0].create_job(new_job(f"a{k}"))
        await pair[0].lease_job(coordinator=f"c{k}", lease_us=LEASE)
        await asyncio.gather(
            pair[0].cancel_job(job.name),
            pair[1].release_job(job.name, epoch=1, outcome=job_pb2.JobResult(drop=0.5)),
            pair[0].release_job(job.name, epoch=1, outcome=job_pb2.JobFailure(reason="R", message="m")),
            pair[1].cancel_job(job.name),
            return_exceptions=True,
        )
        page = await pair[0].read_events(job.name)
        entered = [State(e.state_changed.state) for e in page.events if e.HasField("state_changed")]
        assert sum(state.final for state in entered) == 1
        assert entered[-1] is page.job.state


async def test_reports_of_the_same_keys_in_opposite_orders_all_arrive(
    pair: Pair, new_job: NewJobs, new_report: Reports
) -> None:
    names = [(await pair[0].create_job(new_job(f"a{i}"))).name for i in range(2)]
    for i in range(2):
        await pair[0].lease_job(coordinator=f"c{i}", lease_us=LEASE)
    keys = [f"{k:064}" for k in range(20)]

    async def report(which: int, order: list[str]) -> list[bool]:
        store, name = pair[which], names[which]
        given = (
            store.report_evaluation(name, epoch=1, report=new_report(int(k), k, f"{which}".encode())) for k in order
        )
        return await asyncio.gather(*given)

    done = await asyncio.gather(report(0, keys), report(1, keys[::-1]))
    assert list(done) == [[True] * 20, [True] * 20]
    assert set(await pair[0].get_evaluations(keys)) == set(keys)
    for name in names:
        page = await pair[1].read_events(name)
        assert [e.sequence for e in page.events] == list(range(1, 24))


async def test_two_batches_that_wait_for_each_other_both_get_through(
    pair: Pair, new_job: NewJobs, new_step: Steps
) -> None:
    names = [(await pair[0].create_job(new_job(f"a{i}"))).name for i in range(6)]
    for i in range(6):
        await pair[0].lease_job(coordinator=f"c{i}", lease_us=LEASE)

    async def beat(store: SqlStore, order: list[str]) -> None:
        await asyncio.gather(*(store.heartbeat(name, epoch=1, lease_us=LEASE) for name in order))

    for _ in range(2):
        await asyncio.gather(beat(pair[0], names), beat(pair[1], names[::-1]))


async def test_changes_are_told_at_every_conductor_once(pair: Pair, new_job: NewJobs) -> None:
    heard = [Heard(store) for store in pair]
    job = await pair[0].create_job(new_job("a"))
    await pair[1].lease_job(coordinator="c", lease_us=LEASE)
    await pair[0].heartbeat(job.name, epoch=1, lease_us=LEASE)
    await pair[0].cancel_job(job.name)
    only = frozenset({job.name})
    expected = [Changes(only, queue=True), Changes(only), Changes(only, parting=True)]
    for each in heard:
        await each.until(lambda changes: len(changes) >= 3)
        assert sorted(each.changes, key=expected.index) == expected


async def test_models_of_a_fleet_that_change_at_one_are_told_at_the_other(pair: Pair) -> None:
    fleet, spec = f"projects/{'p' * 63}/fleets/{'f' * 40}", job_pb2.JobSpec(zoo="digits", delta=1.0)
    models = [f"{'m' * 59}{i:04}" for i in range(100)]
    project = fleet.split("/")[1]
    new = (NewJob(name="", project=project, spec=spec, labels={}, fleet=fleet, model=model) for model in models)
    wanted = [WantedModel(one) for one in new]
    await pair[0].fleets.create(NewFleet(name=fleet, project=project, labels={}))
    heard = Heard(pair[1])
    await pair[0].fleets.create_jobs(fleet, wanted)
    expected = {(fleet, model) for model in models}
    await heard.until(lambda changes: {pair for told in changes for pair in told.models} == expected)


async def test_many_changes_at_once_are_all_told(pair: Pair, new_job: NewJobs) -> None:
    heard = Heard(pair[1])
    names = [f"{i:03}".ljust(63, "x") for i in range(120)]
    made = await asyncio.gather(*(pair[0].create_job(new_job(name, "p" * 63)) for name in names))
    expected = {job.name for job in made}
    await heard.until(lambda changes: set[str]().union(*(change.jobs for change in changes)) == expected)


async def test_a_change_that_is_not_committed_is_not_told(pair: Pair, new_job: NewJobs) -> None:
    heard = Heard(pair[1])
    await pair[0].create_job(new_job("a"))
    with pytest.raises(JobExistsError):
        await pair[0].create_job(new_job("a"))
    await pair[0].create_job(new_job("b"))
    await heard.until(lambda changes: any("projects/p/jobs/b" in change.jobs for change in changes))
    assert len(heard.changes) == 2


async def test_a_listener_that_was_cut_off_looks_at_everything(pair: Pair, url: str, new_job: NewJobs) -> None:
    heard = Heard(pair[1])
    name = make_url(url).database
    info = make_url(url).set(drivername="postgresql").render_as_string()
    with psycopg.connect(info, autocommit=True) as connection:
        listening = "query = 'LISTEN diminuendo' OR query = 'SELECT 1'"
        ended = connection.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND ({listening})".encode(),
            [name],
        ).fetchall()
    assert ended == [(True,), (True,)]
    await heard.until(lambda changes: Changes(everything=True) in changes)
    await pair[0].create_job(new_job("a"))
    await heard.until(lambda changes: any("projects/p/jobs/a" in change.jobs for change in changes))


def test_what_another_version_says_means_look_at_everything() -> None:
    for words in ("", "[]", "{}", '{"sender": "x"}', "not json", '{"sender": "x", "jobs": 1, "queue": 0}'):
        assert replicas._parse(words, "me") == Changes(everything=True), words
    told = json.dumps({"sender": "x", "jobs": ["j"], "queue": True, "parting": False, "more": 1})
    assert replicas._parse(told, "me") == Changes(frozenset({"j"}), queue=True)
    assert replicas._parse(told, "x") is None


async def test_a_row_that_somebody_holds_is_waited_for(pair: Pair, url: str, new_job: NewJobs) -> None:
    """Longer than one wait for a lock, so that the operation is made again; the others are not held up for good."""
    held, other = [(await pair[0].create_job(new_job(name))).name for name in ("held", "other")]
    info = make_url(url).set(drivername="postgresql").render_as_string()
    with psycopg.connect(info) as connection:
        connection.execute("SELECT 1 FROM jobs WHERE name = %s FOR UPDATE", [held])
        cancelling = asyncio.create_task(pair[0].cancel_job(held))
        assert (await pair[1].cancel_job(other)).state is State.CANCELLED
        await asyncio.sleep(0.4)
        assert not cancelling.done()
        connection.rollback()
    assert (await asyncio.wait_for(cancelling, 5)).state is State.CANCELLED
