"""A conductor within the test's own loop, a conductor as a process, and what talks to them."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from diminuendo.v1 import (
    artifact_service_pb2_grpc,
    coordinator_service_pb2,
    coordinator_service_pb2_grpc,
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
)
from google.rpc import error_details_pb2  # type: ignore[import-untyped, unused-ignore]
from grpc_status import rpc_status  # type: ignore[import-untyped, unused-ignore]

from diminuendo.services.conductor.app import Running, conducting
from diminuendo.services.conductor.settings import ConductorSettings

LEASE_S = 30.0


@dataclass(frozen=True)
class Failure:
    """An error as a client sees it."""

    code: grpc.StatusCode
    message: str
    reason: str
    domain: str
    metadata: dict[str, str]
    fields: dict[str, str]


@dataclass
class Clock:
    """A conductor's clock that the test moves."""

    micros: int = 1_700_000_000_000_000

    def __call__(self) -> int:
        return self.micros

    def advance(self, seconds: float) -> None:
        self.micros += round(seconds * 1_000_000)


@dataclass
class Api:
    """Stubs on one channel, and short forms of what tests often ask."""

    channel: grpc.aio.Channel
    jobs: job_service_pb2_grpc.JobServiceAsyncStub = field(init=False)
    coordinators: coordinator_service_pb2_grpc.CoordinatorServiceAsyncStub = field(init=False)
    artifacts: artifact_service_pb2_grpc.ArtifactServiceAsyncStub = field(init=False)

    def __post_init__(self) -> None:
        self.jobs = job_service_pb2_grpc.JobServiceStub(self.channel)
        self.coordinators = coordinator_service_pb2_grpc.CoordinatorServiceStub(self.channel)
        self.artifacts = artifact_service_pb2_grpc.ArtifactServiceStub(self.channel)

    async def create(self, job_id: str = "", request_id: str = "", **spec: Any) -> job_pb2.Job:
        return await self.jobs.CreateJob(self.request(job_id, request_id, **spec), timeout=10)

    def request(
        self, job_id: str = "", request_id: str = "", parent: str = "projects/p", **spec: Any
    ) -> job_service_pb2.CreateJobRequest:
        fields: dict[str, Any] = {"zoo": "digits", "delta": 1.0} | spec
        job = job_pb2.Job(spec=job_pb2.JobSpec(**fields))
        return job_service_pb2.CreateJobRequest(parent=parent, job_id=job_id, job=job, request_id=request_id)

    async def lease(self, coordinator: str = "c1", wait_s: int = 0, **more: object) -> coordinator_service_pb2.Lease:
        request = coordinator_service_pb2.LeaseJobRequest(coordinator=coordinator, **more)  # type: ignore[arg-type]
        request.wait.seconds = wait_s
        return (await self.coordinators.LeaseJob(request, timeout=wait_s + 10)).lease

    async def get(self, name: str) -> job_pb2.Job:
        return await self.jobs.GetJob(job_service_pb2.GetJobRequest(name=name), timeout=10)

    async def cancel(self, name: str, request_id: str = "") -> job_pb2.Job:
        request = job_service_pb2.CancelJobRequest(name=name, request_id=request_id)
        return await self.jobs.CancelJob(request, timeout=10)

    async def pause(self, name: str, request_id: str = "") -> job_pb2.Job:
        request = job_service_pb2.PauseJobRequest(name=name, request_id=request_id)
        return await self.jobs.PauseJob(request, timeout=10)

    async def resume(self, name: str, request_id: str = "") -> job_pb2.Job:
        request = job_service_pb2.ResumeJobRequest(name=name, request_id=request_id)
        return await self.jobs.ResumeJob(request, timeout=10)

    async def beat(self, name: str, epoch: int) -> coordinator_service_pb2.HeartbeatResponse:
        request = coordinator_service_pb2.HeartbeatRequest(job_name=name, epoch=epoch)
        return await self.coordinators.Heartbeat(request, timeout=10)

    async def release(self, name: str, epoch: int, **outcome: Any) -> None:
        request = coordinator_service_pb2.ReleaseJobRequest(job_name=name, epoch=epoch, **outcome)
        await self.coordinators.ReleaseJob(request, timeout=10)

    async def commit(self, name: str, epoch: int, step: int) -> None:
        committed = job_pb2.StepCommitted(step=step, progress=job_pb2.JobProgress(steps=step + 1))
        request = coordinator_service_pb2.CommitStepRequest(job_name=name, epoch=epoch, step=committed)
        await self.coordinators.CommitStep(request, timeout=10)

    async def finish(self, name: str, epoch: int) -> None:
        file = job_pb2.ResultFile(name="plan.json", sha256="0" * 64, size_bytes=2)
        result = job_pb2.JobResult(drop=0.5, inside_delta=True, files=[file])
        request = coordinator_service_pb2.ReleaseJobRequest(job_name=name, epoch=epoch, result=result)
        await self.coordinators.ReleaseJob(request, timeout=10)

    def watch(self, name: str, after: int = 0) -> grpc.aio.UnaryStreamCall[object, job_pb2.JobEvent]:
        request = job_service_pb2.WatchJobRequest(name=name, after_sequence=after)
        return self.jobs.WatchJob(request, timeout=60)  # type: ignore[return-value]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def settings(tmp_path: Path) -> ConductorSettings:
    return ConductorSettings.load(data_dir=tmp_path / "data", port=0, http_port=0, lease_s=LEASE_S, drain_s=2.0)


@pytest.fixture
async def conductor(settings: ConductorSettings, clock: Clock) -> AsyncIterator[Running]:
    async with conducting(settings, clock=clock) as running:
        yield running


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[str], Api]]:
    """Opens channels, each of its own connection, and closes them."""
    channels: list[grpc.aio.Channel] = []

    def open_channel(target: str) -> Api:
        own = (("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 100))
        channels.append(grpc.aio.insecure_channel(target, options=own))
        return Api(channels[-1])

    yield open_channel
    for channel in channels:
        await channel.close()


@pytest.fixture
async def api(conductor: Running, connect: Callable[[str], Api]) -> Api:
    return connect(conductor.grpc)


@pytest.fixture
def failing() -> Callable[[Awaitable[object]], Awaitable[Failure]]:
    """Awaits a call that must fail, and reads its google.rpc details."""

    async def failure(call: Awaitable[object]) -> Failure:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        status = rpc_status.from_call(caught.value)
        info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        for detail in status.details if status is not None else ():
            if not detail.Unpack(info):
                detail.Unpack(request)
        fields = {violation.field: violation.description for violation in request.field_violations}
        return Failure(
            caught.value.code(), caught.value.details() or "", info.reason, info.domain, dict(info.metadata), fields
        )

    return failure


@dataclass
class Spawned:
    """A conductor as a process."""

    process: Process
    grpc: str = ""
    http: str = ""

    async def end(self, number: signal.Signals) -> tuple[int, str]:
        """Send a signal; exit code and what was written to stderr."""
        self.process.send_signal(number)
        _, err = await asyncio.wait_for(self.process.communicate(), 30)
        return self.process.returncode or 0, err.decode()


@pytest.fixture
async def spawn(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Spawned]]]:
    """Starts conductors, and ends those that still run."""
    started: list[Process] = []

    async def start(*options: str, python: tuple[str, ...] = ("-W", "error"), ready: bool = True) -> Spawned:
        folder = () if "--data-dir" in options else ("--data-dir", str(tmp_path / "data"))
        ports = [part for name in ("--port", "--http-port") if name not in options for part in (name, "0")]
        module = ("-m", "diminuendo.services.conductor")
        process = await asyncio.create_subprocess_exec(
            sys.executable, *python, *module, *folder, *ports, *options, stdout=PIPE, stderr=PIPE, cwd=tmp_path
        )
        started.append(process)
        spawned = Spawned(process)
        if ready:
            assert process.stdout is not None
            line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode().split()
            assert line, (await process.communicate())[1].decode()
            assert line[0] == "ready"
            spawned.grpc, spawned.http = line[1].removeprefix("grpc="), line[2].removeprefix("http=")
        return spawned

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()
