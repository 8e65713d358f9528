"""Somebody who plays the coordinator to a conductor."""

from __future__ import annotations

import hashlib
import json

import grpc
from diminuendo.v1 import coordinator_service_pb2 as wire
from diminuendo.v1 import coordinator_service_pb2_grpc, job_pb2
from tests.client.conductor import Conductor


class Player:
    """Leases jobs and ends them as it is told, in place of a coordinator."""

    def __init__(self, conductor: Conductor, project: str) -> None:
        """Nothing is leased yet; only this project's jobs will be."""
        self._project = project
        self._store = conductor.store()
        self._channel = grpc.insecure_channel(conductor.target)
        self._stub = coordinator_service_pb2_grpc.CoordinatorServiceStub(self._channel)
        self.leased: dict[str, wire.Lease] = {}

    def close(self) -> None:
        """Let go of the conductor."""
        self._channel.close()

    def lease(self, count: int) -> list[str]:
        """Lease so many jobs more; returns their models."""
        models = []
        for _ in range(count):
            held = [lease.job.name for lease in self.leased.values()]
            request = wire.LeaseJobRequest(coordinator="c-1", evaluators=1, holding=held, project=self._project)
            lease = self._stub.LeaseJob(request, timeout=20, wait_for_ready=True).lease
            models.append(lease.job.model)
            self.leased[lease.job.model] = lease
        return models

    def succeed(self, model: str, *, inside: bool = True, figures: bool = True, ratio: float = 4.0) -> None:
        """End a leased job with a result of three files."""
        files = {
            name: json.dumps({"model": model, "file": name}).encode() for name in ("plan.json", "model.safetensors")
        }
        for content in files.values():
            self._store.put(content)
        result = job_pb2.JobResult(
            inside_delta=inside,
            drop=0.25 if inside else 3.5,
            params_ratio=ratio,
            macs_ratio=2.0,
            objective_ratio=ratio,
            files=[
                job_pb2.ResultFile(name=name, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
                for name, data in files.items()
            ],
        )
        if figures:
            result.metric, result.drop_low, result.drop_high = "top1", -0.5, 1.0
            result.original.CopyFrom(figures_of(98.5, 40_000))
            result.compressed.CopyFrom(figures_of(98.5 - result.drop, round(40_000 / ratio)))
        self._release(model, wire.ReleaseJobRequest(result=result))

    def fail(self, model: str, message: str = "task.py, line 3: it is broken; correct it") -> None:
        """End a leased job with a failure."""
        failure = job_pb2.JobFailure(reason="USER_CODE", message=message, traceback="Traceback ...")
        self._release(model, wire.ReleaseJobRequest(failure=failure))

    def let_go(self, model: str) -> None:
        """Confirm that a leased job has been cancelled."""
        self._release(model, wire.ReleaseJobRequest(cancelled=wire.Cancelled()))

    def _release(self, model: str, request: wire.ReleaseJobRequest) -> None:
        lease = self.leased.pop(model)
        request.job_name, request.epoch = lease.job.name, lease.epoch
        self._stub.ReleaseJob(request, timeout=20, wait_for_ready=True)


def figures_of(score: float, params: int) -> job_pb2.Figures:
    """What a network scores and costs."""
    return job_pb2.Figures(
        score=score, params=params, macs=2 * params, size_bytes=4 * params, memory_bytes=8 * params, time_ms=0.5
    )
