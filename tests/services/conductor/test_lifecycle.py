"""JobService over a real channel: pausing, resuming, updating, retrying, deleting and waiting; listings by label."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from diminuendo.v1 import job_pb2, job_service_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from diminuendo.services.conductor.app import Running

Api = Any
Failing = Callable[[Awaitable[object]], Awaitable[Any]]
INVALID, PRECONDITION = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
FAILURE = job_pb2.JobFailure(reason="USER_CODE", message="it broke")


async def update(api: Api, name: str, *paths: str, request_id: str = "", **fields: Any) -> job_pb2.Job:
    job = job_pb2.Job(name=name, **fields)
    mask = FieldMask(paths=paths)
    request = job_service_pb2.UpdateJobRequest(job=job, update_mask=mask, request_id=request_id)
    return await api.jobs.UpdateJob(request, timeout=10)  # type: ignore[no-any-return]


async def retry(api: Api, name: str, job_id: str = "", request_id: str = "") -> job_pb2.Job:
    request = job_service_pb2.RetryJobRequest(name=name, job_id=job_id, request_id=request_id)
    return await api.jobs.RetryJob(request, timeout=10)  # type: ignore[no-any-return]


async def delete(api: Api, name: str, **options: Any) -> None:
    await api.jobs.DeleteJob(job_service_pb2.DeleteJobRequest(name=name, **options), timeout=10)


async def wait(api: Api, name: str, timeout_s: float) -> job_pb2.Job:
    timeout = Duration(nanos=round(timeout_s * 1e9) % 10**9, seconds=int(timeout_s))
    return await api.jobs.WaitJob(job_service_pb2.WaitJobRequest(name=name, timeout=timeout), timeout=100)  # type: ignore[no-any-return]


async def failed(api: Api, job_id: str) -> job_pb2.Job:
    job = await api.create(job_id)
    lease = await api.lease()
    await api.release(job.name, lease.epoch, failure=FAILURE)
    return await api.get(job.name)  # type: ignore[no-any-return]


async def test_a_coordinator_hears_of_a_pause_and_of_its_end(api: Api) -> None:
    job = await api.create("a")
    lease = await api.lease()
    heard = await api.beat(job.name, lease.epoch)
    assert (heard.pause_requested, heard.cancel_requested) == (False, False)
    assert (await api.pause(job.name, "r")).state == job_pb2.JOB_STATE_PAUSING
    heard = await api.beat(job.name, lease.epoch)
    assert (heard.pause_requested, heard.cancel_requested) == (True, False)
    await api.release(job.name, lease.epoch)
    assert (await api.pause(job.name, "r")).state == job_pb2.JOB_STATE_PAUSED
    waiting = asyncio.create_task(api.lease("c2", wait_s=20))
    resumed = await api.resume(job.name)
    assert resumed.state == job_pb2.JOB_STATE_QUEUED
    assert (await waiting).job.name == job.name, "who waits for a job is woken"


async def test_a_job_whose_coordinator_is_gone_is_paused_when_its_lease_ends(api: Api, clock: Any) -> None:
    job = await api.create("a")
    await api.lease()
    watch = api.watch(job.name)
    for _ in range(3):
        await watch.read()
    clock.advance(29.9)
    await api.pause(job.name)
    assert (await watch.read()).state_changed.state == job_pb2.JOB_STATE_PAUSING
    clock.advance(0.1)
    assert (await asyncio.wait_for(watch.read(), 5)).state_changed.state == job_pb2.JOB_STATE_PAUSED
    watch.cancel()


async def test_labels_and_priority_are_updated(api: Api, failing: Failing) -> None:
    job = await api.create("a")
    changed = await update(api, job.name, "labels", "priority", labels={"k": "v"}, priority=5, etag=job.etag)
    assert (dict(changed.labels), changed.priority) == ({"k": "v"}, 5)
    assert changed.etag != job.etag
    assert await api.get(job.name) == changed
    assert dict((await update(api, job.name, "priority", priority=0, labels={"not": "set"})).labels) == {"k": "v"}
    failure = await failing(update(api, job.name, "labels", etag=job.etag))
    assert (failure.code, failure.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert failure.metadata["job"] == job.name


@pytest.mark.parametrize(
    ("paths", "fields", "field", "says"),
    [
        ((), {}, "update_mask", "is empty; name what is to be set: labels, priority, deadline"),
        (("spec",), {}, "update_mask", "'spec' cannot be set; name labels or priority or deadline"),
        (("*",), {}, "update_mask", "'*' cannot be set"),
        (("priority",), {"priority": 1001}, "job.priority", "1001 is no priority; give -1000 to 1000"),
        (
            ("deadline",),
            {"deadline": Timestamp(seconds=-5)},
            "job.deadline",
            "-5 s and 0 ns are no time; give one",
        ),
        (("deadline",), {"deadline": Timestamp(seconds=1, nanos=-1)}, "job.deadline", "1 s and -1 ns are no time"),
        (("labels",), {"labels": {"No": "x"}}, "job.labels", "'No' is no label key"),
    ],
)
async def test_a_bad_update_is_refused(
    api: Api, failing: Failing, paths: tuple[str, ...], fields: dict[str, Any], field: str, says: str
) -> None:
    job = await api.create("a")
    failure = await failing(update(api, job.name, *paths, **fields))
    assert (failure.code, list(failure.fields)) == (INVALID, [field])
    assert says in failure.fields[field]
    assert await api.get(job.name) == job


async def test_a_job_is_created_with_a_priority_and_leased_by_it(api: Api, failing: Failing) -> None:
    await api.create("first")
    request = api.request("urgent")
    request.job.priority = 1000
    assert (await api.jobs.CreateJob(request)).priority == 1000
    assert (await api.lease()).job.name == "projects/p/jobs/urgent"
    request = api.request("no")
    request.job.priority = -1001
    failure = await failing(api.jobs.CreateJob(request))
    assert list(failure.fields) == ["job.priority"]


async def test_a_deadline_is_given_moved_and_taken_away_and_its_coordinator_hears(api: Api, failing: Failing) -> None:
    request = api.request("a")
    request.job.deadline.seconds, request.request_id = 2_000_000_000, "r"
    job = await api.jobs.CreateJob(request)
    assert job.deadline.seconds == 2_000_000_000
    assert await api.jobs.CreateJob(request) == job
    given = await api.lease()
    assert given.job.deadline == job.deadline
    moved = await update(api, job.name, "deadline", deadline=Timestamp(seconds=3, nanos=7000))
    assert (await api.beat(job.name, given.epoch)).deadline == moved.deadline == Timestamp(seconds=3, nanos=7000)
    gone = await update(api, job.name, "deadline")
    assert not gone.HasField("deadline")
    assert not (await api.beat(job.name, given.epoch)).HasField("deadline")
    request.job.deadline.seconds = 5
    assert (await failing(api.jobs.CreateJob(request))).reason == "REQUEST_ID_REUSED"


async def test_a_failed_job_is_retried_and_deleted(api: Api, failing: Failing) -> None:
    job = await failed(api, "a")
    again = await retry(api, job.name, "b", "r")
    assert (again.name, again.retry_of, again.spec) == ("projects/p/jobs/b", job.name, job.spec)
    assert await retry(api, job.name, "b", "r") == again
    failure = await failing(retry(api, again.name))
    assert (failure.code, failure.reason) == (PRECONDITION, "JOB_NOT_RETRIED")
    failure = await failing(retry(api, job.name, "B"))
    assert (failure.code, list(failure.fields)) == (INVALID, ["job_id"])
    failure = await failing(delete(api, again.name))
    assert (failure.code, failure.reason) == (PRECONDITION, "JOB_ACTIVE")
    failure = await failing(delete(api, job.name, etag="no"))
    assert (failure.code, failure.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    await delete(api, job.name)
    failure = await failing(delete(api, job.name))
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")
    await delete(api, job.name, allow_missing=True)
    listed = await api.jobs.ListJobs(job_service_pb2.ListJobsRequest(parent="projects/-"))
    assert [one.name for one in listed.jobs] == [again.name]


async def test_waiting_ends_with_the_job(api: Api) -> None:
    job = await api.create("a")
    waiting = asyncio.create_task(wait(api, job.name, 60))
    lease = await api.lease()
    await api.commit(job.name, lease.epoch, 0)
    assert not waiting.done()
    await api.finish(job.name, lease.epoch)
    ended = await asyncio.wait_for(waiting, 10)
    assert (ended.state, ended.result.drop) == (job_pb2.JOB_STATE_SUCCEEDED, 0.5)
    assert await wait(api, job.name, 60) == ended, "and at once when it has ended before"


async def test_waiting_ends_with_the_time(api: Api, conductor: Running, clock: Any) -> None:
    job = await api.create("a")
    clock_now = clock.micros
    waiting = asyncio.create_task(wait(api, job.name, 0.1))
    while not conductor.notifier.listening > 1:  # the sweeper is one
        await asyncio.sleep(0)
    clock.micros = clock_now + 100_000
    assert (await asyncio.wait_for(waiting, 10)).state == job_pb2.JOB_STATE_QUEUED


@pytest.mark.parametrize("timeout_s", [-1, 61])
async def test_a_bad_wait_is_refused(api: Api, failing: Failing, timeout_s: int) -> None:
    failure = await failing(wait(api, "projects/p/jobs/a", timeout_s))
    assert (failure.code, list(failure.fields)) == (INVALID, ["timeout"])
    assert "give 0 to 60 s" in failure.fields["timeout"]


async def test_listings_by_label_and_order_go_page_by_page(api: Api, failing: Failing) -> None:
    for i in range(6):
        request = api.request(f"j{i}")
        request.job.labels["half"] = "even" if i % 2 == 0 else "odd"
        request.job.priority = i % 3
        await api.jobs.CreateJob(request)

    async def pages(**question: Any) -> list[str]:
        found, token = [], ""
        while True:
            request = job_service_pb2.ListJobsRequest(parent="projects/p", page_size=2, page_token=token, **question)
            answer = await api.jobs.ListJobs(request)
            found += [job.name[-1] for job in answer.jobs]
            token = answer.next_page_token
            if not token:
                return found

    assert await pages(labels={"half": "odd"}) == ["5", "3", "1"]
    assert await pages(order_by="create_time") == list("012345")
    assert await pages(order_by="priority desc") == list("524130")
    assert await pages(order_by="priority") == list("031425")
    first = await api.jobs.ListJobs(job_service_pb2.ListJobsRequest(parent="projects/p", page_size=1))
    for change in ({"labels": {"half": "odd"}}, {"order_by": "priority"}):
        request = job_service_pb2.ListJobsRequest(parent="projects/p", page_token=first.next_page_token, **change)
        failure = await failing(api.jobs.ListJobs(request))
        assert "belongs to another listing" in failure.fields["page_token"]
    for change, field in (({"labels": {"X": ""}}, "labels"), ({"order_by": "delta"}, "order_by")):
        failure = await failing(api.jobs.ListJobs(job_service_pb2.ListJobsRequest(parent="projects/p", **change)))
        assert (failure.code, list(failure.fields)) == (INVALID, [field])
