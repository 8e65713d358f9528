"""What coordinators and clients tell a conductor: everything that metrics are made of, by a client of the tests."""

from __future__ import annotations

import hashlib
import itertools
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import grpc
from diminuendo.v1 import (
    artifact_service_pb2,
    artifact_service_pb2_grpc,
    cluster_service_pb2,
    coordinator_service_pb2_grpc,
    fleet_pb2,
    fleet_service_pb2,
    fleet_service_pb2_grpc,
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
)
from diminuendo.v1 import coordinator_service_pb2 as v1

KINDS = ("prepare", "survey", "evaluate", "judge")
FLEET = "projects/p/fleets/f"
LIMIT_S = 10


class Life:
    """Calls on one channel. Each call of a method is another round of the same."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.jobs = job_service_pb2_grpc.JobServiceStub(channel)
        self.fleets = fleet_service_pb2_grpc.FleetServiceStub(channel)
        self.coordinators = coordinator_service_pb2_grpc.CoordinatorServiceStub(channel)
        self.artifacts = artifact_service_pb2_grpc.ArtifactServiceStub(channel)
        self._numbers = itertools.count()

    def create(self, name: str = "", *, metadata: Any = None, **spec: Any) -> str:
        """A job's name."""
        fields: dict[str, Any] = {"zoo": "digits", "delta": 1.0} | spec
        job = job_pb2.Job(spec=job_pb2.JobSpec(**fields))
        request = job_service_pb2.CreateJobRequest(parent="projects/p", job_id=name, job=job)
        return self.jobs.CreateJob(request, timeout=LIMIT_S, metadata=metadata).name

    def lease(self, coordinator: str = "c", holding: tuple[str, ...] = ()) -> v1.Lease:
        """The next job."""
        request = v1.LeaseJobRequest(coordinator=coordinator, holding=holding)
        return self.coordinators.LeaseJob(request, timeout=LIMIT_S).lease

    def tell(self, *states: job_pb2.EvaluatorState.ValueType, gpus: float = 1.0) -> None:
        """What the coordinator's evaluators do."""
        evaluators = [
            job_pb2.EvaluatorStatus(evaluator=f"evaluator-{i}", state=state, gpus=gpus)
            for i, state in enumerate(states)
        ]
        told = cluster_service_pb2.Coordinator(name="c", evaluators=evaluators, works_waiting=3)
        self.coordinators.ReportCluster(v1.ReportClusterRequest(coordinator=told), timeout=LIMIT_S)

    def evaluate(self, lease: v1.Lease, **evaluation: Any) -> None:
        """Report a work."""
        number = next(self._numbers)
        fields: dict[str, Any] = {"kind": "evaluate", "seconds": 1.0 + number % 5, "samples": 1000} | evaluation
        done = job_pb2.EvaluationFinished(index=number, key=f"k{number}", **fields)
        request = v1.ReportEvaluationRequest(job_name=lease.job.name, epoch=lease.epoch, evaluation=done)
        self.coordinators.ReportEvaluation(request, timeout=LIMIT_S)

    def lose(self, lease: v1.Lease, cause: str = "EVALUATOR_LOST") -> None:
        """Report an attempt that came to nothing."""
        lost = job_pb2.AttemptLost(index=next(self._numbers), attempt=1, cause=cause)
        request = v1.ReportAttemptRequest(job_name=lease.job.name, epoch=lease.epoch, attempt=lost)
        self.coordinators.ReportAttempt(request, timeout=LIMIT_S)

    def step(self, lease: v1.Lease, number: int, *, ratio: float = 4.0, drop: float = 0.7) -> None:
        """Commit a step."""
        best = job_pb2.Candidate(params_ratio=ratio, macs_ratio=ratio, drop=drop)
        progress = job_pb2.JobProgress(stage=job_pb2.STAGE_ANNEAL, steps=number + 1, best=best)
        request = v1.CommitStepRequest(
            job_name=lease.job.name, epoch=lease.epoch, step=job_pb2.StepCommitted(step=number, progress=progress)
        )
        self.coordinators.CommitStep(request, timeout=LIMIT_S)

    def finish(self, lease: v1.Lease, *, inside: bool = True, ratio: float = 5.0) -> None:
        """End a job with a result."""
        result = job_pb2.JobResult(
            inside_delta=inside,
            drop=0.5 if inside else 3.0,
            params_ratio=ratio,
            original=job_pb2.Figures(params=1_000_000, size_bytes=4_000_000),
            compressed=job_pb2.Figures(params=round(1_000_000 / ratio), size_bytes=round(4_000_000 / ratio)),
            files=[job_pb2.ResultFile(name="plan.json", sha256="0" * 64, size_bytes=2)],
        )
        request = v1.ReleaseJobRequest(job_name=lease.job.name, epoch=lease.epoch, result=result)
        self.coordinators.ReleaseJob(request, timeout=LIMIT_S)

    def fail(self, lease: v1.Lease, reason: str = "USER_CODE") -> None:
        """End a job without one."""
        failure = job_pb2.JobFailure(reason=reason, message="on purpose")
        request = v1.ReleaseJobRequest(job_name=lease.job.name, epoch=lease.epoch, failure=failure)
        self.coordinators.ReleaseJob(request, timeout=LIMIT_S)

    def fleet(self, *models: str) -> None:
        """A fleet with jobs of these models."""
        create = fleet_service_pb2.CreateFleetRequest(
            parent="projects/p", fleet_id="f", fleet=fleet_pb2.Fleet(), allow_existing=True
        )
        self.fleets.CreateFleet(create, timeout=LIMIT_S)
        spec = job_pb2.JobSpec(zoo="digits", delta=1.0)
        wanted = [fleet_service_pb2.FleetModel(model=model, job=job_pb2.Job(spec=spec)) for model in models]
        made = self.fleets.BatchCreateJobs(
            fleet_service_pb2.BatchCreateJobsRequest(parent=FLEET, models=wanted), timeout=LIMIT_S
        )
        assert all(one.created for one in made.models), made

    def send_and_fetch(self, content: bytes) -> None:
        """Content, there and back."""
        sha256 = hashlib.sha256(content).hexdigest()

        def chunks() -> Iterator[artifact_service_pb2.WriteArtifactRequest]:
            yield artifact_service_pb2.WriteArtifactRequest(
                sha256=sha256, size_bytes=len(content), data=content, crc32=zlib.crc32(content)
            )

        assert self.artifacts.WriteArtifact(chunks(), timeout=LIMIT_S).complete
        read = artifact_service_pb2.ReadArtifactRequest(sha256=sha256)
        assert b"".join(one.data for one in self.artifacts.ReadArtifact(read, timeout=LIMIT_S)) == content

    def round(self, number: int) -> v1.Lease:
        """One of everything; the lease of a job that goes on."""
        self.fleet(*(f"model{number}-{outcome}" for outcome in ("inside", "outside", "failed")))
        leases = [self.lease()]
        while leases[-1].job.name:
            leases.append(self.lease(holding=tuple(lease.job.name for lease in leases)))
        self.finish(leases[0], ratio=4.0 + number)
        self.finish(leases[1], inside=False)
        self.fail(leases[2])
        self.create(f"goes-on-{number}")
        lease = self.lease()
        for kind in KINDS:
            self.evaluate(lease, kind=kind, candidate=job_pb2.Candidate(params_ratio=3.0, drop=0.5))
        self.evaluate(lease, remembered=True)
        self.lose(lease)
        for step in range(2):
            self.step(lease, step, ratio=4.0 + number)
        self.create(f"waits-{number}")
        self.tell(job_pb2.EVALUATOR_STATE_BUSY, job_pb2.EVALUATOR_STATE_IDLE, job_pb2.EVALUATOR_STATE_LOST)
        self.send_and_fetch(b"%d" % number * 10_000)
        self.artifacts.CollectGarbage(artifact_service_pb2.CollectGarbageRequest(), timeout=LIMIT_S)
        return lease


def refused(call: Any) -> grpc.StatusCode:
    """The code of a call that must fail."""
    try:
        call()
    except grpc.RpcError as error:
        code = error.code()
        assert isinstance(code, grpc.StatusCode)
        return code
    raise AssertionError("the call was answered")


class Watching:
    """Follows a job until it is told to end, so that a stream is under way."""

    def __init__(self, life: Life, job: str) -> None:
        self._call = life.jobs.WatchJob(job_service_pb2.WatchJobRequest(name=job), timeout=60)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for _ in self._call:
                pass
        except grpc.RpcError:
            pass  # cancelled

    def end(self) -> None:
        """Cancel the stream."""
        self._call.cancel()
        self._thread.join(10)
