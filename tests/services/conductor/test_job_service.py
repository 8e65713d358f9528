"""JobService over a real channel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from diminuendo.v1 import job_pb2, job_service_pb2

Api = Any
Failing = Callable[[Awaitable[object]], Awaitable[Any]]
INVALID = grpc.StatusCode.INVALID_ARGUMENT


def limit(figure: str, most: float) -> job_pb2.Limit:
    return job_pb2.Limit(figure=figure, most=most)


async def test_a_job_is_created_and_read(api: Api) -> None:
    request = api.request("my-job", seed=7, effort=job_pb2.EFFORT_QUICK)
    request.job.labels["team"] = "vision"
    request.job.name = "projects/x/jobs/ignored"
    request.job.state = job_pb2.JOB_STATE_FAILED
    job = await api.jobs.CreateJob(request)
    assert job.name == "projects/p/jobs/my-job"
    assert job.state == job_pb2.JOB_STATE_QUEUED
    assert job.spec == job_pb2.JobSpec(zoo="digits", delta=1.0, seed=7, effort=job_pb2.EFFORT_QUICK)
    assert job.labels == {"team": "vision"}
    assert job.create_time == job.update_time
    assert job.etag
    assert not job.HasField("start_time")
    assert await api.get(job.name) == job


async def test_the_server_chooses_an_id(api: Api) -> None:
    names = {(await api.create()).name for _ in range(20)}
    assert len(names) == 20
    assert all(name.startswith("projects/p/jobs/") for name in names)


@pytest.mark.parametrize(
    ("spec", "field", "says"),
    [
        ({"delta": float("nan")}, "job.spec.delta", "nan is no tolerance; give points of the metric, over 0 and up"),
        ({"delta": float("inf")}, "job.spec.delta", "inf is no tolerance; give"),
        ({"delta": 0.0}, "job.spec.delta", "0.0 is no tolerance; give"),
        ({"delta": -0.5}, "job.spec.delta", "-0.5 is no tolerance; give"),
        ({"delta": 100.5}, "job.spec.delta", "100.5 is no tolerance; give"),
        ({"delta": None}, "job.spec.delta", "is missing; give points of the metric, over 0 and up to 100, or a target"),
        ({"target": limit("size", 1.0)}, "job.spec.target", "size=1.0 is beside delta=1.0; give delta or target, not"),
        ({"target": limit("size", -1.0), "delta": None}, "job.spec.target", "size=-1.0 is no target; give a number"),
        (
            {"target": limit("size", 1.0), "delta": None, "objective": "macs"},
            "job.spec.objective",
            "'macs' is beside",
        ),
        ({"target": limit("size", 1.0), "delta": None, "accept": job_pb2.ACCEPT_STRICT}, "job.spec.accept", "leave it"),
        ({"objective": "speed"}, "job.spec.objective", "'speed' is unknown; choose one of params, macs, size, memory"),
        ({"limits": [limit("speed", 1.0)]}, "job.spec.limits", "'speed' is unknown; choose one of params, macs, size"),
        ({"limits": [limit("macs", 0.0)]}, "job.spec.limits", "macs=0.0 is no limit; give a number over 0"),
        (
            {"limits": [limit("macs", 5.0), limit("macs", 6.0)]},
            "job.spec.limits",
            "macs is given 2 times; give it once",
        ),
        ({"formats": ["svd", "svd9"]}, "job.spec.formats", "svd9: unknown; choose some of svd, "),
        ({"freeze": [""]}, "job.spec.freeze", "'' is no pattern; give layer names, with * for any part"),
        ({"freeze": ["a" * 257]}, "job.spec.freeze", "has 257 characters; give at most 256"),
        ({"max_ratio": [job_pb2.MaxRatio(pattern="fc", most=0.5)]}, "job.spec.max_ratio", "fc=0.5 is no ratio; give a"),
        ({"multiple": 0}, "job.spec.multiple", "0 is no multiple of ranks; give a whole number from 1 to 1024"),
        ({"multiple": 1025}, "job.spec.multiple", "1025 is no multiple"),
        ({"parallel": 0}, "job.spec.parallel", "0 is out of range; give 1 to 10000, or leave it out"),
        ({"parallel": 10_001}, "job.spec.parallel", "10001 is out of range"),
        ({"stage": 0}, "job.spec.stage", "0 is unknown; give 1 (stop after exploration) or 2 (anneal too)"),
        (
            {"budget": job_pb2.Budget(evaluations=2)},
            "job.spec.budget",
            "evaluations=2.0 is too little; give at least",
        ),
        ({"budget": job_pb2.Budget(minutes=0)}, "job.spec.budget", "minutes=0.0 is no budget; give a number over 0"),
        ({"zoo": "digit"}, "job.spec.zoo", "'digit'; did you mean 'digits'?"),
        ({"zoo": "x"}, "job.spec.zoo", "known networks: "),
        ({"zoo": ""}, "job.spec.zoo", "name one whose weights come with the package: digits"),
        ({"zoo": "digits?classes=5"}, "job.spec.zoo", "'5' does not fit digits, whose data has 10 classes"),
        (
            {"zoo": "vgg19?classes=16"},
            "job.spec.zoo",
            "'vgg19?classes=16' has no weights and data that come with the package, as digits has; compress it where "
            "its files are, without a server: diminuendo compress 'zoo:vgg19?classes=16' --weights FILE --data DIR",
        ),
        ({"zoo": "resnet18_imagenet"}, "job.spec.zoo", "as digits has; bring network and data as a bundle"),
        ({"seed": -1}, "job.spec.seed", "-1 is out of range; give a whole number from 0"),
        ({"effort": 9}, "job.spec.effort", "9 is not known here; give one of EFFORT_UNSPECIFIED, EFFORT_QUICK"),
        ({"accept": -1}, "job.spec.accept", "-1 is not known here; give one of"),
        ({"parent": "p"}, "parent", "'p' is no project; give projects/PROJECT"),
        ({"parent": "projects/-"}, "parent", "'projects/-' is no project"),
        ({"parent": "projects/Big"}, "parent", "'projects/Big' is no project"),
        ({"job_id": "My Job"}, "job_id", "'My Job' is no job id; give 1 to 63 characters"),
        ({"job_id": "a" * 64}, "job_id", "or leave it empty"),
        ({"request_id": "r" * 65}, "request_id", "has 65 characters; give at most 64"),
    ],
)
async def test_a_bad_field_is_named_with_its_value_and_the_remedy(
    api: Api, failing: Failing, spec: dict[str, Any], field: str, says: str
) -> None:
    failure = await failing(api.jobs.CreateJob(api.request(**spec)))
    assert (failure.code, failure.reason, failure.domain) == (INVALID, "INVALID_FIELD", "diminuendo")
    assert list(failure.fields) == [field]
    assert says in failure.fields[field]
    assert field in failure.message
    listed = await api.jobs.ListJobs(job_service_pb2.ListJobsRequest(parent="projects/-"))
    assert not listed.jobs, "a refused request leaves nothing behind"


@pytest.mark.parametrize(
    ("labels", "field"),
    [
        ({"Team": "x"}, "job.labels"),
        ({"": "x"}, "job.labels"),
        ({"k" * 64: "x"}, "job.labels"),
        ({"team": "v" * 64}, "job.labels[team]"),
        ({f"k{i}": "" for i in range(65)}, "job.labels"),
    ],
    ids=["upper case", "empty key", "long key", "long value", "too many"],
)
async def test_bad_labels_are_refused(api: Api, failing: Failing, labels: dict[str, str], field: str) -> None:
    request = api.request()
    request.job.labels.update(labels)
    failure = await failing(api.jobs.CreateJob(request))
    assert (failure.code, list(failure.fields)) == (INVALID, [field])


async def test_all_bad_fields_are_told_at_once(api: Api, failing: Failing) -> None:
    failure = await failing(api.jobs.CreateJob(api.request("A", parent="x", delta=-1.0, zoo="digts")))
    assert set(failure.fields) == {"parent", "job_id", "job.spec.delta", "job.spec.zoo"}
    failure = await failing(api.jobs.CreateJob(api.request(effort=9, accept=7, stage=3, limits=[limit("macs", -1)])))
    assert set(failure.fields) == {f"job.spec.{name}" for name in ("effort", "accept", "stage", "limits")}


async def test_every_wish_is_kept_and_given_back(api: Api) -> None:
    wishes: dict[str, Any] = {
        "objective": "macs",
        "limits": [limit("size", 0.1), limit("memory", 0.5)],
        "formats": ["svd", "tucker2"],
        "freeze": ["conv", "block1.*"],
        "max_ratio": [job_pb2.MaxRatio(pattern="fc", most=1.0)],
        "multiple": 8,
        "stage": 1,
        "budget": job_pb2.Budget(evaluations=20, epochs=100.5, minutes=0.5),
    }
    job = await api.create("mine", **wishes)
    assert job.spec == job_pb2.JobSpec(zoo="digits", delta=1.0, **wishes)
    assert (await api.lease()).job.spec == job.spec
    aimed = await api.create(delta=None, target=limit("size", 1.5))
    assert not aimed.spec.HasField("delta")
    assert (await api.get(aimed.name)).spec.target == limit("size", 1.5)


async def test_a_wish_of_a_newer_version_is_refused_instead_of_left_out(api: Api, failing: Failing) -> None:
    """Field 99 of the spec, and field 9 of its budget, as a newer client would send them."""
    for content, number in ((b"\x9a\x06\x01x", 99), (b"r\x02H\x01", 9)):
        request = api.request()
        request.job.spec.MergeFromString(content)
        failure = await failing(api.jobs.CreateJob(request))
        assert failure.fields == {
            "job.spec": f"fields {number} are not known to this server; update it, or leave them out"
        }


async def test_the_edges_of_delta_are_fine(api: Api) -> None:
    for delta in (1e-9, 100.0):
        assert (await api.create(delta=delta)).spec.delta == delta


async def test_the_same_request_is_the_same_job(api: Api) -> None:
    first = await api.create(request_id="r1")
    again = await api.create(request_id="r1")
    assert again == first
    other = await api.jobs.CreateJob(api.request(request_id="r1", parent="projects/q"))
    assert other.name.startswith("projects/q/")


@pytest.mark.parametrize("change", [{"delta": 2.0}, {"job_id": "named"}, {"seed": 1}])
async def test_a_request_id_with_another_content_is_refused(api: Api, failing: Failing, change: dict[str, Any]) -> None:
    first = await api.create(request_id="r1")
    failure = await failing(api.jobs.CreateJob(api.request(request_id="r1", **change)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    assert failure.metadata == {"request_id": "r1", "job": first.name}
    assert "'r1'" in failure.message


async def test_a_cancel_with_the_request_id_of_a_create_is_refused(api: Api, failing: Failing) -> None:
    job = await api.create(request_id="r1")
    failure = await failing(api.cancel(job.name, "r1"))
    assert failure.reason == "REQUEST_ID_REUSED"
    assert (await api.get(job.name)).state == job_pb2.JOB_STATE_QUEUED


async def test_a_taken_job_id_is_refused(api: Api, failing: Failing) -> None:
    await api.create("mine")
    failure = await failing(api.create("mine"))
    assert (failure.code, failure.reason) == (grpc.StatusCode.ALREADY_EXISTS, "JOB_EXISTS")
    assert "'mine'" in failure.message


async def test_an_unknown_job_is_not_found(api: Api, failing: Failing) -> None:
    name = "projects/p/jobs/no"

    async def watch() -> None:
        async for _ in api.watch(name):
            pass

    for call in (api.get(name), api.cancel(name), api.pause(name), api.resume(name), watch()):
        failure = await failing(call)
        assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")
        assert repr(name) in failure.message


@pytest.mark.parametrize("name", ["", "projects/p", "projects/-/jobs/a", "projects/p/jobs/A", "projects/p/jobs/a/b"])
async def test_a_bad_name_is_refused(api: Api, failing: Failing, name: str) -> None:
    for call in (api.get(name), api.cancel(name), api.pause(name), api.resume(name)):
        failure = await failing(call)
        assert (failure.code, list(failure.fields)) == (INVALID, ["name"])
        assert repr(name) in failure.fields["name"]


async def pages(api: Api, **question: Any) -> list[list[str]]:
    """Every page of a listing, as job ids."""
    found, token = [], ""
    while True:
        request = job_service_pb2.ListJobsRequest(page_token=token, **question)
        answer = await api.jobs.ListJobs(request)
        found.append([job.name.rpartition("/")[2] for job in answer.jobs])
        token = answer.next_page_token
        if not token:
            return found


async def test_listing_goes_page_by_page_newest_first(api: Api) -> None:
    for i in range(5):
        await api.create(f"a{i}")
    await api.jobs.CreateJob(api.request("b0", parent="projects/q"))
    await api.cancel("projects/p/jobs/a3")
    assert await pages(api, parent="projects/p", page_size=2) == [["a4", "a3"], ["a2", "a1"], ["a0"]]
    assert await pages(api, parent="projects/p", page_size=5) == [["a4", "a3", "a2", "a1", "a0"]]
    assert await pages(api, parent="projects/-") == [["b0", "a4", "a3", "a2", "a1", "a0"]]
    queued = [job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_RUNNING]
    assert await pages(api, parent="projects/p", states=queued, page_size=3) == [["a4", "a2", "a1"], ["a0"]]
    assert await pages(api, parent="projects/none") == [[]]


async def test_large_jobs_make_short_pages_not_large_messages(api: Api) -> None:
    labels = {f"{i:02}" + "k" * 61: "v" * 63 for i in range(64)}
    for i in range(0, 400, 20):
        requests = [api.request(f"a{i + k:03}") for k in range(20)]
        for request in requests:
            request.job.labels.update(labels)
        await asyncio.gather(*(api.jobs.CreateJob(request) for request in requests))
    found = await pages(api, parent="projects/p", page_size=1000)
    assert len(found) == 2
    assert sorted(job_id for page in found for job_id in page) == [f"a{i:03}" for i in range(400)]


@pytest.mark.parametrize(
    ("question", "field"),
    [
        ({"parent": "projects"}, "parent"),
        ({"parent": "projects/p", "page_size": -1}, "page_size"),
        ({"parent": "projects/p", "page_size": 1001}, "page_size"),
        ({"parent": "projects/p", "page_token": "???"}, "page_token"),
        ({"parent": "projects/p", "page_token": "YWJj"}, "page_token"),
        ({"parent": "projects/p", "states": [99]}, "states"),
        ({"parent": "projects/p", "states": [0]}, "states"),
    ],
)
async def test_a_bad_listing_is_refused(api: Api, failing: Failing, question: dict[str, Any], field: str) -> None:
    failure = await failing(api.jobs.ListJobs(job_service_pb2.ListJobsRequest(**question)))
    assert (failure.code, failure.reason, list(failure.fields)) == (INVALID, "INVALID_FIELD", [field])


async def test_a_page_token_belongs_to_its_listing(api: Api, failing: Failing) -> None:
    for _ in range(2):
        await api.create()
    first = await api.jobs.ListJobs(job_service_pb2.ListJobsRequest(parent="projects/p", page_size=1))
    other = job_service_pb2.ListJobsRequest(parent="projects/-", page_token=first.next_page_token)
    failure = await failing(api.jobs.ListJobs(other))
    assert "belongs to another listing" in failure.fields["page_token"]


async def test_cancelling(api: Api, failing: Failing) -> None:
    queued = await api.create("queued")
    cancelled = await api.cancel(queued.name, "r")
    assert cancelled.state == job_pb2.JOB_STATE_CANCELLED
    assert cancelled.HasField("end_time")
    assert cancelled.etag != queued.etag
    assert await api.cancel(queued.name, "r") == cancelled
    job = await api.create("running")
    lease = await api.lease()
    assert (await api.cancel(job.name)).state == job_pb2.JOB_STATE_CANCELLING
    await api.finish(job.name, lease.epoch)
    failure = await failing(api.cancel(job.name))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "JOB_ENDED")
    assert "SUCCEEDED" in failure.message
