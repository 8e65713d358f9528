"""A whole job on real evaluators and a real conductor, in a made-up world: it ends well, or is gone on with."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import structlog
from diminuendo.v1 import coordinator_service_pb2 as v1
from diminuendo.v1 import job_pb2, job_service_pb2
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from structlog.typing import EventDict
from tests.services.coordinator.conftest import Executors, Server
from tests.services.coordinator.workers import DEADLY, SCRIPTED, SLOW_WORLD, WORLD
from tests.waiting import until

from diminuendo.engine.store import DirectoryStore
from diminuendo.services.coordinator.executor import RayExecutor
from diminuendo.services.coordinator.job import JobRunner


def runner_of(server: Server, executor: RayExecutor, folder: Path) -> JobRunner:
    return JobRunner(server.connection, executor, DirectoryStore(folder), server.stop)


def run(server: Server, executor: RayExecutor, folder: Path) -> None:
    asked_at = time.monotonic()
    runner_of(server, executor, folder).run(server.lease(), asked_at=asked_at)


def under_way(server: Server, executor: RayExecutor, folder: Path, name: str, *, steps: int) -> threading.Thread:
    """What runs the next job, once that has come so far."""
    running = threading.Thread(target=run, args=(server, executor, folder))
    running.start()
    assert until(lambda: server.get(name).progress.steps >= steps)
    return running


def steps(server: Server, name: str) -> list[str]:
    return [e.step_committed.summary for e in server.events(name) if e.WhichOneof("kind") == "step_committed"]


def assert_figures(result: job_pb2.JobResult, certificate: dict[str, Any], profile: dict[str, Any]) -> None:
    """A result says of itself what its files say."""
    assert (result.metric, [result.drop_low, result.drop_high]) == (certificate["metric"], certificate["drop_ci"])
    for name, told in (("original", result.original), ("compressed", result.compressed)):
        network = profile[name]
        assert (told.score, told.params, told.macs) == (certificate[name], network["params"], network["macs"])
        assert told.size_bytes == round(network["size_mb"] * 2**20) > 0
        assert told.memory_bytes == round(network["memory_mb"] * 2**20) > 0
        assert told.time_ms == network["time_ms"] > 0
    assert result.original.params > result.compressed.params > 0


def test_a_job_succeeds_and_the_same_job_again_evaluates_nothing(server: Server, executors: Executors) -> None:
    store = DirectoryStore(executors.folder)
    name = server.create().name
    one = executors.shared(WORLD, evaluators=1)
    run(server, one, executors.folder)
    job = server.get(name)
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED
    assert job.progress.seconds_done == job.progress.seconds_expected > 0
    files = {file.name: file for file in job.result.files}
    assert set(files) == {"model.safetensors", "plan.json", "certificate.json", "profile.json", "search.json"}
    for file in files.values():
        assert len(store.get(file.sha256)) == file.size_bytes
    certificate = json.loads(store.get(files["certificate.json"].sha256))
    assert certificate["inside_delta"] == job.result.inside_delta
    assert_figures(job.result, certificate, json.loads(store.get(files["profile.json"].sha256)))
    expected = steps(server, name)
    one.close()

    again = server.create().name  # every evaluation is remembered: nothing runs
    two = executors.shared(SCRIPTED)  # would give nonsense if anything did
    run(server, two, executors.folder)
    assert steps(server, again) == expected
    assert two.stats().works_done == 0
    assert server.get(again).result.files[1].sha256 == job.result.files[1].sha256


def test_stopped_midway_it_goes_on_and_decides_the_same(server: Server, executors: Executors) -> None:
    name = server.create().name
    executor = executors.shared(SLOW_WORLD)
    running = under_way(server, executor, executors.folder, name, steps=8)
    server.stop.set()
    running.join(60)
    assert not running.is_alive()
    job = server.get(name)
    assert job.state == job_pb2.JOB_STATE_QUEUED
    assert 8 <= job.progress.steps < 25
    server.stop.clear()
    run(server, executor, executors.folder)
    assert server.get(name).state == job_pb2.JOB_STATE_SUCCEEDED
    events = server.events(name)
    committed = [e.step_committed.step for e in events if e.WhichOneof("kind") == "step_committed"]
    assert committed == list(range(len(committed)))
    assert [e.leased.epoch for e in events if e.WhichOneof("kind") == "leased"] == [1, 2]

    other = server.create().name  # remembered outcomes, decided afresh without any stop
    run(server, executor, executors.folder)
    assert steps(server, other) == steps(server, name)


def test_paused_midway_it_goes_on_when_it_is_resumed_and_decides_the_same(server: Server, executors: Executors) -> None:
    name = server.create().name
    executor = executors.shared(SLOW_WORLD)
    running = under_way(server, executor, executors.folder, name, steps=8)
    server.jobs.PauseJob(job_service_pb2.PauseJobRequest(name=name), timeout=10)
    running.join(60)
    assert not running.is_alive()
    job = server.get(name)
    assert job.state == job_pb2.JOB_STATE_PAUSED
    assert {work for _, work in executor.statuses} == {""}
    server.jobs.ResumeJob(job_service_pb2.ResumeJobRequest(name=name), timeout=10)
    run(server, executor, executors.folder)
    events = server.events(name)
    states = [job_pb2.JobState.Name(e.state_changed.state)[10:] for e in events if e.HasField("state_changed")]
    assert states == ["QUEUED", "RUNNING", "PAUSING", "PAUSED", "QUEUED", "RUNNING", "SUCCEEDED"]
    committed = [e.step_committed.step for e in events if e.WhichOneof("kind") == "step_committed"]
    assert committed == list(range(len(committed)))

    other = server.create().name  # remembered outcomes, decided afresh without any pause
    run(server, executor, executors.folder)
    assert steps(server, other) == steps(server, name)


def test_a_deadline_that_is_set_while_it_runs_ends_it_with_its_best_model(server: Server, executors: Executors) -> None:
    name = server.create().name
    executor = executors.shared(SLOW_WORLD)
    running = under_way(server, executor, executors.folder, name, steps=12)
    wanted = job_pb2.Job(name=name, deadline=Timestamp(seconds=1))
    mask = FieldMask(paths=["deadline"])
    server.jobs.UpdateJob(job_service_pb2.UpdateJobRequest(job=wanted, update_mask=mask), timeout=10)
    running.join(30)
    assert not running.is_alive()
    job = server.get(name)
    assert (job.state, job.result.inside_delta) == (job_pb2.JOB_STATE_SUCCEEDED, True)
    whole = server.create().name
    run(server, executor, executors.folder)
    assert job.progress.steps < server.get(whole).progress.steps


def test_another_try_of_a_cancelled_job_pays_for_nothing_again(server: Server, executors: Executors) -> None:
    name = server.create().name
    executor = executors.shared(SLOW_WORLD)
    running = under_way(server, executor, executors.folder, name, steps=8)
    server.cancel(name)
    running.join(60)
    assert not running.is_alive()
    paid = [e.evaluation_finished.key for e in server.events(name) if e.WhichOneof("kind") == "evaluation_finished"]
    again = server.jobs.RetryJob(job_service_pb2.RetryJobRequest(name=name), timeout=10)
    assert again.retry_of == name
    run(server, executor, executors.folder)
    assert server.get(again.name).state == job_pb2.JOB_STATE_SUCCEEDED
    done = [e.evaluation_finished for e in server.events(again.name) if e.WhichOneof("kind") == "evaluation_finished"]
    assert len(paid) >= 8
    assert {one.key for one in done if not one.remembered}.isdisjoint(paid)


def test_cancellation_ends_the_job_and_what_runs(server: Server, executors: Executors) -> None:
    name = server.create().name
    executor = executors.shared(SLOW_WORLD)
    running = under_way(server, executor, executors.folder, name, steps=2)
    server.cancel(name)
    running.join(60)
    assert not running.is_alive()
    assert server.get(name).state == job_pb2.JOB_STATE_CANCELLED
    assert {work for _, work in executor.statuses} == {""}


def test_a_lost_lease_ends_the_work_without_a_word(server: Server, executors: Executors) -> None:
    name = server.create().name
    executor = executors.shared(SLOW_WORLD)
    running = under_way(server, executor, executors.folder, name, steps=2)
    successor = server.lease()
    running.join(60)
    assert not running.is_alive()
    job = server.get(name)
    assert job.state == job_pb2.JOB_STATE_RUNNING
    assert job.epoch == successor.epoch == 2
    assert job.progress.steps == successor.next_step
    assert {work for _, work in executor.statuses} == {""}


def test_an_answer_that_the_search_cannot_use_fails_the_job(server: Server, executors: Executors) -> None:
    """A defect of the engine: a candidate's outcome in answer to the first question."""
    name = server.create().name
    run(server, executors.shared(SCRIPTED, evaluators=1), executors.folder)
    job = server.get(name)
    assert job.state == job_pb2.JOB_STATE_FAILED
    assert job.failure.reason == "INTERNAL"
    assert "Traceback" in job.failure.traceback


def test_a_state_of_another_version_is_discarded_with_a_warning(server: Server, executors: Executors) -> None:
    name = server.create().name
    given = server.lease()
    step = job_pb2.StepCommitted(step=0, progress=job_pb2.JobProgress(steps=1))
    request = v1.CommitStepRequest(job_name=name, epoch=given.epoch, step=step, session_state=b"of old")
    server.coordinators.CommitStep(request, timeout=10)
    run(server, executors.shared(WORLD, evaluators=1), executors.folder)
    assert server.get(name).state == job_pb2.JOB_STATE_SUCCEEDED
    warnings = [e.warning.reason for e in server.events(name) if e.WhichOneof("kind") == "warning"]
    assert warnings == ["STATE_DISCARDED"]


@pytest.mark.parametrize("field", ["effort", "accept"])
def test_a_job_of_a_newer_version_fails_with_the_reason(server: Server, executors: Executors, field: str) -> None:
    server.create()
    given = server.lease()
    setattr(given.job.spec, field, 9)
    runner_of(server, executors.shared(WORLD, evaluators=1), executors.folder).run(given, asked_at=time.monotonic())
    job = server.get(given.job.name)
    assert job.state == job_pb2.JOB_STATE_FAILED
    assert f"spec.{field}=9" in job.failure.message


def test_a_remembered_outcome_whose_artifact_is_gone_is_computed_again(server: Server, executors: Executors) -> None:
    store = DirectoryStore(executors.folder)
    first = server.create().name
    executor = executors.shared(WORLD, evaluators=1)
    run(server, executor, executors.folder)
    works = executor.stats().works_done
    contents = {stored.sha256: store.get(stored.sha256) for stored in store.stored()}
    results = {file.sha256 for file in server.get(first).result.files}
    lost = sorted(set(contents) - results)[:3]
    for sha256 in lost:
        store.path(sha256).unlink()

    again = server.create().name
    run(server, executor, executors.folder)
    job = server.get(again)
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED
    assert works < executor.stats().works_done <= works + len(lost)
    assert steps(server, again) == steps(server, first)
    assert {sha256: store.get(sha256) for sha256 in contents} == contents


def test_a_search_whose_state_names_what_is_gone_starts_again_and_computes_that(
    server: Server, executors: Executors
) -> None:
    store = DirectoryStore(executors.folder)
    name = server.create().name
    executor = executors.shared(SLOW_WORLD)
    running = under_way(server, executor, executors.folder, name, steps=12)
    server.stop.set()
    running.join(60)
    server.stop.clear()
    contents = {stored.sha256: store.get(stored.sha256) for stored in store.stored()}
    for sha256 in contents:  # all of it: whichever parent the next candidate starts from is among them
        store.path(sha256).unlink()
    run(server, executor, executors.folder)
    job = server.get(name)
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED, job.failure
    assert store.missing(contents) == set()
    events = server.events(name)
    assert "ARTIFACT_MISSING" in [e.warning.reason for e in events if e.WhichOneof("kind") == "warning"]
    committed = [e.step_committed.step for e in events if e.WhichOneof("kind") == "step_committed"]
    assert committed == list(range(len(committed)))


def test_attempts_that_come_to_nothing_are_in_the_log_at_once(server: Server, executors: Executors) -> None:
    """Also while nothing else happens: the next attempt may take hours."""
    name = server.create().name
    (executors.folder.parent / "kills").touch()
    executor = executors.shared(DEADLY, evaluators=1)

    def logged() -> None:
        with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as written:
            run(server, executor, executors.folder)
        lines.extend(written)

    lines: list[EventDict] = []
    running = threading.Thread(target=logged)
    running.start()
    assert until(lambda: server.get(name).last_sequence >= 3)  # queued, running, leased
    watch = server.jobs.WatchJob(job_service_pb2.WatchJobRequest(name=name), timeout=60)
    lost = next(event.attempt_lost for event in watch if event.HasField("attempt_lost"))
    watch.cancel()
    assert (lost.index, lost.attempt, lost.cause, lost.evaluator) == (0, 1, "EVALUATOR_LOST", "evaluator-0")
    assert "process was lost" in lost.detail
    running.join(30)
    events = server.events(name)
    kept = [(e.attempt_lost.index, e.attempt_lost.attempt) for e in events if e.WhichOneof("kind") == "attempt_lost"]
    assert kept == [(0, 1)]
    assert server.get(name).state == job_pb2.JOB_STATE_SUCCEEDED
    kinds = ("attempt_lost", "evaluation_finished")
    of = {kind: [line for line in lines if line["event"] == kind] for kind in kinds}
    assert all(line["job"] == name for found in of.values() for line in found)
    finished = [e.evaluation_finished for e in events if e.WhichOneof("kind") == "evaluation_finished"]
    assert [(line["work"], line["key"]) for line in of["evaluation_finished"]] == [(e.index, e.key) for e in finished]
    assert [(line["work"], line["key"]) for line in of["attempt_lost"]] == [(0, finished[0].key)]
