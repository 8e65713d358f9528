"""Clients that try again with the same request id end where they would have ended without any fault."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import grpc
import pytest
from diminuendo.v1 import (
    artifact_service_pb2,
    artifact_service_pb2_grpc,
    fleet_service_pb2,
    fleet_service_pb2_grpc,
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
)
from diminuendo.v1 import coordinator_service_pb2 as v1
from google.protobuf import field_mask_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from tests.contract.faults import faulty
from tests.engine.search.world import World

from diminuendo.engine.search.drive import Done
from diminuendo.engine.search.session import Session
from diminuendo.engine.store import DirectoryStore
from diminuendo.services.common.errors import StoreUnavailableError
from diminuendo.services.conductor.garbage import Collector
from diminuendo.services.conductor.metrics import Metrics
from diminuendo.services.conductor.notify import Notifier
from diminuendo.services.conductor.records import NewJob, RequestId
from diminuendo.services.conductor.server import GrpcServer
from diminuendo.services.conductor.store.base import Store
from diminuendo.services.conductor.store.sql import SqlStore
from diminuendo.services.conductor.uploads import Uploads
from diminuendo.services.coordinator import rpc, translate
from diminuendo.services.coordinator.attempts import AttemptLost
from diminuendo.services.coordinator.journal import ConductorJournal
from diminuendo.services.coordinator.lease import HeldLease
from diminuendo.services.coordinator.rpc import Conductor

Open = Callable[[], Awaitable[Store]]
T = TypeVar("T")
EVALUATIONS = 8
KEEP_S = 86_400.0
CONTENT = b"content" * 1000
TRIES = 60
"""A call that makes several of the store's, one after the other, meets the faults of each."""


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "_FIRST_DELAY_S", 0.001)
    monkeypatch.setattr(rpc, "_LAST_DELAY_S", 0.002)


def again(call: Callable[[], T]) -> T:
    """Make a call until it is answered."""
    for _ in range(TRIES):
        try:
            return call()
        except grpc.RpcError as error:
            if rpc.code_of(error) is not grpc.StatusCode.UNAVAILABLE:
                raise
    raise TimeoutError(f"UNAVAILABLE {TRIES} times")


@asynccontextmanager
async def served(store: Store, folder: Path, now: list[int]) -> AsyncIterator[str]:
    """The address of a conductor's server on a store."""
    notifier, clock = Notifier(), lambda: now[0]
    store.subscribe(notifier.publish)
    artifacts, metrics = DirectoryStore(folder), Metrics(clock)
    uploads = Uploads(folder.with_name("uploads"), artifacts)
    server = GrpcServer(
        store,
        notifier,
        metrics,
        artifacts,
        clock,
        lease_us=30_000_000,
        weights={},
        uploads=uploads,
        collector=Collector(store, artifacts, uploads, metrics, clock, keep_s=KEEP_S),
        max_artifact_bytes=2**30,
        max_bundle_bytes=2**30,
    )
    port, _ = await server.start("127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.refuse()
        await server.stop(2.0)


def live(target: str) -> list[job_pb2.JobEvent]:
    """One job's life as clients and a coordinator make it, and all that an owner can do to others; all their events."""
    conductor = Conductor(target, threading.Event())
    with grpc.insecure_channel(target) as channel:
        jobs = job_service_pb2_grpc.JobServiceStub(channel)
        spec = job_pb2.JobSpec(zoo="digits", delta=1.0, seed=7, effort=job_pb2.EFFORT_QUICK)
        for job_id in ("a", "b"):
            create = job_service_pb2.CreateJobRequest(
                parent="projects/p", job_id=job_id, job=job_pb2.Job(spec=spec), request_id=f"create-{job_id}"
            )
            assert again(lambda create=create: jobs.CreateJob(create, timeout=10)).name.endswith(job_id)  # type: ignore[misc]
        handled(jobs)
        fleeted(fleet_service_pb2_grpc.FleetServiceStub(channel))
        sent(artifact_service_pb2_grpc.ArtifactServiceStub(channel))
        asking = v1.LeaseJobRequest(coordinator="c", request_id="lease")
        given = conductor.call(conductor.stub.LeaseJob, asking, until=time.monotonic() + 20).lease
        until = Timestamp()  # by the real clock: the store's stands still, long ago, which would leave it a second
        until.FromMicroseconds(round((time.time() + 60) * 1e6))
        lease = HeldLease(given.job.name, given.epoch, until, asked_at=time.monotonic())
        request = translate.to_request(given.job.spec)
        lost: list[AttemptLost] = []

        def taken() -> list[AttemptLost]:
            found, lost[:] = list(lost), []
            return found

        stop, step = threading.Event(), given.next_step
        journal = ConductorJournal(conductor, lease, request, next_step=step, stop=stop, take_losses=taken)
        session, world = Session(request), World()
        for _ in range(EVALUATIONS):
            work = session.ask()[0]
            assert journal.recall([work.key]) == {}
            lost.append(AttemptLost(work.index, work.subject, "evaluator-1", 1, "EVALUATOR_LOST", "it is gone"))
            journal.record(Done(work, world.run(work), "evaluator-0", 0.5))
            assert set(journal.recall([work.key])) == {work.key}
            journal.commit(session.tell(world.run(work)), session)
        heartbeat = v1.HeartbeatRequest(job_name=lease.job_name, epoch=lease.epoch)
        conductor.call(conductor.stub.Heartbeat, heartbeat, until=time.monotonic() + 20)
        file = job_pb2.ResultFile(name="plan.json", sha256="0" * 64, size_bytes=2)
        result = job_pb2.JobResult(drop=0.5, inside_delta=True, files=[file])
        release = v1.ReleaseJobRequest(job_name=lease.job_name, epoch=lease.epoch, result=result)
        conductor.call(conductor.stub.ReleaseJob, release, until=time.monotonic() + 20)
        events: list[job_pb2.JobEvent] = []
        for name in ("projects/p/jobs/a", "projects/p/jobs/b", "projects/p/jobs/c"):
            watch = job_service_pb2.WatchJobRequest(name=name)
            events += again(lambda watch=watch: list(jobs.WatchJob(watch, timeout=20)))  # type: ignore[misc]
        delete = job_service_pb2.DeleteJobRequest(name="projects/p/jobs/c", allow_missing=True)
        again(lambda: jobs.DeleteJob(delete, timeout=10))
    conductor.close()
    return events


def sent(artifacts: artifact_service_pb2_grpc.ArtifactServiceStub) -> None:
    """Send content, and have what nobody refers to looked for."""
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    query = artifact_service_pb2.QueryUploadRequest(sha256=sha256, size_bytes=len(CONTENT))
    message = artifact_service_pb2.WriteArtifactRequest(
        sha256=sha256, size_bytes=len(CONTENT), data=CONTENT, crc32=zlib.crc32(CONTENT)
    )
    again(lambda: artifacts.QueryUpload(query, timeout=10))
    assert again(lambda: artifacts.WriteArtifact(iter([message]), timeout=10)).complete
    assert again(lambda: artifacts.QueryUpload(query, timeout=10)).complete
    found = again(lambda: artifacts.CollectGarbage(artifact_service_pb2.CollectGarbageRequest(), timeout=10))
    assert (found.removed_artifacts, found.waiting_artifacts) == (0, 1)


def handled(jobs: job_service_pb2_grpc.JobServiceStub) -> None:
    """Have job b changed, paused, resumed and cancelled, and another try of it cancelled too."""
    name = "projects/p/jobs/b"
    update = job_service_pb2.UpdateJobRequest(
        job=job_pb2.Job(name=name, labels={"team": "speech"}, priority=7),
        update_mask=field_mask_pb2.FieldMask(paths=["labels", "priority"]),
        request_id="update",
    )
    pause = job_service_pb2.PauseJobRequest(name=name, request_id="pause")
    resume = job_service_pb2.ResumeJobRequest(name=name, request_id="resume")
    cancel = job_service_pb2.CancelJobRequest(name=name, request_id="cancel")
    retry = job_service_pb2.RetryJobRequest(name=name, job_id="c", request_id="retry")
    second = job_service_pb2.CancelJobRequest(name="projects/p/jobs/c", request_id="cancel-c")
    assert again(lambda: jobs.UpdateJob(update, timeout=10)).priority == 7
    assert again(lambda: jobs.PauseJob(pause, timeout=10)).state == job_pb2.JOB_STATE_PAUSED
    assert again(lambda: jobs.ResumeJob(resume, timeout=10)).state == job_pb2.JOB_STATE_QUEUED
    assert again(lambda: jobs.CancelJob(cancel, timeout=10)).state == job_pb2.JOB_STATE_CANCELLED
    assert again(lambda: jobs.RetryJob(retry, timeout=10)).retry_of == name
    again(lambda: jobs.CancelJob(second, timeout=10))


def fleeted(fleets: fleet_service_pb2_grpc.FleetServiceStub) -> None:
    """Have a fleet of many models made, cancelled, tried again and forgotten."""
    name = "projects/p/fleets/f"
    create = fleet_service_pb2.CreateFleetRequest(parent="projects/p", fleet_id="f", allow_existing=True)
    spec = job_pb2.JobSpec(zoo="digits", delta=1.0)
    models = [fleet_service_pb2.FleetModel(model=f"m{i}", job=job_pb2.Job(spec=spec)) for i in range(40)]
    batch = fleet_service_pb2.BatchCreateJobsRequest(parent=name, models=models)
    cancel = fleet_service_pb2.CancelFleetRequest(name=name)
    retry = fleet_service_pb2.RetryFleetRequest(name=name)
    watch = fleet_service_pb2.WatchFleetRequest(name=name)
    delete = fleet_service_pb2.DeleteFleetRequest(name=name, allow_missing=True)
    again(lambda: fleets.CreateFleet(create, timeout=10))
    made = again(lambda: fleets.BatchCreateJobs(batch, timeout=10))
    assert [one.job.name for one in made.models] == [f"projects/p/jobs/f-m{i}" for i in range(40)]
    assert again(lambda: fleets.CancelFleet(cancel, timeout=10)).counts.models == 40
    assert not again(lambda: fleets.RetryFleet(retry, timeout=10)).models
    told = again(lambda: list(fleets.WatchFleet(watch, timeout=10)))
    assert {job.state for message in told for job in message.jobs} == {job_pb2.JOB_STATE_CANCELLED}
    again(lambda: fleets.DeleteFleet(delete, timeout=10))


async def test_a_life_among_faults_is_the_life_without(open_store: Open, tmp_path: Path, now: list[int]) -> None:
    plain: Store = await asyncio.to_thread(SqlStore.open, f"sqlite:///{tmp_path / 'plain.db'}", clock=lambda: now[0])
    async with served(plain, tmp_path / "artifacts", now) as target:
        expected = await asyncio.to_thread(live, target)
    store, faults = faulty(await open_store())
    async with served(store, tmp_path / "artifacts", now) as target:
        assert await asyncio.to_thread(live, target) == expected
    expected_jobs = [replace(job, id=0) for job in await plain.list_jobs()]
    assert [replace(job, id=0) for job in await (await open_store()).list_jobs()] == expected_jobs
    await plain.close()
    asked = ("create_job", "update_job", "pause_job", "resume_job", "cancel_job", "retry_job", "delete_job")
    written = ("lease_job", "heartbeat", "report_evaluation", "report_attempt", "commit_step", "release_job")
    kept = ("want_artifact", "age_evaluations", "sort_artifacts", "forget_overdue_artifacts")
    for method in (*asked, *written, *kept, "read_events", "get_evaluations"):
        assert faults.failed[method, "before"] >= 1, method
        assert faults.failed[method, "after"] >= 1, method
    assert faults.fleets is not None
    for method in ("create", "create_jobs", "cancel", "retry", "delete", "get", "models_after"):
        assert faults.fleets.failed[method, "before"] >= 1, method
        assert faults.fleets.failed[method, "after"] >= 1, method
    assert faults.failed["commit_step", "after"] == EVALUATIONS
    assert faults.failed["report_evaluation", "after"] == EVALUATIONS
    assert faults.failed["report_attempt", "after"] == EVALUATIONS


async def test_each_call_fails_before_and_after_and_then_is_answered(
    open_store: Open, new_job: Callable[[str], NewJob]
) -> None:
    store, faults = faulty(await open_store())
    request = RequestId("p", "r", "d")
    for moment, jobs in (("before", 0), ("after", 1)):
        with pytest.raises(StoreUnavailableError, match=f"{moment} create_job"):
            await store.create_job(new_job("a"), request)
        assert len(await (await open_store()).list_jobs()) == jobs
    assert (await store.create_job(new_job("a"), request)).last_sequence == 1
    assert faults.failed == {("create_job", "before"): 1, ("create_job", "after"): 1}
