"""What a conductor and a coordinator take when much is stored: a page of jobs, a start, going on with a long search."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

from diminuendo.services.coordinator.environment import isolate

isolate()  # before ray is imported

import grpc  # noqa: E402
from diminuendo.v1 import coordinator_service_pb2 as held  # noqa: E402
from diminuendo.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc  # noqa: E402
from tests.bench.service_calls import percentile  # noqa: E402
from tests.bench.service_conductor import Started, conductor  # noqa: E402
from tests.bench.service_store import SEARCHED, fill, key_of  # noqa: E402
from tests.engine.search.world import World  # noqa: E402

from diminuendo.engine.search.drive import Done  # noqa: E402
from diminuendo.engine.search.work import Work  # noqa: E402
from diminuendo.engine.store import DirectoryStore  # noqa: E402
from diminuendo.services.coordinator.attempts import AttemptLost  # noqa: E402
from diminuendo.services.coordinator.bundles import Environment  # noqa: E402
from diminuendo.services.coordinator.executor import RayExecutor  # noqa: E402
from diminuendo.services.coordinator.job import JobRunner  # noqa: E402
from diminuendo.services.coordinator.ledger import Stats  # noqa: E402
from diminuendo.services.coordinator.line import Claim  # noqa: E402
from diminuendo.services.coordinator.post import Accounts  # noqa: E402
from diminuendo.services.coordinator.rpc import Conductor  # noqa: E402

LISTINGS: Mapping[str, Mapping[str, Any]] = {
    "all": {},
    "by update_time desc": {"order_by": "update_time desc"},
    "by priority": {"order_by": "priority"},
    "one project": {"parent": "projects/p3"},
    "one project, by priority desc": {"parent": "projects/p3", "order_by": "priority desc"},
    "failed": {"states": [job_pb2.JOB_STATE_FAILED]},
    "failed or paused, by update_time": {
        "states": [job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_PAUSED],
        "order_by": "update_time",
    },
    "a team's": {"labels": {"team": "ads"}},
    "a label of 1 % of the jobs": {"labels": {"sweep": "42"}},
    "a label that no job has": {"labels": {"sweep": "none"}},
    "one project, succeeded, a team's": {
        "parent": "projects/p3",
        "states": [job_pb2.JOB_STATE_SUCCEEDED],
        "labels": {"team": "ads"},
    },
}
"""What is listed; each is walked from its first page to its last."""


@dataclass(frozen=True)
class Pages:
    """How long the pages of one listing took, one call at a time."""

    listing: str
    pages: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Stored:
    """What was measured on the database.

    Attributes:
        fill_s: How long it took to make.
        size_mib: Of its file.
        pages: By listing.
        page_p99_ms: Over the pages of all listings.
        start_s: From the conductor's start until it said that it serves; the slowest.
        resume_s: From the request for the lease until the first work was submitted; the slowest.
        proposal_s: Until one outcome was told and the next proposal submitted; the slowest.
        recall_s: Of as many outcomes by their keys, as a search that starts again asks for.
    """

    fill_s: float
    size_mib: float
    pages: tuple[Pages, ...]
    page_p99_ms: float
    start_s: float
    resume_s: float
    proposal_s: float
    recall_s: float


class _Executor:
    """Stands for evaluators: answers the first work that it gets, and has the process stop at the next proposal.

    Attributes:
        submitted: When each work came (time.perf_counter).
    """

    slots = 64
    statuses: tuple[tuple[str, str], ...] = ()

    def __init__(self, stop: threading.Event) -> None:
        self._stop, self.changed = stop, threading.Event()
        self._works: list[Work] = []
        self._answered = False
        self.submitted: list[float] = []

    def submit(self, work: Work) -> None:
        self._works.append(work)
        self.submitted.append(time.perf_counter())
        if self._answered:
            self._stop.set()

    def wait(self, timeout_s: float) -> list[Done]:
        if self._answered:
            return []
        self._answered = True
        return [Done(self._works[0], World().run(self._works[0]), "evaluator-0", 1.0)]

    def cancel(self) -> None:
        """Nothing runs."""

    def take_warnings(self) -> list[tuple[str, str]]:
        return []

    def take_losses(self) -> list[AttemptLost]:
        return []

    def prioritise(self, priority: int) -> None:
        """It is alone."""

    def run_in(self, environment: Environment) -> None:
        """It is anything."""

    def accounts(self) -> Accounts:
        return Accounts()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""

    def job(self, claim: Claim, trace_parent: str = "") -> Self:
        """It is alone: what evaluators are asked for and what a job is."""
        return self

    def stats(self) -> Stats:
        return Stats((), 0.0, 0, 0)


def _resume(server: Started, folder: Path) -> tuple[float, float]:
    """Lease the long search's job, go on with it until it proposes something new, and give it back.

    Returns:
        Seconds from the request for the lease until the first work was submitted, and until the new one was.
    """
    stop = threading.Event()
    executor, connection = _Executor(stop), Conductor(server.target, stop)
    runner = JobRunner(connection, cast(RayExecutor, executor), DirectoryStore(folder), stop)
    start, asked_at = time.perf_counter(), time.monotonic()
    try:
        lease = connection.stub.LeaseJob(held.LeaseJobRequest(coordinator="bench", evaluators=2), timeout=30).lease
        if lease.job.name != SEARCHED:
            raise RuntimeError(f"{lease.job.name!r} was leased in the place of {SEARCHED}")
        runner.run(lease, asked_at=asked_at)
    finally:
        connection.close()
    if not stop.is_set():
        raise RuntimeError("the search proposed nothing")
    return executor.submitted[0] - start, executor.submitted[-1] - start


def _recall(server: Started, count: int, at_a_time: int = 1000) -> float:
    connection = Conductor(server.target, threading.Event())
    start, found = time.perf_counter(), 0
    for first in range(0, count, at_a_time):
        keys = [key_of(number) for number in range(first, min(count, first + at_a_time))]
        request = held.BatchGetEvaluationsRequest(keys=keys)
        found += len(connection.stub.BatchGetEvaluations(request, timeout=30).evaluations)
    seconds = time.perf_counter() - start
    connection.close()
    if found != count:
        raise RuntimeError(f"{found} of {count} outcomes were known")
    return seconds


def _walk(jobs: job_service_pb2_grpc.JobServiceStub, asked: Mapping[str, Any], most: int) -> Iterator[float]:
    """Milliseconds of each page from the first to the last."""
    token = ""
    for _ in range(most):
        request = job_service_pb2.ListJobsRequest(**{"parent": "projects/-", "page_token": token, **asked})
        start = time.perf_counter()
        page = jobs.ListJobs(request, timeout=30)
        yield 1000 * (time.perf_counter() - start)
        token = page.next_page_token
        if not token:
            return


def stored(
    folder: Path,
    *,
    count: int = 10_000,
    known: int = 1_000_000,
    trials: int = 10_000,
    seed: int = 0,
    starts: int = 3,
    most_pages: int = 200,
) -> Stored:
    """Fill a database, and measure what is asked of a conductor on it."""
    begin = time.perf_counter()
    fill(folder / "data", count=count, known=known, trials=trials, seed=seed)
    filled = time.perf_counter() - begin
    size = (folder / "data" / "diminuendo.db").stat().st_size / 2**20
    started: list[float] = []
    for _ in range(starts - 1):
        with conductor(folder) as server:
            started.append(server.start_s)
    with conductor(folder) as server, grpc.insecure_channel(server.target) as channel:
        started.append(server.start_s)
        jobs = job_service_pb2_grpc.JobServiceStub(channel)
        walked = {name: list(_walk(jobs, asked, most_pages)) for name, asked in LISTINGS.items()}
        resumed = [_resume(server, folder / "artifacts") for _ in range(3)]
        recalled = _recall(server, min(known, trials))
    return Stored(
        fill_s=filled,
        size_mib=size,
        pages=tuple(Pages(name, len(ms), statistics.median(ms), percentile(ms, 0.99)) for name, ms in walked.items()),
        page_p99_ms=percentile([ms for several in walked.values() for ms in several], 0.99),
        start_s=max(started),
        resume_s=max(first for first, _ in resumed),
        proposal_s=max(proposed for _, proposed in resumed),
        recall_s=recalled,
    )
