"""A scripted server over TCP for faults that a real one cannot be made to show, and recorded jobs."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from diminuendo.v1 import (
    artifact_service_pb2,
    artifact_service_pb2_grpc,
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
)
from google.protobuf import any_pb2, empty_pb2
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped, unused-ignore]
from grpc_status import rpc_status  # type: ignore[import-untyped, unused-ignore]

from diminuendo.client import Client, ClientConfig, RetryPolicy
from diminuendo.client.cli import main as cli

Run = Callable[..., subprocess.CompletedProcess[str]]

QUICK = ClientConfig(
    timeout_s=5.0,
    connect_s=0.6,
    stream_s=10.0,
    patience_s=1.5,
    page_size=2,
    retry=RetryPolicy(initial_s=0.01, max_s=0.05),
)


def rich_status(
    code: grpc.StatusCode, message: str, *, reason: str = "", violations: tuple[tuple[str, str], ...] = ()
) -> Any:
    """A grpc.Status with google.rpc details, as the conductor sends them."""
    status = status_pb2.Status(code=code.value[0], message=message)
    details: list[Any] = [error_details_pb2.ErrorInfo(domain="diminuendo", reason=reason)]
    if violations:
        fields = [error_details_pb2.BadRequest.FieldViolation(field=f, description=d) for f, d in violations]
        details.append(error_details_pb2.BadRequest(field_violations=fields))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return rpc_status.to_status(status)


FINAL = (job_pb2.JOB_STATE_CANCELLED, job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED)


@dataclass
class FakeServer:
    """Answers from what it was given, and breaks where it was told to.

    Attributes:
        jobs: By name.
        events: By job name; WatchJob sends these and then ends, or waits when the last one is not final.
        refusals: Statuses that the next unary calls are refused with, first come first served.
        cuts: For each coming WatchJob: how many events it sends before UNAVAILABLE; None sends all.
        garble: Changes the events of a WatchJob before they are sent.
        contents: Artifacts by sha256.
        read_cuts: For each coming ReadArtifact: how many bytes it sends before UNAVAILABLE; None sends all.
        damage: How many of the coming ReadArtifact calls flip a bit.
        chunk_damage: How many of the coming ReadArtifact calls flip a bit of their second chunk, and send the CRC-32
            of what it was.
        arrived: Bytes of uploads by sha256.
        write_cuts: For each coming WriteArtifact: how many bytes it takes before UNAVAILABLE; None takes all.
        url: What CreateUploadUrl and CreateDownloadUrl answer; empty: there are none.
        garbage: What CollectGarbage answers.
        write_refusals: Statuses that the next whole uploads are refused with; what had arrived is dropped.
    """

    jobs: dict[str, job_pb2.Job] = field(default_factory=dict)
    events: dict[str, list[job_pb2.JobEvent]] = field(default_factory=dict)
    refusals: list[Any] = field(default_factory=list)
    cuts: list[int | None] = field(default_factory=list)
    garble: Callable[[list[job_pb2.JobEvent]], list[job_pb2.JobEvent]] = lambda events: events
    contents: dict[str, bytes] = field(default_factory=dict)
    read_cuts: list[int | None] = field(default_factory=list)
    damage: int = 0
    chunk_damage: int = 0
    arrived: dict[str, bytes] = field(default_factory=dict)
    write_cuts: list[int | None] = field(default_factory=list)
    write_refusals: list[Any] = field(default_factory=list)
    url: str = ""
    garbage: artifact_service_pb2.CollectGarbageResponse = field(
        default_factory=artifact_service_pb2.CollectGarbageResponse
    )
    requests: list[Any] = field(default_factory=list)
    gone: threading.Event = field(default_factory=threading.Event)
    target: str = ""

    def asked(self, kind: type[Any]) -> list[Any]:
        """Requests of one type, in the order in which they came."""
        return [request for request in self.requests if isinstance(request, kind)]

    def add(self, job: job_pb2.Job, events: list[job_pb2.JobEvent]) -> str:
        """Know a job and its log; returns its name."""
        job.last_sequence = len(events)
        self.jobs[job.name], self.events[job.name] = job, events
        return job.name

    def unary(self, request: Any, context: grpc.ServicerContext) -> None:
        """Note a call, and refuse it when told to."""
        self.requests.append(request)
        if self.refusals:
            refusal = self.refusals.pop(0)
            if isinstance(refusal, grpc.StatusCode):
                context.abort(refusal, "")
            context.abort_with_status(refusal)


class _Jobs(job_service_pb2_grpc.JobServiceServicer):
    def __init__(self, fake: FakeServer) -> None:
        self.fake = fake

    def CreateJob(self, request: job_service_pb2.CreateJobRequest, context: Any) -> job_pb2.Job:
        self.fake.unary(request, context)
        job = job_pb2.Job()
        job.CopyFrom(request.job)
        job.name = f"{request.parent}/jobs/{request.job_id or 'chosen'}"
        job.state = job_pb2.JOB_STATE_QUEUED
        self.fake.jobs.setdefault(job.name, job)
        return self.fake.jobs[job.name]

    def GetJob(self, request: job_service_pb2.GetJobRequest, context: Any) -> job_pb2.Job:
        self.fake.unary(request, context)
        return self.find(request.name, context)

    def ListJobs(self, request: job_service_pb2.ListJobsRequest, context: Any) -> job_service_pb2.ListJobsResponse:
        self.fake.unary(request, context)
        jobs = [
            job
            for job in self.fake.jobs.values()
            if (not request.states or job.state in request.states) and request.labels.items() <= job.labels.items()
        ]
        start = int(request.page_token or 0)
        end = start + request.page_size
        return job_service_pb2.ListJobsResponse(
            jobs=jobs[start:end], next_page_token=str(end) if end < len(jobs) else ""
        )

    def CancelJob(self, request: job_service_pb2.CancelJobRequest, context: Any) -> job_pb2.Job:
        return self.change(request, context, job_pb2.JOB_STATE_CANCELLED)

    def PauseJob(self, request: job_service_pb2.PauseJobRequest, context: Any) -> job_pb2.Job:
        return self.change(request, context, job_pb2.JOB_STATE_PAUSED)

    def ResumeJob(self, request: job_service_pb2.ResumeJobRequest, context: Any) -> job_pb2.Job:
        return self.change(request, context, job_pb2.JOB_STATE_QUEUED)

    def RetryJob(self, request: job_service_pb2.RetryJobRequest, context: Any) -> job_pb2.Job:
        self.fake.unary(request, context)
        self.find(request.name, context)
        return job_pb2.Job(name=f"{request.name.rpartition('/')[0]}/{request.job_id or 'chosen'}")

    def UpdateJob(self, request: job_service_pb2.UpdateJobRequest, context: Any) -> job_pb2.Job:
        self.fake.unary(request, context)
        return self.find(request.job.name, context)

    def DeleteJob(self, request: job_service_pb2.DeleteJobRequest, context: Any) -> empty_pb2.Empty:
        self.fake.unary(request, context)
        self.fake.jobs.pop(self.find(request.name, context).name)
        return empty_pb2.Empty()

    def WaitJob(self, request: job_service_pb2.WaitJobRequest, context: Any) -> job_pb2.Job:
        raise NotImplementedError("the client follows events")

    def change(self, request: Any, context: Any, state: job_pb2.JobState.ValueType) -> job_pb2.Job:
        self.fake.unary(request, context)
        job = self.find(request.name, context)
        job.state = state
        return job

    def WatchJob(self, request: job_service_pb2.WatchJobRequest, context: Any) -> Iterator[job_pb2.JobEvent]:
        self.fake.requests.append(request)
        context.add_callback(self.fake.gone.set)
        self.find(request.name, context)
        cut = self.fake.cuts.pop(0) if self.fake.cuts else None
        events = self.fake.garble(self.fake.events[request.name])
        for sent, event in enumerate(event for event in events if event.sequence > request.after_sequence):
            if sent == cut:
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            yield event
        if cut is not None:
            context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
        if not events or events[-1].state_changed.state not in FINAL:
            over = threading.Event()
            context.add_callback(over.set)
            over.wait()

    def find(self, name: str, context: Any) -> job_pb2.Job:
        if name not in self.fake.jobs:
            context.abort_with_status(
                rich_status(grpc.StatusCode.NOT_FOUND, f"there is no job {name}; see ListJobs", reason="JOB_NOT_FOUND")
            )
        return self.fake.jobs[name]


class _Artifacts(artifact_service_pb2_grpc.ArtifactServiceServicer):
    def __init__(self, fake: FakeServer) -> None:
        self.fake = fake

    def ReadArtifact(
        self, request: artifact_service_pb2.ReadArtifactRequest, context: Any
    ) -> Iterator[artifact_service_pb2.ReadArtifactResponse]:
        self.fake.requests.append(request)
        content = self.fake.contents[request.sha256][request.offset :]
        cut = self.fake.read_cuts.pop(0) if self.fake.read_cuts else None
        if self.fake.damage and content:
            self.fake.damage -= 1
            content = bytes([content[0] ^ 1]) + content[1:]
        end = len(content) if cut is None else cut
        for start in range(0, end, 1000):
            data = content[start : min(end, start + 1000)]
            crc32 = zlib.crc32(data)
            damaged = bool(self.fake.chunk_damage and start)
            if damaged:
                self.fake.chunk_damage -= 1
                data = bytes([data[0] ^ 1]) + data[1:]
            yield artifact_service_pb2.ReadArtifactResponse(data=data, crc32=crc32)
            if damaged:
                return
        if cut is not None:
            context.abort(grpc.StatusCode.UNAVAILABLE, "cut")

    def QueryUpload(
        self, request: artifact_service_pb2.QueryUploadRequest, context: Any
    ) -> artifact_service_pb2.QueryUploadResponse:
        self.fake.unary(request, context)
        if request.sha256 in self.fake.contents:
            return artifact_service_pb2.QueryUploadResponse(offset=request.size_bytes, complete=True)
        return artifact_service_pb2.QueryUploadResponse(offset=len(self.fake.arrived.get(request.sha256, b"")))

    def CreateUploadUrl(
        self, request: artifact_service_pb2.CreateUploadUrlRequest, context: Any
    ) -> artifact_service_pb2.CreateUploadUrlResponse:
        return artifact_service_pb2.CreateUploadUrlResponse(url=self.url(request, context))

    def CreateDownloadUrl(
        self, request: artifact_service_pb2.CreateDownloadUrlRequest, context: Any
    ) -> artifact_service_pb2.CreateDownloadUrlResponse:
        return artifact_service_pb2.CreateDownloadUrlResponse(url=self.url(request, context))

    def url(self, request: Any, context: Any) -> str:
        self.fake.unary(request, context)
        if not self.fake.url:
            code = grpc.StatusCode.FAILED_PRECONDITION
            context.abort_with_status(rich_status(code, "by gRPC", reason="NO_SIGNED_URLS"))
        return self.fake.url

    def CollectGarbage(
        self, request: artifact_service_pb2.CollectGarbageRequest, context: Any
    ) -> artifact_service_pb2.CollectGarbageResponse:
        self.fake.unary(request, context)
        return self.fake.garbage

    def WriteArtifact(
        self, request_iterator: Iterator[artifact_service_pb2.WriteArtifactRequest], context: Any
    ) -> artifact_service_pb2.WriteArtifactResponse:
        cut = self.fake.write_cuts.pop(0) if self.fake.write_cuts else None
        sha256, size, taken = "", 0, 0
        for request in request_iterator:
            self.fake.requests.append(request)
            sha256, size = sha256 or request.sha256, size or request.size_bytes
            held = self.fake.arrived.setdefault(sha256, b"")
            assert (request.offset, request.crc32) == (len(held), zlib.crc32(request.data))
            data = request.data if cut is None else request.data[: cut - taken]
            self.fake.arrived[sha256], taken = held + data, taken + len(data)
            if taken == cut:
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
        held = self.fake.arrived[sha256]
        if len(held) == size:
            del self.fake.arrived[sha256]
            if self.fake.write_refusals:
                context.abort_with_status(self.fake.write_refusals.pop(0))
            self.fake.contents[sha256] = held
        return artifact_service_pb2.WriteArtifactResponse(offset=len(held), complete=len(held) == size)


def serve(fake: FakeServer, server: grpc.Server) -> None:
    """Have a server answer as the scripted one does."""
    job_service_pb2_grpc.add_JobServiceServicer_to_server(_Jobs(fake), server)
    artifact_service_pb2_grpc.add_ArtifactServiceServicer_to_server(_Artifacts(fake), server)


@pytest.fixture(autouse=True)
def nobodys_contexts(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No context of whoever runs the tests: the file is another one, which is not there yet."""
    for name in ("DIMINUENDO_SERVER", "DIMINUENDO_PROJECT", "DIMINUENDO_TOKEN", "DIMINUENDO_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path_factory.mktemp("contexts") / "config.toml"
    monkeypatch.setenv("DIMINUENDO_CLIENT_CONFIG", str(path))
    return path


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    """A scripted server on a free port."""
    fake = FakeServer()
    server = grpc.server(futures.ThreadPoolExecutor(8))
    serve(fake, server)
    fake.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield fake
    server.stop(grace=None).wait()


@pytest.fixture
def quick() -> ClientConfig:
    """Settings that give up soon."""
    return QUICK


@pytest.fixture
def client(fake: FakeServer) -> Iterator[Client]:
    """A client of the scripted server."""
    with Client(fake.target, config=QUICK) as client:
        yield client


@pytest.fixture
def make_status() -> Callable[..., Any]:
    """Makes a grpc.Status with google.rpc details."""
    return rich_status


_START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_STAGES = (job_pb2.STAGE_PREPARE, job_pb2.STAGE_SURVEY, job_pb2.STAGE_EXPLORE, job_pb2.STAGE_ANNEAL)


class Recorded:
    """Messages of a job that ran from beginning to end."""

    name = "projects/default/jobs/recorded"

    def __init__(self, *, works: int = 12, inside_delta: bool = True) -> None:
        self.works = works
        self.files = result_files(inside_delta=inside_delta)
        self.inside_delta = inside_delta

    def job(self) -> job_pb2.Job:
        """The job at its end."""
        job = job_pb2.Job(
            name=self.name,
            spec=job_pb2.JobSpec(zoo="digits", delta=1.0, seed=7, effort=job_pb2.EFFORT_QUICK),
            state=job_pb2.JOB_STATE_SUCCEEDED,
            labels={"team": "vision"},
            etag="e1",
            epoch=1,
        )
        job.create_time.FromDatetime(_START)
        job.result.CopyFrom(
            job_pb2.JobResult(
                inside_delta=self.inside_delta,
                drop=0.25 if self.inside_delta else 1.75,
                params_ratio=7.92,
                macs_ratio=5.1,
                files=[
                    job_pb2.ResultFile(name=name, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
                    for name, data in self.files.items()
                ],
            )
        )
        return job

    def contents(self) -> dict[str, bytes]:
        """The result's files by sha256."""
        return {hashlib.sha256(data).hexdigest(): data for data in self.files.values()}

    def events(self) -> list[job_pb2.JobEvent]:
        """The whole log, from QUEUED to SUCCEEDED."""
        kinds: list[dict[str, Any]] = [
            {"state_changed": job_pb2.StateChanged(state=job_pb2.JOB_STATE_QUEUED)},
            {"leased": job_pb2.Leased(coordinator="coordinator-1", epoch=1)},
            {"state_changed": job_pb2.StateChanged(state=job_pb2.JOB_STATE_RUNNING)},
        ]
        for index in range(self.works):
            kinds += self._work(index)
        kinds.insert(9, {"warning": job_pb2.Warning(reason="CANDIDATE_DIVERGED", message="candidate 3 diverged")})
        kinds.append({"state_changed": job_pb2.StateChanged(state=job_pb2.JOB_STATE_SUCCEEDED)})
        events = []
        for number, kind in enumerate(kinds):
            event = job_pb2.JobEvent(sequence=number + 1, **kind)
            event.time.FromDatetime(_START + timedelta(seconds=2 * number))
            events.append(event)
        return events

    def _work(self, index: int) -> list[dict[str, Any]]:
        stage = _STAGES[min(3, 4 * index // self.works)]
        tuned = stage in (job_pb2.STAGE_EXPLORE, job_pb2.STAGE_ANNEAL)
        figures = job_pb2.Candidate(params_ratio=2.0 + index / 2, macs_ratio=1.5 + index / 3, drop=index / 16)
        done = job_pb2.EvaluationFinished(
            index=index,
            key=f"{index:064x}",
            kind="evaluate" if tuned else "survey",
            subject=f"first {figures.params_ratio:.1f}x" if tuned else f"layer{index}.0.conv1",
            seconds=1.25 + index,
            evaluator=f"evaluator-{index % 2}",
            epochs=4 if tuned else 0,
            candidate=figures if tuned else None,
        )
        progress = job_pb2.JobProgress(
            stage=stage,
            steps=index + 1,
            works_done=index + 1,
            works_expected=self.works,
            best=figures if tuned else None,
        )
        step = job_pb2.StepCommitted(step=index, progress=progress, summary=f"{done.subject}: done")
        return [{"evaluation_finished": done}, {"step_committed": step}]


def result_files(*, inside_delta: bool) -> dict[str, bytes]:
    """A result folder's files."""
    certificate = {
        "metric": "top1",
        "original": 98.75,
        "compressed": 98.5 if inside_delta else 97.0,
        "drop": 0.25 if inside_delta else 1.75,
        "drop_ci": [-0.5, 1.0],
        "delta": 1.0,
        "accept": "estimate",
        "inside_delta": inside_delta,
        "params_ratio": 7.92,
        "macs_ratio": 5.1,
        "size_ratio": 7.92,
        "memory_ratio": 3.0,
        "time_ratio": 1.5,
        "sealed_samples": 400,
        "search_samples": 400,
        "search_drop": 0.5,
        "finalists_judged": 3,
        "evaluations": 40,
        "epochs": 200,
        "seconds": 63.0,
        "seed": 7,
        "dense_control": {"score": 98.75, "drop": 0.0, "epochs": 20},
        "source": "zoo:digits",
    }
    plan = {
        "version": 1,
        "source": "zoo:digits",
        "layers": {
            "stem.conv": {"format": "dense", "ranks": []},
            "blocks.0.conv1": {"format": "svd", "ranks": [12]},
            "blocks.0.conv2": {"format": "tucker2", "ranks": [8, 16]},
        },
        "left_dense": {"blocks.1.depthwise": "grouped convolutions have no form"},
    }
    profile = {
        "machine": "test machine, 2 threads, float32, batch 1",
        "original": {
            "params": 175_258,
            "macs": 4_000_000,
            "size_mb": 0.6686,
            "memory_mb": 0.9,
            "time_ms": 1.5,
            "layers": {
                "stem.conv": {"params": 288, "macs": 18432},
                "blocks.0.conv1": {"params": 36864, "macs": 589824},
                "blocks.0.conv2": {"params": 73728, "macs": 1179648},
            },
        },
        "compressed": {
            "params": 22_128,
            "macs": 784_000,
            "size_mb": 0.0844,
            "memory_mb": 0.3,
            "time_ms": 1.0,
            "layers": {
                "stem.conv": {"params": 288, "macs": 18432},
                "blocks.0.conv1": {"params": 4608, "macs": 73728},
                "blocks.0.conv2": {"params": 2048, "macs": 32768},
            },
        },
    }
    files = {"certificate.json": certificate, "plan.json": plan, "profile.json": profile}
    data = {name: json.dumps(content).encode() for name, content in files.items()}
    return {"model.safetensors": bytes(range(256)) * 20, **data}


@pytest.fixture
def recorded() -> Recorded:
    """A job that ended inside delta."""
    return Recorded()


@pytest.fixture
def recorded_outside() -> Recorded:
    """A job that found nothing inside delta."""
    return Recorded(inside_delta=False)


@pytest.fixture
def result_folder(tmp_path: Path) -> Path:
    """A result on disk."""
    folder = tmp_path / "result"
    folder.mkdir()
    for name, data in result_files(inside_delta=True).items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def run_here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs the command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        with pytest.raises(SystemExit) as caught:
            cli.main(words)
        out, err = capsys.readouterr()
        code = caught.value.code
        return subprocess.CompletedProcess(words, code if isinstance(code, int) else 1, out, err)

    return run
