"""What coordinators tell of their clusters, and what clients are told of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
from diminuendo.v1 import (
    cluster_service_pb2,
    cluster_service_pb2_grpc,
    coordinator_service_pb2,
    job_pb2,
)
from tests.postgres import Postgres
from tests.services.conductor.conftest import Api, Clock, Failure

from diminuendo.services.conductor.app import conducting
from diminuendo.services.conductor.settings import ConductorSettings

JOB, OTHER = "projects/p/jobs/a", "projects/p/jobs/b"
BUSY, IDLE, LOST = (
    job_pb2.EVALUATOR_STATE_BUSY,
    job_pb2.EVALUATOR_STATE_IDLE,
    job_pb2.EVALUATOR_STATE_LOST,
)


def doing(name: str, state: job_pb2.EvaluatorState.ValueType, job: str = JOB) -> job_pb2.EvaluatorStatus:
    return job_pb2.EvaluatorStatus(evaluator=name, state=state, job=job, kind="evaluate", index=4, attempt=1, cpus=1)


def coordinator(name: str, *evaluators: job_pb2.EvaluatorStatus) -> cluster_service_pb2.Coordinator:
    node = cluster_service_pb2.ClusterNode(name="n1", alive=True, cpus=2.0)
    return cluster_service_pb2.Coordinator(
        name=name,
        version="1",
        ray_address="local",
        evaluators=evaluators,
        nodes=[node],
        works_waiting=3,
        jobs=[JOB, OTHER],
    )


async def tell(api: Api, told: cluster_service_pb2.Coordinator, *, leaving: bool = False) -> None:
    request = coordinator_service_pb2.ReportClusterRequest(coordinator=told, leaving=leaving)
    await api.coordinators.ReportCluster(request, timeout=10)


async def cluster(api: Api, job: str = "") -> list[cluster_service_pb2.Coordinator]:
    stub = cluster_service_pb2_grpc.ClusterServiceStub(api.channel)
    request = cluster_service_pb2.GetClusterRequest(job=job)
    answer: cluster_service_pb2.Cluster = await stub.GetCluster(request, timeout=10)
    return list(answer.coordinators)


async def test_a_cluster_is_shown_as_it_was_told_last(api: Api, clock: Clock) -> None:
    assert await cluster(api) == []
    await tell(api, coordinator("c2"))
    await tell(api, coordinator("c1", doing("evaluator-0", IDLE)))
    clock.advance(2)
    told = coordinator("c1", doing("evaluator-0", BUSY), doing("evaluator-1", LOST))
    await tell(api, told)
    first, second = await cluster(api)
    assert (first.name, second.name) == ("c1", "c2")
    assert first.update_time.ToMicroseconds() == clock()
    assert second.update_time.ToMicroseconds() == clock() - 2_000_000
    first.ClearField("update_time")
    assert first == told


async def test_one_not_heard_of_for_15_s_is_left_out(api: Api, clock: Clock) -> None:
    await tell(api, coordinator("c1"))
    clock.advance(15)
    assert [c.name for c in await cluster(api)] == ["c1"]
    clock.advance(0.001)
    assert await cluster(api) == []
    await tell(api, coordinator("c1"))
    assert [c.name for c in await cluster(api)] == ["c1"]


async def test_one_that_leaves_is_forgotten_at_once(api: Api) -> None:
    await tell(api, coordinator("c1"))
    await tell(api, coordinator("c2"))
    await tell(api, coordinator("c1"), leaving=True)
    assert [c.name for c in await cluster(api)] == ["c2"]


async def test_of_one_job_only_what_works_on_it_is_told(api: Api) -> None:
    await tell(
        api, coordinator("c1", doing("e0", BUSY), doing("e1", IDLE), doing("e2", BUSY, OTHER), doing("e3", LOST))
    )
    await tell(api, coordinator("c2", doing("e0", BUSY, OTHER)))
    (only,) = await cluster(api, JOB)
    assert only.name == "c1"
    assert [e.evaluator for e in only.evaluators] == ["e0", "e3"]
    assert only.works_waiting == 3
    assert list(only.jobs) == [JOB]
    assert await cluster(api, "projects/p/jobs/none") == []


async def test_what_cannot_be_is_refused(api: Api, failing: Callable[[Awaitable[object]], Awaitable[Failure]]) -> None:
    nameless = await failing(tell(api, coordinator("")))
    assert nameless.code is grpc.StatusCode.INVALID_ARGUMENT
    assert nameless.fields == {"coordinator.name": "'' is no name; give 1 to 255 characters"}
    large = await failing(tell(api, coordinator("c", *(doing(f"e{i}", BUSY, "j" * 1000) for i in range(3200)))))
    assert large.fields["coordinator"].endswith("give at most 3145728: run several coordinators instead")
    assert (await failing(cluster(api, "a"))).fields["job"].startswith("'a'")


async def test_an_answer_that_no_message_holds_is_refused(
    api: Api, failing: Callable[[Awaitable[object]], Awaitable[Failure]]
) -> None:
    for name in ("c1", "c2", "c3", "c4"):
        await tell(api, coordinator(name, *(doing(f"e{i}", BUSY, "j" * 1000) for i in range(950))))
    refused = await failing(cluster(api))
    assert refused.fields["job"].endswith("ask about one job at a time")


async def test_every_conductor_of_a_database_tells_the_same(
    postgres: Postgres, tmp_path: Path, clock: Clock, connect: Callable[[str], Api]
) -> None:
    with postgres.database() as url:
        async with AsyncExitStack() as stack:
            apis = list[Api]()
            for folder in ("one", "two"):
                settings = ConductorSettings.load(
                    data_dir=tmp_path / folder, artifacts=str(tmp_path / "artifacts"), database=url, port=0, http_port=0
                )
                running = await stack.enter_async_context(conducting(settings, clock=clock))
                apis.append(connect(running.grpc))
            await tell(apis[0], coordinator("c1", doing("e0", BUSY)))
            await tell(apis[1], coordinator("c2", doing("e0", IDLE)))
            assert await cluster(apis[0]) == await cluster(apis[1])
            assert [c.name for c in await cluster(apis[0])] == ["c1", "c2"]
            await tell(apis[0], coordinator("c2"), leaving=True)
            assert [c.name for c in await cluster(apis[1])] == ["c1"]
