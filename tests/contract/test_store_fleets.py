"""The store's contract: fleets, the jobs of their models, what listings and listeners are told of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import pytest
from diminuendo.v1 import job_pb2

from diminuendo.services.common.errors import (
    BundleMissingError,
    DiminuendoError,
    FleetActiveError,
    FleetExistsError,
    FleetFullError,
    FleetNotFoundError,
    InvalidFieldError,
    JobActiveError,
    JobNotRetriedError,
    ModelDiffersError,
    ModelNotFoundError,
    Violation,
)
from diminuendo.services.conductor import fleets as rules
from diminuendo.services.conductor.records import (
    Changes,
    FleetCounts,
    Job,
    Listing,
    ModelOutcome,
    NewFleet,
    NewJob,
    State,
    WantedModel,
)
from diminuendo.services.conductor.store.base import Store
from diminuendo.services.conductor.store.fleets import JOBS_TOGETHER

Open = Callable[[], Awaitable[Store]]
LEASE = 30_000_000
FLEET = "projects/p/fleets/f"
FAILURE = job_pb2.JobFailure(reason="INTERNAL", message="m")


def new_fleet(fleet: str = FLEET, **labels: str) -> NewFleet:
    return NewFleet(name=fleet, project=fleet.split("/")[1], labels=labels)


def wanted(model: str, *, seed: int = 0, fleet: str = FLEET, refusal: DiminuendoError | None = None) -> WantedModel:
    spec = job_pb2.JobSpec(zoo="digits", delta=1.0, seed=seed)
    new = NewJob(name="", project=fleet.split("/")[1], spec=spec, labels={"team": "a"}, fleet=fleet, model=model)
    return WantedModel(new, refusal)


async def add(store: Store, *models: str, seed: int = 0, fleet: str = FLEET) -> Sequence[ModelOutcome]:
    return await store.fleets.create_jobs(fleet, [wanted(model, seed=seed, fleet=fleet) for model in models])


def ids(found: Sequence[Job | ModelOutcome]) -> list[str]:
    jobs = [one.job if isinstance(one, ModelOutcome) else one for one in found]
    return [job.name.rpartition("/")[2] for job in jobs if job is not None]


async def end(store: Store, outcome: job_pb2.JobResult | job_pb2.JobFailure) -> Job:
    """Lease the next job, and end it."""
    lease = await store.lease_job(coordinator="c", lease_us=LEASE)
    assert lease is not None
    return await store.release_job(lease.job.name, epoch=lease.job.epoch, outcome=outcome)


async def test_a_fleet_comes_back_as_it_was_given(store: Store, now: list[int]) -> None:
    made = await store.fleets.create(new_fleet(team="a"))
    assert await store.fleets.get(FLEET) == made
    assert (made.project, made.labels, made.create_time, made.update_time) == ("p", {"team": "a"}, now[0], now[0])
    assert (made.counts, made.counts.models) == (FleetCounts(), 0)
    with pytest.raises(FleetExistsError, match="fleet_id 'f' is taken"):
        await store.fleets.create(new_fleet())
    await add(store, "a")
    again = await store.fleets.create(new_fleet(team="b"), allow_existing=True)
    assert (again.id, again.labels, again.counts.models) == (made.id, {"team": "a"}, 1)


async def test_an_unknown_fleet_is_not_found(store: Store) -> None:
    for call in (
        store.fleets.get(FLEET),
        store.fleets.create_jobs(FLEET, [wanted("a")]),
        store.fleets.retry(FLEET),
        store.fleets.retry(FLEET, ["a"]),
        store.fleets.cancel(FLEET),
        store.fleets.delete(FLEET),
    ):
        with pytest.raises(FleetNotFoundError, match=f"no fleet '{FLEET}'"):
            await call
    await store.fleets.delete(FLEET, allow_missing=True)
    assert await store.fleets.models_after(FLEET, limit=10) == []
    assert await store.fleets.newest(FLEET, ["a"]) == {}
    assert await store.list_jobs() == []


async def test_each_model_gets_one_job_however_often_it_is_asked_for(store: Store) -> None:
    await store.fleets.create(new_fleet())
    first = await add(store, "a", "b")
    assert [(one.model, one.created, one.error) for one in first] == [("a", True, None), ("b", True, None)]
    assert ids(first) == ["f-a", "f-b"]
    again = await add(store, "b", "c", "a")
    assert [one.created for one in again] == [False, True, False]
    assert ids(again) == ["f-b", "f-c", "f-a"]
    job = again[1].job
    assert job is not None
    assert (job.fleet, job.model, job.state, job.labels) == (FLEET, "c", State.QUEUED, {"team": "a"})
    assert await store.get_job(job.name) == job
    assert [event.sequence for event in (await store.read_events(job.name)).events] == [1]


@pytest.mark.parametrize("by_chance", [False, True], ids=["names that meet", "names by chance"])
async def test_the_same_batch_twice_at_the_same_time_makes_one_job_of_each(open_store: Open, by_chance: bool) -> None:
    stores = [await open_store(), await open_store()]
    await stores[0].fleets.create(new_fleet())
    models = [f"m{i}" for i in range(2 * JOBS_TOGETHER)]
    if by_chance:
        for one in models:
            await stores[0].create_job(replace(wanted(one).new, name=f"projects/p/jobs/f-{one}", fleet="", model=""))
    batches = (add(stores[i % 2], *(models if i % 3 else reversed(models))) for i in range(6))
    outcomes = await asyncio.gather(*batches)
    assert all(one.error is None for made in outcomes for one in made)
    assert sum(one.created for made in outcomes for one in made) == len(models)
    listed = await stores[1].list_jobs(Listing(limit=1000, fleet=FLEET))
    assert sorted(job.model for job in listed) == sorted(models)


async def test_a_model_that_is_refused_disturbs_no_other(store: Store) -> None:
    await store.fleets.create(new_fleet())
    wrong = InvalidFieldError([Violation("job.spec.bundle", "is too large")])
    gone = "0" * 64
    (due,) = (await store.sort_artifacts([gone], unused_before=0)).waiting
    await store.sort_artifacts([due], unused_before=2**62)  # on its way out
    on_bundle = wanted("bundled")
    on_bundle.new.spec.bundle = f"projects/p/bundles/{gone}"
    outcomes = await store.fleets.create_jobs(FLEET, [wanted("a"), wanted("b", refusal=wrong), on_bundle, wanted("c")])
    assert [type(one.error) for one in outcomes] == [type(None), InvalidFieldError, BundleMissingError, type(None)]
    assert [one.created for one in outcomes] == [True, False, False, True]
    assert ids(outcomes) == ["f-a", "f-c"]
    there = await store.fleets.create_jobs(FLEET, [wanted("a", refusal=wrong)])
    assert (there[0].error, ids(there)) == (None, ["f-a"]), "what is there already needs nothing"


async def test_a_changed_model_is_refused_or_replaced_once_its_job_has_ended(store: Store) -> None:
    await store.fleets.create(new_fleet())
    await add(store, "a")
    changed = [wanted("a", seed=1), wanted("b", seed=1)]
    refused, made = await store.fleets.create_jobs(FLEET, changed)
    assert isinstance(refused.error, ModelDiffersError)
    assert "model 'a' has projects/p/jobs/f-a, which is QUEUED, with another spec" in str(refused.error)
    assert (ids([refused]), made.created) == (["f-a"], True)
    active, there = await store.fleets.create_jobs(FLEET, changed, replace_changed=True)
    assert isinstance(active.error, JobActiveError)
    assert (there.created, there.error) == (False, None)
    await store.cancel_job("projects/p/jobs/f-a")
    replaced, there = await store.fleets.create_jobs(FLEET, changed, replace_changed=True)
    assert (replaced.created, there.created, ids([replaced])) == (True, False, ["f-a-2"])
    assert replaced.job is not None
    assert (replaced.job.retry_of, replaced.job.spec.seed) == ("", 1)
    assert not (await store.fleets.create_jobs(FLEET, changed, replace_changed=True))[0].created


async def test_names_are_cleaned_short_and_free(store: Store) -> None:
    fleet = f"projects/p/fleets/{'f' * 40}"
    await store.fleets.create(new_fleet(fleet))
    long = "m" * 63
    outcomes = await add(store, "a.b", "a_b", long, long[:-1] + "x", fleet=fleet)
    made = ids(outcomes)
    assert made[0] == f"{'f' * 40}-a-b"
    assert made[1].startswith(f"{'f' * 40}-a-b-")
    assert made[2] == f"{'f' * 40}-{'m' * 22}"
    assert made[3].startswith(f"{'f' * 40}-{'m' * 15}-")
    assert [len(one) for one in made] == [44, 51, 63, 63]


async def test_a_fleet_takes_no_more_models_than_one_may_have(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MAX_MODELS", 2)
    await store.fleets.create(new_fleet())
    outcomes = await add(store, "a", "b", "c")
    assert [type(one.error) for one in outcomes] == [type(None), type(None), FleetFullError]
    outcomes = await add(store, "d", "a")
    assert [type(one.error) for one in outcomes] == [FleetFullError, type(None)]


async def test_counts_are_of_the_newest_jobs(store: Store, now: list[int]) -> None:
    await store.fleets.create(new_fleet())
    await store.fleets.create(new_fleet("projects/p/fleets/g"))
    await add(store, "in", "out", "broken", "waits")
    now[0] += 5
    for outcome in (
        job_pb2.JobResult(inside_delta=True, drop=0.5),
        job_pb2.JobResult(drop=1.5, params_ratio=2.0),
        FAILURE,
    ):
        await end(store, outcome)
    counts = {State.QUEUED: 1, State.SUCCEEDED: 2, State.FAILED: 1}
    fleet = await store.fleets.get(FLEET)
    assert (fleet.counts, fleet.counts.models) == (FleetCounts(counts, inside_delta=1), 4)
    assert (fleet.create_time, fleet.update_time) == (now[0] - 5, now[0])
    await store.fleets.retry(FLEET)
    assert (await store.fleets.get(FLEET)).counts.states == {State.QUEUED: 2, State.SUCCEEDED: 2}
    await store.cancel_job("projects/p/jobs/f-broken-2")
    await store.delete_job("projects/p/jobs/f-broken-2")
    listed = await store.fleets.page("p")
    assert [one.name for one in listed] == ["projects/p/fleets/g", FLEET]
    assert [one.counts for one in listed] == [FleetCounts(), FleetCounts(counts, inside_delta=1)]


async def test_fleets_are_listed_newest_first_and_paged(store: Store) -> None:
    names = [f"projects/{project}/fleets/f{i}" for i in range(3) for project in ("p", "q")]
    for name in names:
        await store.fleets.create(new_fleet(name))
    assert [fleet.name for fleet in await store.fleets.page()] == names[::-1]
    page = await store.fleets.page("p", limit=2)
    assert [fleet.name for fleet in page] == ["projects/p/fleets/f2", "projects/p/fleets/f1"]
    rest = await store.fleets.page("p", after=page[-1].id)
    assert [fleet.name for fleet in rest] == ["projects/p/fleets/f0"]


async def test_all_that_failed_is_tried_again(store: Store) -> None:
    await store.fleets.create(new_fleet())
    await add(store, "a", "b", "c", "d")
    for _ in range(2):
        await end(store, FAILURE)
    await store.cancel_job("projects/p/jobs/f-c")
    retried = await store.fleets.retry(FLEET)
    assert [(one.model, one.created) for one in retried] == [("a", True), ("b", True)]
    assert [one.job.retry_of for one in retried if one.job] == ["projects/p/jobs/f-a", "projects/p/jobs/f-b"]
    assert ids(retried) == ["f-a-2", "f-b-2"]
    assert await store.fleets.retry(FLEET) == [], "nothing failed that was not tried again"


async def test_models_that_are_named_are_tried_again(store: Store) -> None:
    await store.fleets.create(new_fleet())
    await add(store, "a", "b")
    await store.cancel_job("projects/p/jobs/f-b")
    queued, tried, unknown = await store.fleets.retry(FLEET, ["a", "b", "no"])
    assert isinstance(queued.error, JobNotRetriedError)
    assert ids([queued]) == ["f-a"]
    assert (tried.error, tried.created, ids([tried])) == (None, True, ["f-b-2"])
    assert isinstance(unknown.error, ModelNotFoundError)
    assert unknown.job is None


async def test_another_try_of_a_job_is_its_models_newest(store: Store) -> None:
    await store.fleets.create(new_fleet())
    await add(store, "a")
    await store.cancel_job("projects/p/jobs/f-a")
    await store.retry_job("projects/p/jobs/f-a", "projects/p/jobs/mine")
    assert ids(list((await store.fleets.newest(FLEET, ["a"])).values())) == ["mine"]
    assert not (await add(store, "a"))[0].created


async def test_cancelling_ends_all_that_has_not_ended(store: Store) -> None:
    await store.fleets.create(new_fleet())
    await add(store, *(f"m{i:03}" for i in range(2 * JOBS_TOGETHER + 3)))
    await end(store, job_pb2.JobResult(inside_delta=True))
    lease = await store.lease_job(coordinator="c", lease_us=LEASE)
    assert lease is not None
    fleet = await store.fleets.cancel(FLEET)
    states = {State.SUCCEEDED: 1, State.CANCELLING: 1, State.CANCELLED: 2 * JOBS_TOGETHER + 1}
    assert fleet.counts == FleetCounts(states, inside_delta=1)
    sequence = lease.job.last_sequence + 1
    assert (await store.get_job(lease.job.name)).last_sequence == sequence
    await store.fleets.cancel(FLEET)
    assert (await store.get_job(lease.job.name)).last_sequence == sequence, "it was asked for before"


async def test_a_fleet_is_deleted_with_its_jobs_once_they_have_ended(store: Store) -> None:
    await store.fleets.create(new_fleet())
    await store.fleets.create(new_fleet("projects/p/fleets/g"))
    await add(store, *(f"m{i:02}" for i in range(25)))
    await add(store, "kept", fleet="projects/p/fleets/g")
    lease = await store.lease_job(coordinator="c", lease_us=LEASE)
    assert lease is not None
    await store.fleets.cancel(FLEET)
    with pytest.raises(FleetActiveError, match=f"as {lease.job.name}"):
        await store.fleets.delete(FLEET)
    assert len(await store.list_jobs()) == 26, "nothing is gone"
    await store.release_job(lease.job.name, epoch=1, outcome=None)
    await store.fleets.delete(FLEET)
    assert ids(await store.list_jobs()) == ["g-kept"]
    assert [fleet.name for fleet in await store.fleets.page()] == ["projects/p/fleets/g"]
    with pytest.raises(FleetNotFoundError):
        await store.fleets.delete(FLEET)
    await store.fleets.create(new_fleet())
    assert [one.created for one in await add(store, "m00")] == [True]


async def test_jobs_are_listed_by_fleet_and_by_model(store: Store) -> None:
    await store.fleets.create(new_fleet())
    await store.fleets.create(new_fleet("projects/p/fleets/g"))
    await add(store, "a", "b", "c")
    await add(store, "a", fleet="projects/p/fleets/g")
    await store.cancel_job("projects/p/jobs/f-a")
    await store.fleets.retry(FLEET, ["a"])
    assert ids(await store.list_jobs(Listing(fleet=FLEET))) == ["f-a-2", "f-c", "f-b", "f-a"]
    newest = Listing("p", fleet=FLEET, newest_of_model=True, limit=2)
    assert ids(await store.list_jobs(newest)) == ["f-a-2", "f-c"]
    cancelled = Listing(states=frozenset({State.CANCELLED}), fleet=FLEET)
    assert ids(await store.list_jobs(cancelled)) == ["f-a"]
    newest_of_them = Listing(states=frozenset({State.CANCELLED}), fleet=FLEET, newest_of_model=True)
    assert ids(await store.list_jobs(newest_of_them)) == []


async def test_the_newest_jobs_are_read_in_the_order_of_their_models(store: Store) -> None:
    await store.fleets.create(new_fleet())
    await add(store, "d", "a", "c", "b")
    await store.cancel_job("projects/p/jobs/f-c")
    await store.fleets.retry(FLEET, ["c"])
    assert ids(await store.fleets.models_after(FLEET, limit=10)) == ["f-a", "f-b", "f-c-2", "f-d"]
    assert ids(await store.fleets.models_after(FLEET, "a", limit=2)) == ["f-b", "f-c-2"]
    some = await store.fleets.newest(FLEET, ["c", "no", "a"])
    assert {model: job.name.rpartition("/")[2] for model, job in some.items()} == {"a": "f-a", "c": "f-c-2"}


async def test_listeners_are_told_which_models_have_changed(store: Store) -> None:
    await store.fleets.create(new_fleet())
    told: list[Changes] = []
    store.subscribe(told.append)
    await add(store, "a", "b")
    await store.lease_job(coordinator="c", lease_us=LEASE)
    await store.fleets.cancel(FLEET)
    await store.release_job("projects/p/jobs/f-a", epoch=1, outcome=None)
    await store.delete_job("projects/p/jobs/f-a")
    one, both = {(FLEET, "a")}, {(FLEET, "a"), (FLEET, "b")}
    assert [set(changes.models) for changes in told] == [both, one, both, one, one]
    assert {name for changes in told for name in changes.jobs} == {"projects/p/jobs/f-a", "projects/p/jobs/f-b"}
    told.clear()
    await store.fleets.delete(FLEET)
    assert [set(changes.models) for changes in told] == [{(FLEET, "b")}]
