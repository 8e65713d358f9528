"""CoordinatorService: the API between the conductor and the coordinators."""

# ruff: noqa: N802 - the methods are named by the protos
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diminuendo.v1 import coordinator_service_pb2 as v1
from diminuendo.v1 import coordinator_service_pb2_grpc
from grpc.aio import ServicerContext

from diminuendo.services.common import logs
from diminuendo.services.conductor import validate_cluster
from diminuendo.services.conductor import validate_held as validate
from diminuendo.services.conductor.jobs import timestamp, timestamp_or_none
from diminuendo.services.conductor.notify import Notifier
from diminuendo.services.conductor.records import State
from diminuendo.services.conductor.store.base import Clock, Store
from diminuendo.services.conductor.translate import to_lease
from diminuendo.services.conductor.waiting import lease_within

_log = logs.get(__name__)
_Context = ServicerContext[Any, Any]


class CoordinatorService(coordinator_service_pb2_grpc.CoordinatorServiceServicer):
    """Serves the leases of a store's jobs."""

    def __init__(
        self,
        store: Store,
        notifier: Notifier,
        clock: Clock,
        *,
        lease_us: int,
        weights: Mapping[str, float],
    ) -> None:
        """Serve.

        Args:
            lease_us: How long leases last from the last sign of life.
            weights: Of projects, where it is not 1.
        """
        self._store, self._notifier, self._clock = store, notifier, clock
        self._lease_us, self._weights = lease_us, weights

    async def LeaseJob(self, request: v1.LeaseJobRequest, context: _Context) -> v1.LeaseJobResponse:
        """The next job, or an answer without one."""
        asking = validate.lease_job(request)
        lease = await lease_within(
            self._store,
            self._notifier,
            self._clock,
            coordinator=asking.coordinator,
            request_id=asking.request_id,
            lease_us=self._lease_us,
            wait_us=asking.wait_us,
            holding=asking.holding,
            weights=self._weights,
            project=asking.project,
        )
        if lease is None:
            return v1.LeaseJobResponse()
        _log.info("job_leased", job=lease.job.name, coordinator=asking.coordinator, epoch=lease.job.epoch)
        return v1.LeaseJobResponse(lease=to_lease(lease, self._weights.get(lease.job.project, 1.0)))

    async def Heartbeat(self, request: v1.HeartbeatRequest, context: _Context) -> v1.HeartbeatResponse:
        """Extend the lease."""
        validate.writer(request.job_name, request.epoch)
        job = await self._store.heartbeat(request.job_name, epoch=request.epoch, lease_us=self._lease_us)
        return v1.HeartbeatResponse(
            expire_time=timestamp(job.lease_expire_time or 0),
            cancel_requested=job.state is State.CANCELLING,
            pause_requested=job.state is State.PAUSING,
            deadline=timestamp_or_none(job.deadline),
            priority=job.priority,
        )

    async def BatchGetEvaluations(
        self, request: v1.BatchGetEvaluationsRequest, context: _Context
    ) -> v1.BatchGetEvaluationsResponse:
        """Outcomes known by key."""
        outcomes = dict(await self._store.get_evaluations(validate.keys(request)))
        validate.answer_size(outcomes)
        found = [v1.StoredEvaluation(key=key, outcome=outcome) for key, outcome in outcomes.items()]
        return v1.BatchGetEvaluationsResponse(evaluations=found)

    async def ReportEvaluation(
        self, request: v1.ReportEvaluationRequest, context: _Context
    ) -> v1.ReportEvaluationResponse:
        """Store an outcome."""
        report = validate.report(request)
        await self._store.report_evaluation(request.job_name, epoch=request.epoch, report=report)
        return v1.ReportEvaluationResponse()

    async def ReportAttempt(self, request: v1.ReportAttemptRequest, context: _Context) -> v1.ReportAttemptResponse:
        """Note an attempt."""
        attempt = validate.attempt(request)
        await self._store.report_attempt(request.job_name, epoch=request.epoch, attempt=attempt)
        return v1.ReportAttemptResponse()

    async def CommitStep(self, request: v1.CommitStepRequest, context: _Context) -> v1.CommitStepResponse:
        """Store a step."""
        step = validate.step(request)
        await self._store.commit_step(request.job_name, epoch=request.epoch, step=step)
        return v1.CommitStepResponse()

    async def ReleaseJob(self, request: v1.ReleaseJobRequest, context: _Context) -> v1.ReleaseJobResponse:
        """End the lease, and with an outcome the job."""
        outcome = validate.release(request)
        job = await self._store.release_job(
            request.job_name, epoch=request.epoch, outcome=outcome, reason=request.reason
        )
        _log.info("lease_released", job=job.name, epoch=request.epoch, state=job.state.name)
        return v1.ReleaseJobResponse()

    async def ReportCluster(self, request: v1.ReportClusterRequest, context: _Context) -> v1.ReportClusterResponse:
        """Keep what a coordinator tells of itself."""
        name = validate_cluster.report(request)
        if request.leaving:
            await self._store.forget_coordinator(name)
            _log.info("coordinator_left", coordinator=name)
        else:
            await self._store.report_coordinator(name, request.coordinator.SerializeToString())
        return v1.ReportClusterResponse()
