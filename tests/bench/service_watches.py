"""Watches: how fast an event reaches 1,000 of them, what they hold in memory, and what is left of those abandoned.

The watchers are a process of their own, with a connection for each watch. An event is a pause or a resumption of the
job that all of them watch; its time runs from the call to the last watcher's receipt of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from diminuendo.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc
from tests.bench.service_conductor import Started, conductor

_SERVICE = "/diminuendo.v1.JobService/"
_OWN = (("grpc.use_local_subchannel_pool", 1),)
_OPENING = 50
"""Connections that are made at a time."""


@dataclass(frozen=True)
class Watched:
    """What open watches cost.

    Attributes:
        watches: How many there were.
        slowest_s: From a change's call to its receipt by the last watcher; the worst of the rounds.
        median_s: Of the rounds.
        resident_mib: The conductor's memory with all of them open (RSS).
        before_mib: Without any.
    """

    watches: int
    slowest_s: float
    median_s: float
    resident_mib: float
    before_mib: float


@dataclass(frozen=True)
class Abandoned:
    """What is left of watches whose clients were killed.

    Attributes:
        watches: How many were left, after as many that warmed the conductor up.
        cancelled: How many the conductor says that it cancelled.
        cancelled_s: How long after the last client's end that was.
        before_mib: The conductor's memory before them (RSS).
        after_mib: After them.
    """

    watches: int
    cancelled: int
    cancelled_s: float
    before_mib: float
    after_mib: float

    @property
    def grown_mib(self) -> float:
        """By how much memory has grown."""
        return self.after_mib - self.before_mib


async def _watch(target: str, name: str, count: int) -> None:
    """Watch; write a line once all watches have what was there before, and one whenever an event has reached all."""
    request = job_service_pb2.WatchJobRequest(name=name).SerializeToString()
    gate, received = asyncio.Semaphore(_OPENING), list[int]()

    async def one() -> None:
        seen = 0
        async with grpc.aio.insecure_channel(target, options=_OWN) as channel:
            watch: Any = channel.unary_stream(_SERVICE + "WatchJob")
            async with gate:
                call = watch(request)
                await call.read()
            while True:
                if seen == len(received):
                    received.append(0)
                received[seen] += 1
                if received[seen] == count:
                    print(json.dumps(time.time()), flush=True)  # the same clock for all processes of a machine
                seen += 1
                await call.read()

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(one())


@contextmanager
def watchers(server: Started, name: str, count: int) -> Iterator[Callable[[], float]]:
    """Watches of a job, open while inside, whose process is then killed; gives what waits for the next event at all."""
    command = [sys.executable, "-m", "tests.bench.service_watches", server.target, name, str(count)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    out = process.stdout
    if out is None:
        raise RuntimeError("the watchers have no stdout")

    def told() -> float:
        line = out.readline()
        if not line:
            raise RuntimeError(f"the watchers ended with {process.wait()}")
        return float(line)

    try:
        told()
        yield told
    finally:
        process.kill()
        process.wait()
        out.close()


def _job(jobs: job_service_pb2_grpc.JobServiceStub) -> str:
    spec = job_pb2.JobSpec(zoo="digits", delta=1.0)
    request = job_service_pb2.CreateJobRequest(parent="projects/bench", job=job_pb2.Job(spec=spec))
    return jobs.CreateJob(request, timeout=10).name


def _cancelled(server: Started) -> int:
    """How many watches the conductor has cancelled, by its metrics."""
    with urllib.request.urlopen(f"http://{server.http}/metrics", timeout=10) as page:
        for line in page.read().decode().splitlines():
            if line.startswith("diminuendo_rpc_total{") and "WatchJob" in line and "CANCELLED" in line:
                return int(float(line.rpartition(" ")[2]))
    return 0


def _until_cancelled(server: Started, count: int, timeout_s: float) -> float:
    """Seconds until the conductor has cancelled so many, or the time is over."""
    start = time.perf_counter()
    while _cancelled(server) < count and time.perf_counter() - start < timeout_s:
        time.sleep(0.05)
    return time.perf_counter() - start


def watched(folder: Path, *, watches: int = 1000, rounds: int = 6) -> Watched:
    """Open watches on one job, and change it a few times."""
    with conductor(folder) as server, grpc.insecure_channel(server.target) as channel:
        jobs = job_service_pb2_grpc.JobServiceStub(channel)
        name, before = _job(jobs), server.resident_mib
        times: list[float] = []
        with watchers(server, name, watches) as told:
            for number in range(rounds):
                start = time.time()
                if number % 2:
                    jobs.ResumeJob(job_service_pb2.ResumeJobRequest(name=name), timeout=10)
                else:
                    jobs.PauseJob(job_service_pb2.PauseJobRequest(name=name), timeout=10)
                times.append(told() - start)
            resident = server.resident_mib
    return Watched(watches, max(times), sorted(times)[len(times) // 2], resident, before)


def abandoned(folder: Path, *, watches: int = 1000, together: int = 250, timeout_s: float = 30.0) -> Abandoned:
    """Kill clients with so many open watches each, until enough were abandoned, twice: the first time warms up."""
    with conductor(folder) as server, grpc.insecure_channel(server.target) as channel:
        name = _job(job_service_pb2_grpc.JobServiceStub(channel))
        memory, left, waited = list[float](), 0, 0.0
        for _ in range(2):
            for start in range(0, watches, together):
                count = min(together, watches - start)
                with watchers(server, name, count):
                    pass
                left += count
                waited = _until_cancelled(server, left, timeout_s)
            memory.append(server.resident_mib)
        return Abandoned(watches, _cancelled(server) - watches, waited, *memory)


def main() -> None:
    """The watchers' process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("name")
    parser.add_argument("count", type=int)
    options = parser.parse_args()
    asyncio.run(_watch(options.target, options.name, options.count))


if __name__ == "__main__":
    main()
