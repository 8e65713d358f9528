"""The coordinator's loop: lease a job, run it beside the others, lease the next one."""

from __future__ import annotations

import time
import uuid
from functools import partial

import grpc
from diminuendo.v1 import coordinator_service_pb2 as v1
from google.protobuf.duration_pb2 import Duration

from diminuendo.engine.stores import LocationError, open_store, resolved
from diminuendo.services.common import logs
from diminuendo.services.common.errors import StartError
from diminuendo.services.coordinator.caller import Caller
from diminuendo.services.coordinator.cluster import connected
from diminuendo.services.coordinator.cluster_report import ClusterReport
from diminuendo.services.coordinator.crew import Crew
from diminuendo.services.coordinator.dispatcher import Limits
from diminuendo.services.coordinator.executor import ClusterLostError, RayExecutor
from diminuendo.services.coordinator.job import JobRunner
from diminuendo.services.coordinator.rpc import Conductor, code_of, details_of
from diminuendo.services.coordinator.settings import CoordinatorSettings
from diminuendo.services.coordinator.stopping import SignalWatch, Stop

log = logs.get(__name__)

_WAIT_S = 20
_MARGIN_S = 5.0
_FIRST_DELAY_S, _LAST_DELAY_S = 0.2, 5.0
_START_S, _NODE_S = 180.0, 1800.0
"""How long an evaluator's start may take: on a node that is there, and on one that has to come and fetch its image."""


def run(settings: CoordinatorSettings, watch: SignalWatch, stop: Stop) -> int:
    """Coordinate until told to stop; returns the exit code: 1 when the Ray cluster was lost.

    Raises:
        StartError: The Ray cluster, the artifacts, or what calls are to say cannot be used.
    """
    artifacts = resolved(settings.artifacts)
    try:
        store = open_store(artifacts)
    except LocationError as error:
        raise StartError(f"artifacts: {error}") from None
    caller = Caller(settings)
    gpus = settings.evaluator_gpus
    with connected(address=settings.ray_address, evaluators=settings.evaluators, gpus=gpus) as cluster:
        watch.install()  # ray.init has put its own handler in the place of ours
        memory_gb = settings.evaluator_memory_gb
        memory_bytes = None if memory_gb is None else round(memory_gb * 2**30)
        start_s = _START_S if gpus is None else _NODE_S
        limits = Limits(settings.work_timeout_s, start_s, memory_bytes=memory_bytes, idle_s=settings.idle_s)
        with RayExecutor(cluster, artifacts, limits=limits) as executor:
            conductor = Conductor(settings.conductor, stop.event, caller)
            log.info("coordinating", conductor=settings.conductor, evaluators=cluster.evaluators)
            runner = JobRunner(conductor, executor, store, stop.event)
            try:
                _loop(settings, cluster.evaluators, runner, stop)
            except ClusterLostError:
                log.exception("cluster_lost")
                return 1
            finally:
                conductor.close()
    log.info("coordinating_ended")
    return 0


def _loop(settings: CoordinatorSettings, evaluators: int, runner: JobRunner, stop: Stop) -> None:
    crew = Crew(settings.jobs, stop)
    local = settings.ray_address is None
    report = ClusterReport(
        runner.conductor, runner.executor, name=settings.name, local=local, holding=lambda: crew.holding
    )
    with report:
        try:
            _lease(settings, evaluators, runner, crew, stop)
        finally:
            crew.join()


def _lease(settings: CoordinatorSettings, evaluators: int, runner: JobRunner, crew: Crew, stop: Stop) -> None:
    request_id, delay = _new_id(), _FIRST_DELAY_S
    while crew.wait_for_room() and runner.executor.wait_until_usable(stop):
        runner.executor.revive()
        request = v1.LeaseJobRequest(
            coordinator=settings.name,
            request_id=request_id,
            wait=Duration(seconds=_WAIT_S),
            evaluators=evaluators,
            holding=crew.holding,
            project=settings.project,
        )
        try:
            response = _ask(runner.conductor, request, stop)
        except grpc.RpcError as error:
            if stop.event.is_set():
                return
            runner.conductor.renew_token(error)
            # The same request_id again: a lease that was given and never arrived is given again.
            log.warning("lease_not_answered", code=str(code_of(error)), said=details_of(error), again_in_s=delay)
            stop.event.wait(delay)
            delay = min(2 * delay, _LAST_DELAY_S)
            continue
        request_id, delay = _new_id(), _FIRST_DELAY_S
        if response.HasField("lease"):
            # Not from when it was asked for: the wait for a job, which may be longer than a lease, is no part of it.
            # Should the lease be over by now, the conductor says so at the first write.
            crew.start(response.lease.job.name, partial(runner.run, response.lease, asked_at=time.monotonic()))


def _ask(conductor: Conductor, request: v1.LeaseJobRequest, stop: Stop) -> v1.LeaseJobResponse:
    """Wait for a job; a request to stop ends the wait."""
    call = conductor.stub.LeaseJob.future(request, timeout=_WAIT_S + _MARGIN_S)
    with stop.calling(call.cancel):
        try:
            return call.result()
        except grpc.FutureCancelledError as error:
            raise grpc.RpcError("stopping") from error


def _new_id() -> str:
    return uuid.uuid4().hex
