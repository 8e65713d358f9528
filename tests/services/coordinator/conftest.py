"""One Ray for the package's tests, executors on it, and a conductor as a process."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from diminuendo.v1 import (
    cluster_service_pb2,
    cluster_service_pb2_grpc,
    coordinator_service_pb2_grpc,
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
)
from diminuendo.v1 import coordinator_service_pb2 as held
from google.protobuf.duration_pb2 import Duration

from diminuendo.services.coordinator.environment import isolate

isolate()  # before anything here imports ray

from diminuendo.engine.search.drive import Done  # noqa: E402
from diminuendo.services.coordinator.cluster import Cluster, connected  # noqa: E402
from diminuendo.services.coordinator.dispatcher import Limits  # noqa: E402
from diminuendo.services.coordinator.executor import JobExecutor, RayExecutor  # noqa: E402
from diminuendo.services.coordinator.ledger import Stats  # noqa: E402
from diminuendo.services.coordinator.line import Claim  # noqa: E402
from diminuendo.services.coordinator.rpc import Conductor  # noqa: E402

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    before = os.environ.get("PYTHONPATH")
    # Evaluators import the tests' workers, and whatever the tests themselves import.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([before] if before else [])])
    try:
        with connected(address=None, evaluators=2) as cluster:
            yield cluster
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


class Alone(JobExecutor):
    """The executor of one job that has evaluators for itself."""

    def __init__(self, evaluators: RayExecutor) -> None:
        super().__init__(evaluators, evaluators._dispatcher, Claim("job"))
        self.evaluators = evaluators

    def stats(self) -> Stats:
        return self.evaluators.stats()


@dataclass
class Executors:
    """Makes executors, each with a store of its own."""

    cluster: Cluster
    folder: Path
    made: list[RayExecutor] = field(default_factory=list)

    def shared(self, worker: str, *, evaluators: int = 2, limits: Limits | None = None) -> RayExecutor:
        cluster = Cluster(evaluators, self.cluster.share)
        executor = RayExecutor(cluster, str(self.folder), worker=worker, limits=limits)
        self.made.append(executor)
        return executor

    def __call__(self, worker: str, *, evaluators: int = 2, limits: Limits | None = None) -> Alone:
        return Alone(self.shared(worker, evaluators=evaluators, limits=limits))


@pytest.fixture
def executors(cluster: Cluster, tmp_path: Path) -> Iterator[Executors]:
    executors = Executors(cluster, tmp_path / "artifacts")
    yield executors
    for executor in executors.made:
        executor.close()


def collect(executor: JobExecutor, count: int, timeout_s: float = 120.0) -> list[Done]:
    """Wait for so many works."""
    done: list[Done] = []
    deadline = time.monotonic() + timeout_s
    while len(done) < count and time.monotonic() < deadline:
        done += executor.wait(1.0)
    assert len(done) == count
    return done


@dataclass
class ConductorProcess:
    """A real conductor in a process of its own, which a test may kill and start again on its port."""

    data: Path
    lease_s: float
    target: str = ""
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        port = self.target.rpartition(":")[2] or "0"
        command = [sys.executable, "-m", "diminuendo.services.conductor", "--data-dir", str(self.data)]
        command += ["--port", port, "--http-port", "0", "--lease-s", str(self.lease_s), "--with-parent"]
        with (self.data.parent / "conductor.log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.fullmatch(r"ready grpc=(\S+) http=\S+\n", line)
        assert found, line
        self.target = found[1]

    def kill(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@dataclass
class Server:
    """A conductor, and what talks to it."""

    conductor: ConductorProcess
    jobs: job_service_pb2_grpc.JobServiceStub
    coordinators: coordinator_service_pb2_grpc.CoordinatorServiceStub
    clusters: cluster_service_pb2_grpc.ClusterServiceStub
    connection: Conductor
    stop: threading.Event
    seed: int = 0

    def create(self, job_id: str = "") -> job_pb2.Job:
        spec = job_pb2.JobSpec(zoo="digits", delta=1.0, seed=self.seed, effort=job_pb2.EFFORT_QUICK)
        request = job_service_pb2.CreateJobRequest(parent="projects/p", job_id=job_id, job=job_pb2.Job(spec=spec))
        return self.jobs.CreateJob(request, timeout=10)

    def get(self, name: str) -> job_pb2.Job:
        return self.jobs.GetJob(job_service_pb2.GetJobRequest(name=name), timeout=10)

    def cancel(self, name: str) -> job_pb2.Job:
        return self.jobs.CancelJob(job_service_pb2.CancelJobRequest(name=name), timeout=10)

    def lease(self, coordinator: str = "test") -> held.Lease:
        request = held.LeaseJobRequest(coordinator=coordinator, wait=Duration(seconds=5), evaluators=2)
        response = self.coordinators.LeaseJob(request, timeout=10)
        assert response.HasField("lease")
        return response.lease

    def coordinator(self, name: str = "test", job: str = "") -> cluster_service_pb2.Coordinator:
        """What a coordinator has told of itself, as clients see it; an empty message when it is not known."""
        told = self.clusters.GetCluster(cluster_service_pb2.GetClusterRequest(job=job), timeout=10).coordinators
        return next((one for one in told if one.name == name), cluster_service_pb2.Coordinator())

    def end_all(self) -> None:
        """End every job that has not ended, so that the next test finds none."""
        final = (job_pb2.JOB_STATE_CANCELLED, job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED)
        unfinished = [state for state in job_pb2.JobState.values() if state and state not in final]
        request = job_service_pb2.ListJobsRequest(parent="projects/-", states=unfinished)
        for job in self.jobs.ListJobs(request, timeout=10).jobs:
            self.cancel(job.name)
        # A coordinator that asks again has lost what it held: with that the cancelled ones end.
        response = self.coordinators.LeaseJob(held.LeaseJobRequest(coordinator="test"), timeout=10)
        assert not response.HasField("lease")

    def events(self, name: str) -> list[job_pb2.JobEvent]:
        """Every event of a job that has ended."""
        return list(self.jobs.WatchJob(job_service_pb2.WatchJobRequest(name=name), timeout=20))


@contextmanager
def serving(data: Path, *, lease_s: float = 30.0) -> Iterator[Server]:
    """A conductor while inside."""
    conductor = ConductorProcess(data, lease_s)
    conductor.start()
    stop = threading.Event()
    connection = Conductor(conductor.target, stop)
    try:
        with grpc.insecure_channel(conductor.target) as channel:
            jobs = job_service_pb2_grpc.JobServiceStub(channel)
            coordinators = coordinator_service_pb2_grpc.CoordinatorServiceStub(channel)
            clusters = cluster_service_pb2_grpc.ClusterServiceStub(channel)
            yield Server(conductor, jobs, coordinators, clusters, connection, stop)
    finally:
        connection.close()
        conductor.kill()


@pytest.fixture(scope="session")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("conductor") / "data") as server:
        yield server


_SEEDS = itertools.count(1)


@pytest.fixture
def server(_shared: Server) -> Iterator[Server]:
    """A conductor without unfinished jobs; jobs get a seed of their own, for which nothing is remembered."""
    _shared.seed = next(_SEEDS)
    _shared.stop.clear()
    yield _shared
    _shared.end_all()


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Server]:
    """A conductor that the test may kill."""
    with serving(tmp_path / "data") as server:
        yield server
