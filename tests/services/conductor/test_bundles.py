"""Jobs on bundles: only on those that are stored and small enough, which stay for as long as a job refers to them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from diminuendo.v1 import artifact_service_pb2 as pb
from diminuendo.v1 import job_pb2, job_service_pb2

from diminuendo.engine.store import DirectoryStore
from diminuendo.services.common.spec import to_request
from diminuendo.services.conductor.app import Running, conducting
from diminuendo.services.conductor.settings import ConductorSettings

Api = Any
Failing = Callable[[Awaitable[object]], Awaitable[Any]]
DAY = 86_400.0
CONTENT = b"bundle" * 400


def named(sha256: str, project: str = "p") -> str:
    return f"projects/{project}/bundles/{sha256}"


@pytest.fixture
async def running(settings: ConductorSettings, clock: Any) -> AsyncIterator[Running]:
    clock.micros = time.time_ns() // 1000  # the artifact store's own
    async with conducting(settings.model_copy(update={"max_bundle_bytes": 4096}), clock=clock) as running:
        yield running


@pytest.fixture
def api(running: Running, connect: Callable[[str], Api]) -> Api:
    return connect(running.grpc)


@pytest.fixture
def store(settings: ConductorSettings) -> DirectoryStore:
    return DirectoryStore(settings.artifacts_location)


async def on_bundle(api: Api, name: str, job_id: str = "", **more: Any) -> job_pb2.Job:
    spec = job_pb2.JobSpec(bundle=name, delta=1.0, **more)
    request = job_service_pb2.CreateJobRequest(parent="projects/p", job_id=job_id, job=job_pb2.Job(spec=spec))
    job: job_pb2.Job = await api.jobs.CreateJob(request, timeout=10)
    return job


async def test_a_job_on_a_stored_bundle_is_queued(api: Api, store: DirectoryStore) -> None:
    sha256 = store.put(CONTENT)
    job = await on_bundle(api, named(sha256), exports=["onnx", "pt2:fp16"])
    assert job.spec.bundle == named(sha256)
    request = to_request(job.spec)
    assert request.source == f"bundle:{sha256}"
    assert request.exports == ("onnx", "pt2:fp16")


async def test_a_bundle_that_is_not_stored_is_to_be_uploaded_again(api: Api, failing: Failing) -> None:
    failure = await failing(on_bundle(api, named("0" * 64)))
    assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
    assert failure.reason == "BUNDLE_MISSING"
    assert failure.metadata == {"bundle": named("0" * 64)}
    assert "upload it again" in failure.message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "'' is no bundle; give projects/PROJECT/bundles/SHA256"),
        ("0" * 64, "is no bundle; give"),
        (named("0" * 63), "is no bundle; give"),
        (named("0" * 64, "q"), "is of another project than the job's, 'p'"),
        (named("../../etc"), "is no bundle; give"),
    ],
)
async def test_what_names_no_bundle_is_refused(api: Api, failing: Failing, name: str, message: str) -> None:
    failure = await failing(on_bundle(api, name))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert message in failure.fields["job.spec.bundle"]


async def test_a_bundle_over_the_limit_is_refused(api: Api, store: DirectoryStore, failing: Failing) -> None:
    failure = await failing(on_bundle(api, named(store.put(b"x" * 4097))))
    assert "4,097 bytes, and this server takes 4,096; leave data out" in failure.fields["job.spec.bundle"]


async def test_exports_that_there_are_not_are_refused(api: Api, store: DirectoryStore, failing: Failing) -> None:
    failure = await failing(on_bundle(api, named(store.put(CONTENT)), exports=["onix"]))
    assert "onnx" in failure.fields["job.spec.exports"]


async def test_a_bundle_stays_for_as_long_as_a_job_refers_to_it(
    api: Api, store: DirectoryStore, clock: Any, failing: Failing
) -> None:
    sha256 = store.put(CONTENT)
    job = await on_bundle(api, named(sha256), "a")
    await api.cancel(job.name)
    retry = job_service_pb2.RetryJobRequest(name=job.name, job_id="b")
    again = await api.jobs.RetryJob(retry, timeout=10)
    await api.cancel(again.name)
    for gone in (job, again):
        clock.advance(30 * DAY)
        await collect(api)
        clock.advance(8 * DAY)
        assert (await collect(api)).kept_artifacts == 1
        await api.jobs.DeleteJob(job_service_pb2.DeleteJobRequest(name=gone.name), timeout=10)
    assert (await collect(api)).waiting_artifacts == 1
    third = await on_bundle(api, named(sha256), "c")  # in time: it is held again
    clock.advance(30 * DAY)
    assert (await collect(api)).kept_artifacts == 1
    await api.cancel(third.name)
    await api.jobs.DeleteJob(job_service_pb2.DeleteJobRequest(name=third.name), timeout=10)
    await collect(api)
    clock.advance(8 * DAY)
    assert (await collect(api)).removed_artifacts == 1
    assert (await failing(on_bundle(api, named(sha256)))).reason == "BUNDLE_MISSING"


async def collect(api: Api) -> pb.CollectGarbageResponse:
    answer: pb.CollectGarbageResponse = await api.artifacts.CollectGarbage(pb.CollectGarbageRequest(), timeout=30)
    return answer
