"""Health, reflection, /metrics, /livez and /readyz."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import grpc
from diminuendo.v1 import cluster_service_pb2, job_pb2
from diminuendo.v1 import coordinator_service_pb2 as v1
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from diminuendo.services.conductor.app import Running, conducting
from diminuendo.services.conductor.server import SERVICES
from diminuendo.services.conductor.settings import ConductorSettings

Api = Any
NAME = "projects/p/jobs/a"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def fetch(address: str, page: str) -> tuple[int, str]:
    """Status and text of a page."""

    def get() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{address}{page}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return await asyncio.to_thread(get)


async def metrics(conductor: Running) -> dict[tuple[str, ...], float]:
    """Every sample by its name and its labels' values, in the order of the labels' names."""
    status, text = await fetch(conductor.http, "/metrics")
    assert status == 200
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(s.name, *(s.labels[label] for label in sorted(s.labels))): s.value for s in samples}


async def test_health_is_told_for_each_service(conductor: Running, api: Api) -> None:
    health = health_pb2_grpc.HealthStub(api.channel)
    for service in ("", *SERVICES):
        assert (await health.Check(health_pb2.HealthCheckRequest(service=service))).status == SERVING
    assert SERVICES == (
        "diminuendo.v1.JobService",
        "diminuendo.v1.FleetService",
        "diminuendo.v1.CoordinatorService",
        "diminuendo.v1.ArtifactService",
        "diminuendo.v1.ClusterService",
    )


async def test_health_says_not_serving_before_calls_are_refused(
    settings: ConductorSettings, connect: Callable[[str], Any]
) -> None:
    async with conducting(settings) as running:
        health = health_pb2_grpc.HealthStub(connect(running.grpc).channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service="diminuendo.v1.JobService"), timeout=10)
        assert (await watch.read()).status == SERVING
    assert (await watch.read()).status == NOT_SERVING
    watch.cancel()


async def test_reflection_lists_the_services(conductor: Running, api: Api) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(api.channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=10)
    answer = await call.read()
    call.cancel()
    names = {service.name for service in answer.list_services_response.service}
    assert names == {*SERVICES, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


async def test_the_process_is_alive_and_ready(conductor: Running) -> None:
    assert await fetch(conductor.http, "/livez") == (200, "ok\n")
    assert await fetch(conductor.http, "/readyz") == (200, "ok\n")
    assert (await fetch(conductor.http, "/none"))[0] == 404


async def test_without_a_database_it_is_alive_but_not_ready(conductor: Running, api: Api, failing: Any) -> None:
    await conductor.store.close()
    status, text = await fetch(conductor.http, "/readyz")
    assert status == 503
    assert text.startswith("STORE_UNAVAILABLE: ")
    assert (await fetch(conductor.http, "/livez"))[0] == 200
    for call in (api.get(NAME), api.create()):
        failure = await failing(call)
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    found = await metrics(conductor)
    assert found["diminuendo_store_up",] == 0
    assert not any(key[0] == "diminuendo_jobs" for key in found)


async def test_metrics_move(conductor: Running, api: Api, clock: Any) -> None:
    before = await metrics(conductor)
    assert not any(key[0] == "diminuendo_jobs" for key in before)
    assert before["diminuendo_steps_committed_total",] == 0
    await api.create("a")
    clock.advance(7)
    await api.create("b")
    await api.lease("c1", evaluators=2)
    status = [
        job_pb2.EvaluatorStatus(evaluator="e0", state=job_pb2.EVALUATOR_STATE_BUSY, gpus=0.5),
        job_pb2.EvaluatorStatus(evaluator="e1", state=job_pb2.EVALUATOR_STATE_IDLE, gpus=0.5),
        job_pb2.EvaluatorStatus(evaluator="e2", state=job_pb2.EVALUATOR_STATE_LOST),
    ]
    told = cluster_service_pb2.Coordinator(name="c1", evaluators=status, works_waiting=3)
    await api.coordinators.ReportCluster(v1.ReportClusterRequest(coordinator=told))
    candidate = job_pb2.Candidate(params_ratio=2.0, drop=0.1)
    works: list[dict[str, Any]] = [
        {"kind": "survey", "seconds": 3.0},
        {"kind": "evaluate", "seconds": 40.0, "candidate": candidate, "samples": 1200},
        {"kind": "evaluate", "seconds": 2.0},
        {"kind": "evaluate", "remembered": True, "candidate": candidate},
    ]
    for i, work in enumerate(works):
        done = job_pb2.EvaluationFinished(index=i, key=f"k{i}", **work)
        for _ in range(2):
            await api.coordinators.ReportEvaluation(v1.ReportEvaluationRequest(job_name=NAME, epoch=1, evaluation=done))
    best = job_pb2.Candidate(params_ratio=6.5, drop=0.75)
    step = job_pb2.StepCommitted(step=0, progress=job_pb2.JobProgress(best=best, stage=job_pb2.STAGE_EXPLORE, steps=1))
    for _ in range(2):
        await api.coordinators.CommitStep(v1.CommitStepRequest(job_name=NAME, epoch=1, step=step))
        lost = job_pb2.AttemptLost(index=9, attempt=1, cause="TIMEOUT")
        await api.coordinators.ReportAttempt(v1.ReportAttemptRequest(job_name=NAME, epoch=1, attempt=lost))
    after = await metrics(conductor)
    assert {key[1:]: value for key, value in after.items() if key[0] == "diminuendo_jobs"} == {
        ("p", state): value
        for state, value in {
            "queued": 1,
            "running": 1,
            "cancelling": 0,
            "cancelled": 0,
            "succeeded": 0,
            "failed": 0,
            "pausing": 0,
            "paused": 0,
        }.items()
    }
    assert {key[1:]: value for key, value in after.items() if key[0] == "diminuendo_evaluations_total" and value} == {
        ("survey", "done"): 1,
        ("evaluate", "done"): 1,
        ("evaluate", "diverged"): 1,
        ("evaluate", "remembered"): 1,
    }
    assert after["diminuendo_evaluation_seconds_sum", "evaluate"] == 42.0
    assert after["diminuendo_evaluation_seconds_count", "evaluate"] == 2
    assert {key[1]: value for key, value in after.items() if key[0] == "diminuendo_evaluators"} == {
        "busy": 1,
        "idle": 1,
        "starting": 0,
        "lost": 1,
    }
    assert after["diminuendo_evaluator_gpus", "busy"] == 0.5
    assert after["diminuendo_works_waiting",] == 3
    assert after["diminuendo_samples_total",] == 1200
    assert after["diminuendo_attempts_lost_total", "TIMEOUT"] == 1
    assert after["diminuendo_leases_total", "first"] == 1
    assert (after["diminuendo_queue_wait_seconds_sum",], after["diminuendo_queue_wait_seconds_count",]) == (7.0, 1)
    assert after["diminuendo_queue_oldest_timestamp_seconds",] == clock() / 1e6
    assert after["diminuendo_delta_distance_points", NAME] == 0.25
    assert after["diminuendo_job_info", "", NAME, "digits", "p", "explore"] == 1
    assert after["diminuendo_steps_committed_total",] == 1
    assert after["diminuendo_best_params_ratio", NAME] == 6.5
    assert after["diminuendo_best_drop_points", NAME] == 0.75
    assert after["diminuendo_rpc_total", "OK", "CreateJob"] == 2
    assert after["diminuendo_rpc_total", "OK", "ReportEvaluation"] == 8
    assert after["diminuendo_rpc_seconds_count", "CommitStep"] == 2
    await api.finish(NAME, 1)
    clock.advance(16)
    ended = await metrics(conductor)
    assert ended["diminuendo_jobs_ended_total", "inside_delta", ""] == 1
    assert ended["diminuendo_result_drop_points", "true", NAME, "digits", "p"] == 0.5
    assert ("diminuendo_best_params_ratio", NAME) not in ended
    assert ended["diminuendo_coordinators",] == 0
    assert ended["diminuendo_evaluators", "busy"] == ended["diminuendo_evaluators", "idle"] == 0


async def test_calls_are_counted_by_their_code(conductor: Running, api: Api, failing: Any) -> None:
    await failing(api.get(NAME))
    await failing(api.create(delta=-1.0))
    await api.create("a")
    watch = api.watch(NAME)
    await watch.read()
    watch.cancel()
    while conductor.notifier.listening > 1:
        await asyncio.sleep(0)
    found = await metrics(conductor)
    assert found["diminuendo_rpc_total", "NOT_FOUND", "GetJob"] == 1
    assert found["diminuendo_rpc_total", "INVALID_ARGUMENT", "CreateJob"] == 1
    assert found["diminuendo_rpc_total", "CANCELLED", "WatchJob"] == 1


async def test_a_defect_is_told_by_an_id_that_the_log_has(
    conductor: Running, api: Api, failing: Any, capfd: Any, monkeypatch: Any
) -> None:
    async def broken(name: str) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(conductor.store, "get_job", broken)
    failure = await failing(api.get(NAME))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "secret" not in failure.message
    written = capfd.readouterr()
    assert failure.metadata["error_id"] in written.out + written.err
    assert "secret detail" in written.out + written.err
    assert (await metrics(conductor))["diminuendo_rpc_total", "INTERNAL", "GetJob"] == 1
