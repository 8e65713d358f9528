"""How many calls a second a conductor answers, and how fast: CreateJob and GetJob, on SQLite and on PostgreSQL.

The clients are 16 connections of one process of their own, each of which calls again as soon as it was answered. Their
requests are serialized ahead of the clock and answers are not parsed, so that they take as little as they can of the
processors that the conductor shares with them.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
from diminuendo.v1 import job_pb2, job_service_pb2
from tests.bench.service_conductor import Started, conductor

CLIENTS = 16
CREATE, GET = "CreateJob", "GetJob"
_SERVICE = "/diminuendo.v1.JobService/"
_OWN = (("grpc.use_local_subchannel_pool", 1),)
"""A connection of its own for each channel."""


@dataclass(frozen=True)
class Calls:
    """What the clients saw of one method.

    Attributes:
        per_s: Calls answered a second, by all clients together.
        p50_ms: Median time from a call to its answer.
        p99_ms: Of 100 calls, 99 were answered within.
        calls: How many were made within the time.
        client_cpu: Share of a core that the clients' process took meanwhile.
        server_cpu: Share of a core that the conductor took meanwhile.
    """

    per_s: float
    p50_ms: float
    p99_ms: float
    calls: int
    client_cpu: float
    server_cpu: float


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-len(ordered) * share // 1) - 1))]


def requests(method: str, client: int, names: Sequence[str]) -> Iterator[bytes]:
    """Serialized requests without end: each CreateJob with a request id of its own, GetJob of the names in turn."""
    if method == GET:
        bodies = [job_service_pb2.GetJobRequest(name=name).SerializeToString() for name in names]
        yield from itertools.cycle(bodies)
    spec = job_pb2.JobSpec(zoo="digits", delta=1.0, effort=job_pb2.EFFORT_QUICK)
    job = job_pb2.Job(spec=spec, labels={"team": "vision"})
    run = time.time_ns()
    for number in itertools.count():
        yield job_service_pb2.CreateJobRequest(
            parent="projects/bench", job=job, request_id=f"{run}-{client}-{number}"
        ).SerializeToString()


async def _call(target: str, pid: int, method: str, names: Sequence[str], seconds: float, warm_s: float) -> Calls:
    times: list[float] = []
    begin = time.perf_counter() + warm_s
    end = begin + seconds

    async def client(number: int) -> None:
        async with grpc.aio.insecure_channel(target, options=_OWN) as channel:
            call: Any = channel.unary_unary(_SERVICE + method)
            prepared = requests(method, number, names)
            while (start := time.perf_counter()) < end:
                await call(next(prepared), timeout=30)
                if start >= begin:
                    times.append(time.perf_counter() - start)

    async def account() -> tuple[float, ...]:
        """Shares of a core: of this process and of the conductor."""
        processes = (psutil.Process(), psutil.Process(pid))
        await asyncio.sleep(warm_s)
        before = [sum(process.cpu_times()[:2]) for process in processes]
        await asyncio.sleep(seconds)
        return tuple((sum(p.cpu_times()[:2]) - used) / seconds for p, used in zip(processes, before, strict=True))

    async with asyncio.TaskGroup() as group:
        accounts = group.create_task(account())
        for number in range(CLIENTS):
            group.create_task(client(number))
    p50, p99 = (1000 * percentile(times, share) for share in (0.5, 0.99))
    return Calls(len(times) / seconds, p50, p99, len(times), *accounts.result())


def measure(server: Started, method: str, names: Sequence[str], *, seconds: float, warm_s: float) -> Calls:
    """Have a process of its own call a conductor's method for so long, after a warm-up."""
    command = [sys.executable, "-m", "tests.bench.service_calls", server.target, str(server.process.pid), method]
    command += ["--seconds", str(seconds), "--warm", str(warm_s)]
    done = subprocess.run(command, input=json.dumps(list(names)), stdout=subprocess.PIPE, text=True, check=True)
    return Calls(**json.loads(done.stdout))


async def _names(target: str, count: int) -> list[str]:
    """Names of so many of a conductor's jobs."""
    async with grpc.aio.insecure_channel(target, options=_OWN) as channel:
        listed: Any = channel.unary_unary(
            _SERVICE + "ListJobs",
            request_serializer=job_service_pb2.ListJobsRequest.SerializeToString,
            response_deserializer=job_service_pb2.ListJobsResponse.FromString,
        )
        found = await listed(job_service_pb2.ListJobsRequest(parent="projects/bench", page_size=count), timeout=30)
        return [job.name for job in found.jobs]


def both(folder: Path, *, database: str = "", seconds: float, warm_s: float) -> dict[str, Calls]:
    """CreateJob and then GetJob on a conductor of their own, by method."""
    with conductor(folder, database=database) as server:
        created = measure(server, CREATE, [], seconds=seconds, warm_s=warm_s)
        names = asyncio.run(_names(server.target, 500))
        return {CREATE: created, GET: measure(server, GET, names, seconds=seconds, warm_s=warm_s)}


def main() -> None:
    """The clients' process: call, and print what they saw as JSON. Names come on stdin."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("pid", type=int)
    parser.add_argument("method", choices=[CREATE, GET])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--warm", type=float, default=1.0)
    options = parser.parse_args()
    calls = _call(options.target, options.pid, options.method, json.load(sys.stdin), options.seconds, options.warm)
    print(json.dumps(asdict(asyncio.run(calls))))


if __name__ == "__main__":
    main()
