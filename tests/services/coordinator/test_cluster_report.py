"""What a conductor is told of real evaluators: what they do, that one is lost, that the coordinator leaves."""

from __future__ import annotations

import os
import platform
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

import pytest
from diminuendo.v1 import job_pb2
from tests.services.coordinator.conftest import Executors, Server, collect
from tests.services.coordinator.workers import HELD_UP, SCRIPTED, SLOW_WORLD, evaluate, prepare, starts
from tests.waiting import until

from diminuendo.engine.store import DirectoryStore
from diminuendo.services.coordinator import main
from diminuendo.services.coordinator.cluster_report import ClusterReport
from diminuendo.services.coordinator.executor import RayExecutor
from diminuendo.services.coordinator.job import JobRunner
from diminuendo.services.coordinator.line import Claim
from diminuendo.services.coordinator.settings import CoordinatorSettings
from diminuendo.services.coordinator.stopping import Stop

JOB = "projects/p/jobs/a"
STARTING, IDLE = job_pb2.EVALUATOR_STATE_STARTING, job_pb2.EVALUATOR_STATE_IDLE
BUSY, LOST = job_pb2.EVALUATOR_STATE_BUSY, job_pb2.EVALUATOR_STATE_LOST


@contextmanager
def reporting(server: Server, executor: RayExecutor) -> Iterator[None]:
    with ClusterReport(server.connection, executor, name="test", local=True, holding=lambda: [JOB]):
        yield


def states(server: Server) -> list[job_pb2.EvaluatorState.ValueType]:
    return [one.state for one in server.coordinator().evaluators]


def test_what_each_evaluator_does_is_told(server: Server, executors: Executors) -> None:
    hold = executors.folder.parent / "hold"
    hold.touch()
    shared = executors.shared(HELD_UP)
    began = time.time()
    with reporting(server, shared), shared.job(Claim(f"{JOB}#7", "p")) as job:
        assert until(lambda: states(server) == [STARTING, STARTING])
        told = server.coordinator()
        assert (told.name, told.version, told.ray_address) == ("test", version("diminuendo"), "local")
        assert list(told.jobs) == [JOB]
        (node,) = told.nodes
        assert (node.name, node.alive, node.cpus) == (platform.node(), True, 2.0)
        assert node.memory_bytes > 2**20
        hold.unlink()
        assert until(lambda: states(server) == [IDLE, IDLE])
        for index in (3, 4, 5):
            job.submit(evaluate(index, f"sleep {60 if index == 3 else 0.05}"))
        collect(job, 2)
        job.submit(prepare(9, "sleep 61"))
        job.submit(evaluate(10))
        assert until(lambda: states(server) == [BUSY, BUSY])
        told = server.coordinator(job=JOB)
        one, two = sorted(told.evaluators, key=lambda evaluator: evaluator.index)
        assert (one.job, one.kind, one.index, one.attempt, one.work) == (JOB, "evaluate", 3, 1, "sleep 60")
        assert (two.job, two.kind, two.index, two.attempt, two.work) == (JOB, "prepare", 9, 1, "sleep 61")
        assert (one.node, one.cpus, one.gpus) == (platform.node(), 1.0, 0.0)
        assert began < one.since.ToMicroseconds() / 1e6 < two.since.ToMicroseconds() / 1e6 <= time.time()
        assert told.works_waiting == 1
        job.cancel()
        assert until(lambda: server.coordinator().works_waiting == 0 and BUSY not in states(server))
        assert server.coordinator(job=JOB).name == "", "nothing works on it"
    assert server.coordinator().name == "", "it has said that it leaves"


@pytest.mark.parametrize("busy", [False, True])
def test_an_evaluator_that_is_killed_shows_as_lost_until_another_is_up(
    server: Server, executors: Executors, busy: bool
) -> None:
    hold = executors.folder.parent / "hold"
    shared = executors.shared(HELD_UP, evaluators=1)
    with reporting(server, shared), shared.job(Claim(f"{JOB}#1", "p")) as job:
        job.submit(evaluate(0))
        collect(job, 1)
        ((_, pid),) = starts(executors.folder)
        if busy:
            job.submit(evaluate(1, "sleep 120"))
        assert until(lambda: states(server) == [BUSY if busy else IDLE])
        hold.touch()
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        assert until(lambda: states(server) == [LOST], 30)
        assert time.monotonic() - killed < 10
        (lost,) = server.coordinator().evaluators
        assert (lost.job, lost.work, lost.node) == (JOB if busy else "", "", "")
        assert [one.state for one in server.coordinator(job=JOB).evaluators] == ([LOST] if busy else [])
        hold.unlink()
        assert until(lambda: states(server) == [BUSY if busy else IDLE])
        (again,) = server.coordinator().evaluators
        assert again.attempt == (2 if busy else 0)
        assert shared.stats().attempts_lost == (1 if busy else 0), "nobody pays for one that had nothing to do"


def test_a_conductor_that_comes_back_is_told_again(mortal: Server, executors: Executors) -> None:
    with reporting(mortal, executors.shared(SCRIPTED, evaluators=1)):
        assert until(lambda: mortal.coordinator().name == "test")
        mortal.conductor.kill()
        mortal.conductor.start()
        restarted = time.time()
        assert until(lambda: mortal.coordinator().update_time.ToMicroseconds() / 1e6 > restarted)


def test_a_coordinator_reports_with_and_without_jobs_and_leaves_when_it_stops(
    server: Server, executors: Executors
) -> None:
    shared, stop = executors.shared(SLOW_WORLD), Stop()
    runner = JobRunner(server.connection, shared, DirectoryStore(executors.folder), stop.event)
    settings = CoordinatorSettings.load(name="test", jobs=2)
    thread = threading.Thread(target=main._loop, args=(settings, 2, runner, stop))
    thread.start()
    try:
        assert until(lambda: states(server) == [IDLE, IDLE])
        assert list(server.coordinator().jobs) == []
        name = server.create().name
        assert until(lambda: BUSY in states(server))
        told = server.coordinator(job=name)
        assert list(told.jobs) == [name]
        assert {one.job for one in told.evaluators} == {name}
    finally:
        stop.request()
        thread.join(60)
    assert server.coordinator().name == ""
