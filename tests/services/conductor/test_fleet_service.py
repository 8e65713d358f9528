"""FleetService over a real channel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from diminuendo.v1 import fleet_pb2, fleet_service_pb2, job_pb2, job_service_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from tests.services.conductor.fleets import FLEET, Fleets, model, states

from diminuendo.services.conductor.app import Running
from diminuendo.services.conductor.servicers import fleet_service

Api = Any
Failing = Callable[[Awaitable[object]], Awaitable[Any]]
INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
NO_FLEET = "is no name of a fleet; give projects/PROJECT/fleets/FLEET"
QUEUED, CANCELLED, SUCCEEDED = job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_CANCELLED, job_pb2.JOB_STATE_SUCCEEDED


@pytest.fixture
def fleets(api: Api) -> Fleets:
    return Fleets(api.channel)


async def test_a_fleet_is_created_and_read(fleets: Fleets, failing: Failing) -> None:
    made = await fleets.create(fleet=fleet_pb2.Fleet(labels={"team": "a"}, name="ignored"))
    assert (made.name, dict(made.labels)) == (FLEET, {"team": "a"})
    assert made.create_time == made.update_time
    assert made.counts.models == 0
    assert await fleets.get() == made
    failure = await failing(fleets.create())
    assert (failure.code, failure.reason) == (grpc.StatusCode.ALREADY_EXISTS, "FLEET_EXISTS")
    assert await fleets.create(allow_existing=True) == made


async def test_a_bad_field_is_named_with_its_value_and_the_remedy(fleets: Fleets, failing: Failing) -> None:
    for call, field, says in (
        (fleets.create(""), "fleet_id", "'' is no fleet id; give 1 to 40 characters of a-z, 0-9 and -"),
        (fleets.create("f" * 41), "fleet_id", "is no fleet id"),
        (fleets.create(parent="projects/-"), "parent", "'projects/-' is no project"),
        (fleets.create(fleet=fleet_pb2.Fleet(labels={"A": "b"})), "fleet.labels", "'A' is no label key"),
        (fleets.get("projects/p/jobs/f"), "name", f"'projects/p/jobs/f' {NO_FLEET}"),
        (fleets.get("projects/-/fleets/f"), "name", NO_FLEET),
        (fleets.cancel("f"), "name", f"'f' {NO_FLEET}"),
        (fleets.delete("projects/p/fleets/"), "name", NO_FLEET),
        (fleets.retry(name=""), "name", f"'' {NO_FLEET}"),
        (fleets.retry("a", "b", "a"), "models[2]", "'a' is models[0] too; name each model once"),
        (fleets.retry(*map(str, range(1001))), "models", "1001 models are too many; name at most 1000, or none"),
        (fleets.batch(parent="projects/p"), "parent", f"'projects/p' {NO_FLEET}"),
        (fleets.batch("a", "b", "b"), "models[2].model", "'b' is models[1].model too; name each model once"),
        (fleets.batch(*map(str, range(1001))), "models", "1001 models are too many; give at most 1000 at a time"),
        (fleets.page("p"), "parent", "'p' is no project; give projects/PROJECT"),
        (fleets.page(page_size=1001), "page_size", "1001 is no page size; give 1 to 1000, or 0 for 50"),
        (fleets.page(page_token="x"), "page_token", "'x' is no page token; give the next_page_token of"),
    ):
        failure = await failing(call)
        assert (failure.code, failure.reason) == (INVALID, "INVALID_FIELD")
        assert list(failure.fields) == [field]
        assert says in failure.fields[field]
    assert not (await fleets.page("projects/-")).fleets


async def test_of_many_models_that_come_twice_some_are_named(fleets: Fleets, failing: Failing) -> None:
    failure = await failing(fleets.batch(*(["a"] * 1000)))
    assert len(failure.fields) == 10
    assert "(989 more come twice)" in failure.fields["models[1].model"]


async def test_an_unknown_fleet_is_not_found(fleets: Fleets, failing: Failing) -> None:
    watch = fleets.stub.WatchFleet(fleet_service_pb2.WatchFleetRequest(name=FLEET), timeout=10)
    calls = (fleets.get(), fleets.batch(), fleets.batch("A"), fleets.cancel(), fleets.retry(), fleets.delete())
    for call in (*calls, watch.read()):
        failure = await failing(call)
        assert (failure.code, failure.reason) == (NOT_FOUND, "FLEET_NOT_FOUND")
        assert f"there is no fleet '{FLEET}'; see the names with `diminuendo fleet list`" in failure.message
    await fleets.delete(allow_missing=True)


async def test_a_batch_answers_for_each_model(fleets: Fleets, api: Api) -> None:
    await fleets.create()
    first = await fleets.batch("a", "b")
    assert [(one.model, one.created, one.HasField("error")) for one in first] == [
        ("a", True, False),
        ("b", True, False),
    ]
    assert (first[0].job.name, first[0].job.fleet, first[0].job.model) == ("projects/p/jobs/f-a", FLEET, "a")
    assert await api.get("projects/p/jobs/f-a") == first[0].job
    again = await fleets.batch("a", "c", model("b", delta=2.0))
    assert [one.created for one in again] == [False, True, False]
    assert (again[0].job, again[2].job) == (first[0].job, first[1].job)
    error = again[2].error
    assert (error.code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS.value[0], "MODEL_DIFFERS")
    assert "model 'b' has projects/p/jobs/f-b, which is QUEUED, with another spec" in error.message
    await fleets.cancel()
    (replaced,) = await fleets.batch(model("b", delta=2.0), replace_changed=True)
    assert (replaced.created, replaced.job.name, replaced.job.spec.delta) == (True, "projects/p/jobs/f-b-2", 2.0)
    assert states(await fleets.get()) == {"QUEUED": 1, "CANCELLED": 2}


async def test_what_a_job_may_be_asked_for_it_may_be_asked_for_in_a_fleet(fleets: Fleets) -> None:
    await fleets.create()
    wanted = model("a", seed=7, labels={"team": "x"})
    wanted.job.priority = 5
    wanted.job.deadline.CopyFrom(Timestamp(seconds=2_000_000_000))
    wanted.job.name, wanted.job.state, wanted.job.fleet = "ignored", SUCCEEDED, "projects/q/fleets/other"
    (made,) = await fleets.batch(wanted)
    job = made.job
    assert (job.name, job.state, job.fleet, job.spec) == ("projects/p/jobs/f-a", QUEUED, FLEET, wanted.job.spec)
    assert (job.priority, job.deadline.seconds, dict(job.labels)) == (5, 2_000_000_000, {"team": "x"})


async def test_a_wrong_field_refuses_its_model_alone(fleets: Fleets) -> None:
    await fleets.create()
    sha256 = "0" * 64
    missing = f"projects/p/bundles/{sha256}"
    models = (
        model("a"),
        model("b", delta=-1.0, seed=-1),
        model("C"),
        model("d", labels={"A": "b"}),
        fleet_service_pb2.FleetModel(model="e", job=job_pb2.Job(spec=job_pb2.JobSpec(bundle=missing, delta=1.0))),
        model("f", zoo="nothing"),
        model("g"),
    )
    statuses = await fleets.batch(*models)
    assert [one.created for one in statuses] == [True, False, False, False, False, False, True]
    invalid = INVALID.value[0]
    assert [one.error.code for one in statuses] == [0, invalid, invalid, invalid, 9, invalid, 0]
    assert [one.error.reason for one in statuses if one.error.code] == ["", "", "", "BUNDLE_MISSING", ""]
    assert "models[1].job.spec.delta: -1.0 is no tolerance; give" in statuses[1].error.message
    assert "models[1].job.spec.seed: -1 is out of range; give" in statuses[1].error.message
    assert "models[2].model: 'C' is no name of a model; give 1 to 63 characters" in statuses[2].error.message
    assert "models[3].job.labels: 'A' is no label key; give" in statuses[3].error.message
    assert f"{missing} is not stored here" in statuses[4].error.message
    assert "models[5].job.spec.zoo: the zoo has no network 'nothing'" in statuses[5].error.message
    assert states(await fleets.get()) == {"QUEUED": 2}


async def test_an_answer_that_would_be_too_large_tells_less_of_each_job(
    fleets: Fleets, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fleets.create()
    monkeypatch.setattr(fleet_service, "MAX_ANSWER_BYTES", 500)
    (whole,) = await fleets.batch(model("a", freeze=["x" * 200]))
    assert whole.job.spec.freeze == ["x" * 200]
    small = await fleets.batch(model("a", freeze=["x" * 200]), model("b", freeze=["x" * 200]), model("C" * 2000))
    assert [one.job.HasField("spec") for one in small] == [False, False, False]
    assert [one.job.name for one in small] == ["projects/p/jobs/f-a", "projects/p/jobs/f-b", ""]
    assert [one.HasField("job") for one in small] == [True, True, False]
    assert len(small[2].error.message) == 1503


async def test_fleets_are_listed_in_pages(fleets: Fleets, failing: Failing) -> None:
    for i in range(5):
        await fleets.create(f"f{i}")
    await fleets.create("other", parent="projects/q")
    await fleets.batch("a", parent="projects/p/fleets/f3")
    names, token = list[str](), ""
    while True:
        page = await fleets.page(page_size=2, page_token=token)
        names += [fleet.name.rpartition("/")[2] for fleet in page.fleets]
        counted = {fleet.name: fleet.counts.models for fleet in page.fleets if fleet.counts.models}
        assert counted in ({}, {"projects/p/fleets/f3": 1})
        token = page.next_page_token
        if not token:
            break
        failure = await failing(fleets.page("projects/q", page_token=token))
        assert "belongs to another listing; give" in failure.fields["page_token"]
    assert names == ["f4", "f3", "f2", "f1", "f0"]
    assert len((await fleets.page("projects/-")).fleets) == 6


async def test_jobs_are_listed_by_fleet(fleets: Fleets, api: Api, failing: Failing) -> None:
    await fleets.create()
    await fleets.batch("a", "b", "c")
    await api.create("lonely")
    await api.cancel("projects/p/jobs/f-a")
    await fleets.retry("a")

    async def listed(**fields: Any) -> tuple[list[str], str]:
        request = job_service_pb2.ListJobsRequest(**{"parent": "projects/p", "fleet": FLEET} | fields)
        found = await api.jobs.ListJobs(request, timeout=10)
        return [job.name.rpartition("/")[2] for job in found.jobs], found.next_page_token

    assert (await listed())[0] == ["f-a-2", "f-c", "f-b", "f-a"]
    assert (await listed(newest_of_model=True))[0] == ["f-a-2", "f-c", "f-b"]
    assert (await listed(parent="projects/-", states=[CANCELLED]))[0] == ["f-a"]
    assert (await listed(fleet=""))[0] == ["f-a-2", "lonely", "f-c", "f-b", "f-a"]
    first, token = await listed(newest_of_model=True, page_size=2)
    assert first == ["f-a-2", "f-c"]
    assert await listed(newest_of_model=True, page_size=2, page_token=token) == (["f-b"], "")
    for fields, field, says in (
        ({"page_token": token}, "page_token", "belongs to another listing; give"),
        ({"fleet": "", "page_token": token}, "page_token", "belongs to another listing"),
        ({"fleet": "f"}, "fleet", f"'f' {NO_FLEET}"),
        ({"fleet": "projects/q/fleets/f"}, "fleet", "is of another project than the parent, 'p'; name its"),
        ({"fleet": "", "newest_of_model": True}, "newest_of_model", "true means nothing without a fleet; name one"),
    ):
        failure = await failing(listed(**fields))
        assert failure.code is INVALID
        assert says in failure.fields[field]


async def test_models_are_tried_again(fleets: Fleets, api: Api) -> None:
    await fleets.create()
    await fleets.batch("a", "b")
    await api.cancel("projects/p/jobs/f-b")
    assert await fleets.retry() == [], "none failed"
    queued, tried, unknown = await fleets.retry("a", "b", "no")
    assert (queued.error.code, queued.error.reason, queued.created) == (9, "JOB_NOT_RETRIED", False)
    assert queued.job.name == "projects/p/jobs/f-a"
    assert (tried.job.name, tried.job.retry_of, tried.created) == ("projects/p/jobs/f-b-2", "projects/p/jobs/f-b", True)
    assert (unknown.error.code, unknown.error.reason) == (5, "MODEL_NOT_FOUND")
    assert f"{FLEET} has no model 'no'; see its models with `diminuendo fleet get f`" in unknown.error.message
    assert states(await fleets.get()) == {"QUEUED": 2}


async def test_a_job_that_is_deleted_leaves_its_model_to_the_one_before(fleets: Fleets, api: Api) -> None:
    await fleets.create()
    await fleets.batch("a", "b")
    await fleets.cancel()
    await fleets.retry("a")
    await api.cancel("projects/p/jobs/f-a-2")
    for name, models in (("f-a-2", 2), ("f-a", 1), ("f-b", 0)):
        await api.jobs.DeleteJob(job_service_pb2.DeleteJobRequest(name=f"projects/p/jobs/{name}"), timeout=10)
        assert (await fleets.get()).counts.models == models


async def test_a_fleet_is_deleted_once_its_jobs_have_ended(fleets: Fleets, api: Api, failing: Failing) -> None:
    await fleets.create()
    await fleets.batch("a")
    failure = await failing(fleets.delete())
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "FLEET_ACTIVE")
    assert "has jobs that have not ended, as projects/p/jobs/f-a;" in failure.message
    await fleets.cancel()
    await fleets.delete()
    assert not (await api.jobs.ListJobs(job_service_pb2.ListJobsRequest(parent="projects/-"))).jobs
    assert not (await fleets.page()).fleets


@pytest.mark.apart
async def test_a_thousand_models_hold_nobody_up(fleets: Fleets, api: Api, conductor: Running) -> None:
    await fleets.create()
    loop = asyncio.get_running_loop()
    batch = asyncio.create_task(fleets.batch(*(f"model-{i}" for i in range(1000))))
    waits = list[float]()
    while not batch.done():
        before = loop.time()
        await api.create()
        waits.append(loop.time() - before)
    assert all(one.created for one in await batch)
    assert (await fleets.get()).counts.models == 1000
    assert len(waits) >= 10
    assert sorted(waits)[len(waits) // 2] < 0.25, "the median call of another client, on a machine that may be busy"
