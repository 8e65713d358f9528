"""Garbage is collected by a conductor over its database and its artifact store, also among faults and writers."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import time
import urllib.request
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from diminuendo.v1 import artifact_service_pb2 as pb
from diminuendo.v1 import coordinator_service_pb2, job_pb2, job_service_pb2
from tests.contract.artifacts import make_bucket, s3_server
from tests.contract.faults import faulty

from diminuendo.engine.store import DirectoryStore, SharedStore
from diminuendo.engine.stores import open_store
from diminuendo.services.common.errors import StoreUnavailableError
from diminuendo.services.conductor.app import Running, conducting
from diminuendo.services.conductor.garbage import Amount, Collected, Collector, collect_now_and_then
from diminuendo.services.conductor.metrics import Metrics
from diminuendo.services.conductor.settings import ConductorSettings
from diminuendo.services.conductor.store.sql import SqlStore
from diminuendo.services.conductor.uploads import Uploads

Api = Any
Failing = Callable[[Awaitable[object]], Awaitable[Any]]
DAY = 86_400.0
WEIGHTS, OTHER, RESULT, STRAY = b"weights" * 100, b"other" * 100, b"result" * 100, b"stray" * 100
JOB = "projects/p/jobs/a"


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(params=["directory", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "directory":
        yield str(tmp_path / "artifacts")
        return
    with s3_server() as url:
        make_bucket(url, "artifacts")
        yield f"s3://artifacts/one?endpoint_url={url}"


@pytest.fixture
async def running(settings: ConductorSettings, clock: Any, location: str) -> AsyncIterator[Running]:
    clock.micros = time.time_ns() // 1000  # the artifact store's own
    async with conducting(settings.model_copy(update={"artifacts": location}), clock=clock) as running:
        yield running


async def collect(api: Api, **fields: Any) -> pb.CollectGarbageResponse:
    answer: pb.CollectGarbageResponse = await api.artifacts.CollectGarbage(
        pb.CollectGarbageRequest(**fields), timeout=30
    )
    return answer


async def a_job(api: Api, store: SharedStore) -> None:
    """With an evaluation that names its content, one that a coordinator of an older version reports, and a result."""
    for content in (WEIGHTS, OTHER, RESULT):
        store.put(content)
    await api.create("a")
    await api.lease()
    outcomes: tuple[tuple[bytes, list[str]], ...] = (
        (b"opaque", [sha(WEIGHTS)]),
        (f'{{"weights":"{sha(OTHER)}"}}'.encode(), []),
    )
    for index, (outcome, named) in enumerate(outcomes):
        evaluation = job_pb2.EvaluationFinished(index=index, key=f"{index:064}", kind="evaluate")
        request = coordinator_service_pb2.ReportEvaluationRequest(
            job_name=JOB, epoch=1, evaluation=evaluation, outcome=outcome, artifacts=named
        )
        await api.coordinators.ReportEvaluation(request, timeout=10)
    file = job_pb2.ResultFile(name="plan.json", sha256=sha(RESULT), size_bytes=len(RESULT))
    await api.release(JOB, 1, result=job_pb2.JobResult(files=[file]))


async def delete(api: Api) -> None:
    await api.jobs.DeleteJob(job_service_pb2.DeleteJobRequest(name=JOB), timeout=10)


async def test_what_a_deleted_job_referred_to_is_removed_after_a_while_and_counted(
    running: Running, connect: Callable[[str], Api], location: str, clock: Any
) -> None:
    api, store = connect(running.grpc), open_store(location)
    await a_job(api, store)
    size = len(WEIGHTS + OTHER + RESULT)
    assert await collect(api) == pb.CollectGarbageResponse(kept_artifacts=3, kept_bytes=size)
    clock.advance(30 * DAY)
    await delete(api)
    assert await collect(api) == pb.CollectGarbageResponse(waiting_artifacts=3, waiting_bytes=size)
    clock.advance(7 * DAY + 1)
    gone = pb.CollectGarbageResponse(removed_artifacts=3, removed_bytes=size, removed_evaluations=2)
    assert await collect(api, dry_run=True) == gone
    assert len(list(store.stored())) == 3
    assert await collect(api) == gone
    assert list(store.stored()) == []
    assert await collect(api) == pb.CollectGarbageResponse()
    page = await asyncio.to_thread(metrics_page, running.http)
    for line in (
        "diminuendo_artifacts_removed_total 3.0",
        f"diminuendo_artifacts_removed_bytes_total {float(size)}",
        "diminuendo_evaluations_removed_total 2.0",
        'diminuendo_artifacts{state="kept"} 0.0',
        'diminuendo_artifacts_bytes{state="waiting"} 0.0',
    ):
        assert line in page.splitlines()


def metrics_page(address: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{address}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
    return text


async def test_content_that_is_sent_or_stored_again_is_not_removed(
    api: Api, clock: Any, settings: ConductorSettings
) -> None:
    store = DirectoryStore(settings.artifacts_location)
    clock.micros = time.time_ns() // 1000 - round(30 * DAY * 1e6)
    for content in (STRAY, OTHER, WEIGHTS):
        store.put(content)
        os.utime(store.path(sha(content)), (clock.micros / 1e6, clock.micros / 1e6))
    await collect(api)
    clock.advance(6 * DAY)
    query = pb.QueryUploadRequest(sha256=sha(STRAY), size_bytes=len(STRAY))
    assert (await api.artifacts.QueryUpload(query, timeout=10)).complete, "and wanted from now on"
    clock.micros = time.time_ns() // 1000 - round(20 * DAY * 1e6)
    store.put(OTHER)  # now, behind the conductor's back
    would = await collect(api, dry_run=True)
    answer = await collect(api)
    assert answer == would
    assert (answer.removed_bytes, answer.waiting_bytes) == (len(WEIGHTS), len(STRAY + OTHER))
    assert store.missing([sha(STRAY), sha(OTHER), sha(WEIGHTS)]) == {sha(WEIGHTS)}


async def test_content_on_its_way_out_is_asked_for_again(
    settings: ConductorSettings, clock: Any, connect: Callable[[str], Api]
) -> None:
    """The conductor is cut off between its decision and the removal; who asks then must not rely on the content."""
    clock.micros = time.time_ns() // 1000
    store = DirectoryStore(settings.artifacts_location)
    store.put(STRAY)
    query = pb.QueryUploadRequest(sha256=sha(STRAY), size_bytes=len(STRAY))
    async with conducting(settings, clock=clock) as running:
        api = connect(running.grpc)
        await collect(api)
        clock.advance(8 * DAY)
        found = await running.store.sort_artifacts([sha(STRAY)], unused_before=clock.micros - round(7 * DAY * 1e6))
        assert found.due == {sha(STRAY)}
    async with conducting(settings, clock=clock) as running:
        api = connect(running.grpc)
        assert not (await api.artifacts.QueryUpload(query, timeout=10)).complete
        message = pb.WriteArtifactRequest(sha256=sha(STRAY), size_bytes=len(STRAY), data=STRAY, crc32=zlib.crc32(STRAY))
        assert (await api.artifacts.WriteArtifact(iter([message]), timeout=10)).complete
        os.utime(store.path(sha(STRAY)), (clock.micros / 1e6, clock.micros / 1e6))  # by the clock of this test
        answer = await collect(api)
        assert (answer.removed_artifacts, answer.waiting_artifacts) == (0, 1)
        assert (await api.artifacts.QueryUpload(query, timeout=10)).complete


async def test_half_done_uploads_and_writes_are_swept_after_a_day(
    api: Api, clock: Any, settings: ConductorSettings
) -> None:
    clock.micros = time.time_ns() // 1000
    store = DirectoryStore(settings.artifacts_location)
    message = pb.WriteArtifactRequest(sha256="0" * 64, size_bytes=100, data=b"half", crc32=zlib.crc32(b"half"))
    await api.artifacts.WriteArtifact(iter([message]), timeout=10)
    store.put(STRAY)
    half = store.path(sha(STRAY)).with_name(".put-abc")
    half.write_bytes(b"half")
    await collect(api)
    assert half.exists()
    assert len(list(settings.uploads_dir.iterdir())) == 1
    clock.advance(DAY + 60)
    await collect(api)
    assert not half.exists()
    assert list(settings.uploads_dir.iterdir()) == []
    assert store.get(sha(STRAY)) == STRAY


async def test_among_faults_the_same_is_removed(tmp_path: Path) -> None:
    now = [time.time_ns() // 1000]
    real = await asyncio.to_thread(SqlStore.open, f"sqlite:///{tmp_path / 'a.db'}", clock=lambda: now[0])
    store, faults = faulty(real)
    artifacts = DirectoryStore(tmp_path / "artifacts")
    uploads = Uploads(tmp_path / "uploads", artifacts)
    metrics = Metrics(lambda: now[0])
    collector = Collector(store, artifacts, uploads, metrics, lambda: now[0], keep_s=DAY)
    for number in range(6):
        sha256 = artifacts.put(b"stray %d" % number)
        os.utime(artifacts.path(sha256), (now[0] / 1e6, now[0] / 1e6))
        for attempt in range(200):
            try:
                await collector.collect()
            except StoreUnavailableError:
                assert attempt < 199
            else:
                break
        assert artifacts.missing([sha256]) == set()
        now[0] += round(2 * DAY * 1e6)
    assert len(list(artifacts.stored())) == 1
    assert metrics.artifacts_removed._value.get() == 5
    for method in ("age_evaluations", "sort_artifacts", "removed_artifacts", "forget_overdue_artifacts"):
        assert faults.failed[method, "before"] >= 1, method
        assert faults.failed[method, "after"] >= 1, method
    await store.close()


async def test_a_store_that_is_away_is_tried_again_and_a_dry_run_says_so(
    settings: ConductorSettings, connect: Callable[[str], Api], failing: Failing
) -> None:
    with s3_server() as url:
        location = f"s3://nowhere/one?endpoint_url={url}"  # there is no such bucket
        async with conducting(settings.model_copy(update={"artifacts": location})) as running:
            failure = await failing(collect(connect(running.grpc), dry_run=True))
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")


async def test_rounds_go_on_after_one_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[int] = []
    third = asyncio.Event()
    nothing = Collected(Amount(), Amount(), Amount(), 0)

    class Broken:
        async def collect(self) -> Collected:
            rounds.append(len(rounds))
            if len(rounds) == 1:
                raise StoreUnavailableError("away")
            if len(rounds) == 2:
                raise ValueError("a defect")
            third.set()
            return nothing

    monkeypatch.setattr(random, "uniform", lambda _low, _high: 0.0)
    task = asyncio.create_task(collect_now_and_then(Broken(), 0.001))  # type: ignore[arg-type]
    await asyncio.wait_for(third.wait(), 10)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
