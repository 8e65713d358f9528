"""CoordinatorService over a real channel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from diminuendo.v1 import coordinator_service_pb2 as v1
from diminuendo.v1 import job_pb2, job_service_pb2
from google.protobuf.duration_pb2 import Duration

from diminuendo.services.conductor.app import Running

Api = Any
Failing = Callable[[Awaitable[object]], Awaitable[Any]]
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
NAME = "projects/p/jobs/a"
SHA = "ab" * 32


def evaluation(index: int = 0, key: str = SHA, **more: Any) -> job_pb2.EvaluationFinished:
    fields: dict[str, Any] = {"index": index, "key": key, "kind": "evaluate", "seconds": 1.0} | more
    return job_pb2.EvaluationFinished(**fields)


async def test_a_whole_job_as_its_coordinator_sees_it(api: Api) -> None:
    job = await api.create("a", delta=2.0)
    lease = await api.lease(evaluators=2)
    assert lease.job.name == job.name
    assert lease.job.spec.delta == 2.0
    assert lease.job.state == job_pb2.JOB_STATE_RUNNING
    assert (lease.epoch, lease.next_step, lease.session_state) == (1, 0, b"")
    assert lease.expire_time.ToMicroseconds() - lease.job.start_time.ToMicroseconds() == 30_000_000
    report = v1.ReportEvaluationRequest(job_name=NAME, epoch=1, evaluation=evaluation(), outcome=b"\x00out")
    await api.coordinators.ReportEvaluation(report)
    best = job_pb2.Candidate(params_ratio=6.5, drop=0.4)
    progress = job_pb2.JobProgress(stage=job_pb2.STAGE_ANNEAL, steps=1, works_done=1, works_expected=9, best=best)
    step = job_pb2.StepCommitted(step=0, progress=progress, summary="went on")
    warning = job_pb2.Warning(reason="ODD", message="look")
    await api.coordinators.CommitStep(
        v1.CommitStepRequest(job_name=NAME, epoch=1, step=step, session_state=b"state", warnings=[warning])
    )
    assert (await api.get(NAME)).progress == progress
    known = await api.coordinators.BatchGetEvaluations(v1.BatchGetEvaluationsRequest(keys=[SHA, SHA, "unknown"]))
    assert [(e.key, e.outcome) for e in known.evaluations] == [(SHA, b"\x00out")]
    again = await api.lease()
    assert (again.epoch, again.next_step, again.session_state) == (2, 1, b"state")
    await api.finish(NAME, 2)
    ended = await api.get(NAME)
    assert ended.state == job_pb2.JOB_STATE_SUCCEEDED
    assert ended.result.files[0].name == "plan.json"
    kinds = [event.WhichOneof("kind") async for event in api.watch(NAME)]
    assert kinds == [
        "state_changed",
        "state_changed",
        "leased",
        "evaluation_finished",
        "step_committed",
        "warning",
        "leased",
        "state_changed",
    ]


async def test_there_is_no_job(api: Api) -> None:
    response = await api.coordinators.LeaseJob(v1.LeaseJobRequest(coordinator="c"), timeout=5)
    assert not response.HasField("lease")


async def test_waiting_ends_with_the_job_that_comes(api: Api, conductor: Running) -> None:
    waiting = asyncio.create_task(api.lease(wait_s=30))
    while not conductor.notifier.listening > 1:  # the sweeper is one
        await asyncio.sleep(0)
    await api.create("a")
    lease = await asyncio.wait_for(waiting, 5)
    assert lease.job.name == NAME


async def test_waiting_ends_when_a_lease_ends(api: Api, conductor: Running, clock: Any) -> None:
    await api.create("a")
    await api.lease("dead")
    clock.advance(29.95)
    lease = await asyncio.wait_for(_move(api.lease("heir", wait_s=20), clock, conductor), 5)
    assert (lease.job.name, lease.epoch) == (NAME, 2)


async def _move(call: Awaitable[v1.Lease], clock: Any, conductor: Running) -> v1.Lease:
    """Once the call waits, let the rest of the lease's time pass."""
    waiting = asyncio.ensure_future(call)
    while not conductor.notifier.listening > 1:
        await asyncio.sleep(0)
    clock.advance(1.0)
    return await waiting


async def test_a_job_let_go_of_wakes_who_waits(api: Api, conductor: Running) -> None:
    await api.create("a")
    await api.lease("c1")
    waiting = asyncio.create_task(api.lease("c2", wait_s=30))
    while not conductor.notifier.listening > 1:
        await asyncio.sleep(0)
    await api.coordinators.ReleaseJob(v1.ReleaseJobRequest(job_name=NAME, epoch=1))
    assert (await asyncio.wait_for(waiting, 5)).epoch == 2


async def test_who_stops_waiting_is_forgotten(api: Api, conductor: Running) -> None:
    waiting = asyncio.create_task(api.lease(wait_s=30))
    while not conductor.notifier.listening > 1:
        await asyncio.sleep(0)
    waiting.cancel()
    while conductor.notifier.listening > 1:
        await asyncio.sleep(0)
    await api.create("a")
    assert (await api.get(NAME)).state == job_pb2.JOB_STATE_QUEUED


async def test_the_same_request_is_the_same_lease(api: Api) -> None:
    await api.create("a")
    first = await api.lease("c", request_id="r1")
    again = await api.lease("c", request_id="r1")
    assert (again.job.name, again.epoch) == (first.job.name, 1)
    assert (await api.lease("c", request_id="r2")).epoch == 2


async def test_a_stale_epoch_is_refused_everywhere(api: Api, failing: Failing, clock: Any) -> None:
    await api.create("a")
    await api.lease("c1")
    clock.advance(30)
    assert (await api.lease("c2")).epoch == 2
    step = job_pb2.StepCommitted(step=0)
    calls = (
        api.coordinators.Heartbeat(v1.HeartbeatRequest(job_name=NAME, epoch=1)),
        api.coordinators.CommitStep(v1.CommitStepRequest(job_name=NAME, epoch=1, step=step)),
        api.coordinators.ReportEvaluation(v1.ReportEvaluationRequest(job_name=NAME, epoch=1, evaluation=evaluation())),
        api.coordinators.ReleaseJob(v1.ReleaseJobRequest(job_name=NAME, epoch=1)),
    )
    for call in calls:
        failure = await failing(call)
        assert (failure.code, failure.reason) == (PRECONDITION, "STALE_EPOCH")
        assert failure.metadata == {"job": NAME, "epoch": "1", "current_epoch": "2", "state": "RUNNING"}


async def test_a_step_out_of_order_is_refused(api: Api, failing: Failing) -> None:
    await api.create("a")
    await api.lease()
    failure = await failing(api.commit(NAME, 1, 5))
    assert (failure.code, failure.reason) == (PRECONDITION, "STEP_OUT_OF_ORDER")
    assert failure.metadata["next_step"] == "0"
    await api.commit(NAME, 1, 0)
    await api.commit(NAME, 1, 0)


async def test_a_heartbeat_says_whether_to_stop(api: Api, clock: Any) -> None:
    await api.create("a")
    await api.lease()
    clock.advance(10)
    request = v1.HeartbeatRequest(job_name=NAME, epoch=1)
    beat = await api.coordinators.Heartbeat(request)
    assert beat.expire_time.ToMicroseconds() == clock() + 30_000_000
    assert not beat.cancel_requested
    await api.cancel(NAME)
    assert (await api.coordinators.Heartbeat(request)).cancel_requested
    release = v1.ReleaseJobRequest(job_name=NAME, epoch=1, cancelled=v1.Cancelled())
    for _ in range(2):
        await api.coordinators.ReleaseJob(release)
    assert (await api.get(NAME)).state == job_pb2.JOB_STATE_CANCELLED


async def test_cancelled_without_being_asked_is_refused(api: Api, failing: Failing) -> None:
    await api.create("a")
    await api.lease()
    release = v1.ReleaseJobRequest(job_name=NAME, epoch=1, cancelled=v1.Cancelled())
    failure = await failing(api.coordinators.ReleaseJob(release))
    assert (failure.code, failure.reason) == (PRECONDITION, "CANCEL_NOT_REQUESTED")


async def test_a_failure_is_told_to_the_owner(api: Api) -> None:
    await api.create("a")
    await api.lease()
    failure = job_pb2.JobFailure(reason="USER_CODE", message="task() raised", traceback="Traceback ...")
    await api.coordinators.ReleaseJob(v1.ReleaseJobRequest(job_name=NAME, epoch=1, failure=failure))
    job = await api.get(NAME)
    assert (job.state, job.failure) == (job_pb2.JOB_STATE_FAILED, failure)


async def test_a_cancelled_job_whose_coordinator_is_dead_ends_by_itself(
    api: Api, conductor: Running, clock: Any
) -> None:
    await api.create("a")
    await api.lease()
    watch = api.watch(NAME)
    for _ in range(3):
        await watch.read()
    clock.advance(29.9)
    await api.cancel(NAME)
    assert (await watch.read()).state_changed.state == job_pb2.JOB_STATE_CANCELLING
    clock.advance(0.1)
    assert (await asyncio.wait_for(watch.read(), 5)).state_changed.state == job_pb2.JOB_STATE_CANCELLED
    assert await watch.read() == grpc.aio.EOF
    assert not conductor.sweeper.done()


async def test_many_outcomes_are_asked_for_in_parts(api: Api, failing: Failing) -> None:
    await api.create("a")
    await api.lease()
    keys = [f"{i:064x}" for i in range(4)]
    for i, key in enumerate(keys):
        await api.coordinators.ReportEvaluation(
            v1.ReportEvaluationRequest(
                job_name=NAME, epoch=1, evaluation=evaluation(i, key), outcome=bytes(1024 * 1024)
            )
        )
    failure = await failing(api.coordinators.BatchGetEvaluations(v1.BatchGetEvaluationsRequest(keys=keys)))
    assert "ask for fewer keys" in failure.fields["keys"]
    some = await api.coordinators.BatchGetEvaluations(v1.BatchGetEvaluationsRequest(keys=keys[:3]))
    assert {e.key for e in some.evaluations} == set(keys[:3])


def file(**more: Any) -> job_pb2.ResultFile:
    fields: dict[str, Any] = {"name": "plan.json", "sha256": SHA, "size_bytes": 1} | more
    return job_pb2.ResultFile(**fields)


def release(*files: job_pb2.ResultFile) -> v1.ReleaseJobRequest:
    return v1.ReleaseJobRequest(job_name=NAME, epoch=1, result=job_pb2.JobResult(files=files))


MIB = 1024 * 1024
BAD: list[tuple[str, Any, str]] = [
    ("LeaseJob", v1.LeaseJobRequest(), "coordinator"),
    ("LeaseJob", v1.LeaseJobRequest(coordinator="c" * 256), "coordinator"),
    ("LeaseJob", v1.LeaseJobRequest(coordinator="c", request_id="r" * 65), "request_id"),
    ("LeaseJob", v1.LeaseJobRequest(coordinator="c", wait=Duration(seconds=31)), "wait"),
    ("LeaseJob", v1.LeaseJobRequest(coordinator="c", wait=Duration(seconds=-1)), "wait"),
    ("LeaseJob", v1.LeaseJobRequest(coordinator="c", evaluators=-1), "evaluators"),
    ("Heartbeat", v1.HeartbeatRequest(job_name="a", epoch=1), "job_name"),
    ("Heartbeat", v1.HeartbeatRequest(job_name=NAME), "epoch"),
    ("BatchGetEvaluations", v1.BatchGetEvaluationsRequest(keys=["k"] * 1001), "keys"),
    ("ReportEvaluation", v1.ReportEvaluationRequest(job_name=NAME, epoch=1, evaluation=evaluation(key="")), "key"),
    ("ReportEvaluation", v1.ReportEvaluationRequest(job_name=NAME, epoch=1, evaluation=evaluation(kind="x")), "kind"),
    ("ReportEvaluation", v1.ReportEvaluationRequest(job_name=NAME, epoch=1, evaluation=evaluation(-1)), "index"),
    (
        "ReportEvaluation",
        v1.ReportEvaluationRequest(job_name=NAME, epoch=1, evaluation=evaluation(seconds=float("nan"))),
        "seconds",
    ),
    (
        "ReportEvaluation",
        v1.ReportEvaluationRequest(job_name=NAME, epoch=1, evaluation=evaluation(), outcome=bytes(MIB + 1)),
        "outcome",
    ),
    ("CommitStep", v1.CommitStepRequest(job_name=NAME, epoch=1), "step"),
    ("CommitStep", v1.CommitStepRequest(job_name=NAME, epoch=1, step=job_pb2.StepCommitted(step=-1)), "step.step"),
    (
        "CommitStep",
        v1.CommitStepRequest(
            job_name=NAME, epoch=1, step=job_pb2.StepCommitted(step=0), session_state=bytes(3 * MIB + 1)
        ),
        "session_state",
    ),
    ("ReleaseJob", v1.ReleaseJobRequest(job_name=NAME, epoch=1, failure=job_pb2.JobFailure()), "failure.reason"),
    ("ReleaseJob", release(), "result.files"),
    ("ReleaseJob", release(file(name="../plan.json")), "result.files.name"),
    ("ReleaseJob", release(file(name="..")), "result.files.name"),
    ("ReleaseJob", release(file(), file()), "result.files.name"),
    ("ReleaseJob", release(file(sha256="AB" * 32)), "result.files.sha256"),
    ("ReleaseJob", release(file(size_bytes=-1)), "result.files.size_bytes"),
]


async def test_every_bad_field_is_named(api: Api, failing: Failing) -> None:
    await api.create("a")
    await api.lease()
    before = await api.get(NAME)
    for method, request, field in BAD:
        failure = await failing(getattr(api.coordinators, method)(request, timeout=5))
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"), (method, field)
        assert all(name.endswith(field) and text for name, text in failure.fields.items()), (method, failure.fields)
    assert await api.get(NAME) == before


async def test_the_largest_state_fits(api: Api) -> None:
    await api.create("a")
    await api.lease()
    state = bytes(3 * MIB)
    request = v1.CommitStepRequest(job_name=NAME, epoch=1, step=job_pb2.StepCommitted(step=0), session_state=state)
    await api.coordinators.CommitStep(request)
    assert (await api.lease()).session_state == state


async def test_a_message_over_the_limit_is_refused(api: Api, failing: Failing) -> None:
    request = v1.CommitStepRequest(job_name=NAME, epoch=1, session_state=bytes(5 * MIB))
    failure = await failing(api.coordinators.CommitStep(request))
    assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    listed = await api.jobs.ListJobs(job_service_pb2.ListJobsRequest(parent="projects/p"))
    assert not listed.jobs
