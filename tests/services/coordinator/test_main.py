"""The coordinator's loop over a real conductor: several jobs at a time, each as if it were alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from diminuendo.v1 import job_pb2
from tests.services.coordinator.conftest import Executors, Server
from tests.services.coordinator.workers import LATE, SCRIPTED, SLOW_WORLD, WORLD
from tests.waiting import until

from diminuendo.engine.store import DirectoryStore
from diminuendo.services.coordinator import main
from diminuendo.services.coordinator.dispatcher import Limits
from diminuendo.services.coordinator.executor import ClusterLostError
from diminuendo.services.coordinator.job import JobRunner
from diminuendo.services.coordinator.settings import CoordinatorSettings
from diminuendo.services.coordinator.stopping import Stop


@contextmanager
def coordinating(
    server: Server, executors: Executors, worker: str, *, jobs: int, limits: Limits | None = None
) -> Iterator[Stop]:
    """A coordinator's loop while inside."""
    stop, shared = Stop(), executors.shared(worker, limits=limits)
    runner = JobRunner(server.connection, shared, DirectoryStore(executors.folder), stop.event)
    settings = CoordinatorSettings.load(name="test", jobs=jobs)
    thread = threading.Thread(target=main._loop, args=(settings, 2, runner, stop))
    thread.start()
    try:
        yield stop
    finally:
        stop.request()
        thread.join(60)
        shared.close()  # as its process would: the next one's evaluators would wait for room on the cluster
        assert not thread.is_alive()


def ended(server: Server, names: list[str]) -> list[job_pb2.Job]:
    assert until(lambda: all(server.get(name).HasField("end_time") for name in names), timeout_s=60)
    return [server.get(name) for name in names]


def create(server: Server, count: int) -> list[str]:
    """So many jobs that ask for different things."""
    own, names = server.seed, []
    for i in range(count):
        server.seed = 10_000 + 100 * own + i
        names.append(server.create().name)
    server.seed = own
    return names


def steps(server: Server, name: str) -> list[str]:
    return [e.step_committed.summary for e in server.events(name) if e.WhichOneof("kind") == "step_committed"]


def test_jobs_run_beside_one_another_and_decide_as_if_alone(server: Server, executors: Executors) -> None:
    names = create(server, 3)
    with coordinating(server, executors, SLOW_WORLD, jobs=2):
        jobs = ended(server, names)
    assert {job.state for job in jobs} == {job_pb2.JOB_STATE_SUCCEEDED}
    one, two, three = ((job.start_time.ToMicroseconds(), job.end_time.ToMicroseconds()) for job in jobs)
    assert two[0] < one[1], "beside the first"
    assert three[0] >= min(one[1], two[1]), "no more than two at a time"
    assert all(job.epoch == 1 for job in jobs)
    again = create(server, 3)  # every outcome is remembered: only decisions are made, one job after the other
    with coordinating(server, executors, SCRIPTED, jobs=1):
        ended(server, again)
    for name, before in zip(again, names, strict=True):
        assert steps(server, name) == steps(server, before)


def test_a_stop_gives_every_job_back(server: Server, executors: Executors) -> None:
    names = create(server, 2)
    with coordinating(server, executors, SLOW_WORLD, jobs=2) as stop:
        assert until(lambda: all(server.get(name).progress.steps >= 3 for name in names))
        stop.request()
        assert until(lambda: {server.get(name).state for name in names} == {job_pb2.JOB_STATE_QUEUED})
    with coordinating(server, executors, WORLD, jobs=2):
        jobs = ended(server, names)
    assert {(job.state, job.epoch) for job in jobs} == {(job_pb2.JOB_STATE_SUCCEEDED, 2)}


def test_jobs_wait_in_the_queue_while_no_evaluator_can_be_started(server: Server, executors: Executors) -> None:
    """A node that is broken must not fail one job after the other."""
    names = create(server, 3)
    with coordinating(server, executors, LATE, jobs=1, limits=Limits(backoff_s=0.2)):
        assert until(lambda: (server.get(names[0]).epoch, server.get(names[0]).state) == (1, job_pb2.JOB_STATE_QUEUED))
        assert [server.get(name).epoch for name in names] == [1, 0, 0]
        (executors.folder.parent / "up").touch()
        jobs = ended(server, names)
    assert {job.state for job in jobs} == {job_pb2.JOB_STATE_SUCCEEDED}
    reasons = [e.state_changed.reason for e in server.events(names[0]) if e.WhichOneof("kind") == "state_changed"]
    assert any(
        "let go of it: no evaluator can be started: " in text and "no room on the node" in text for text in reasons
    )


def test_a_lost_cluster_gives_every_job_back_and_is_told(
    server: Server, executors: Executors, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = create(server, 2)
    stop = Stop()
    shared = executors.shared(SLOW_WORLD)
    runner = JobRunner(server.connection, shared, DirectoryStore(executors.folder), stop.event)
    raised: list[BaseException] = []

    def loop() -> None:
        try:
            main._loop(CoordinatorSettings.load(name="test", jobs=2), 2, runner, stop)
        except ClusterLostError as error:
            raised.append(error)

    thread = threading.Thread(target=loop)
    thread.start()
    assert until(lambda: all(server.get(name).progress.steps >= 3 for name in names))

    def lost(*_: object) -> None:
        raise ConnectionError("Ray is gone")

    shared._dispatcher.post(lost)
    thread.join(60)
    assert not thread.is_alive()
    assert len(raised) == 1
    assert {server.get(name).state for name in names} == {job_pb2.JOB_STATE_QUEUED}
