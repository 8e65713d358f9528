"""What coordinators' reports cost the conductor's writer: `python -m tests.bench.reports`.

So many coordinators of 8 evaluators each report every half second, as they do when works are short. Told are the share
of the writer thread's time that goes into it, and how long it takes to create jobs beside it and without.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

from diminuendo.v1 import cluster_service_pb2, job_pb2
from tests.bench.results import RESULTS, command_line, record
from tests.postgres import Postgres

from diminuendo.services.conductor.records import NewJob
from diminuendo.services.conductor.store.sql import SqlStore

EVERY_S = 0.5
EVALUATORS = 8
_JOB = job_pb2.JobSpec(zoo="digits", delta=1.0)


def body(name: str) -> bytes:
    """What one coordinator tells."""
    busy = job_pb2.EVALUATOR_STATE_BUSY
    evaluators = [
        job_pb2.EvaluatorStatus(
            evaluator=f"evaluator-{i}",
            work="move 31.7x",
            state=busy,
            job="projects/default/jobs/a-name",
            kind="evaluate",
            index=i,
            attempt=1,
            node=f"node-{i}",
            cpus=1.0,
        )
        for i in range(EVALUATORS)
    ]
    nodes = [cluster_service_pb2.ClusterNode(name=f"node-{i}", alive=True, cpus=8.0) for i in range(EVALUATORS)]
    return cluster_service_pb2.Coordinator(name=name, evaluators=evaluators, nodes=nodes).SerializeToString()


class Busy:
    """Counts how long a store's writer works."""

    def __init__(self, store: SqlStore) -> None:
        self.seconds = 0.0
        commit = store._writer._commit

        def timed(*together: Any) -> Any:
            start = time.perf_counter()
            try:
                return commit(*together)
            finally:
                self.seconds += time.perf_counter() - start

        store._writer._commit = timed  # type: ignore[assignment,method-assign]


async def measure(url: str, *, coordinators: int, seconds: float) -> dict[str, float]:
    """Figures of one database.

    Returns:
        ``writer_share``: of the writer's time; ``report_ms`` and ``worst_report_ms``; ``create_ms_alone`` and
        ``create_ms_beside``: the mean time to create a job, without reports and beside them.
    """
    store = await asyncio.to_thread(SqlStore.open, url)
    alone = await _created(store, "alone", seconds / 2)
    busy, took = Busy(store), list[float]()

    async def reporting(number: int) -> None:
        told, until = body(f"coordinator-{number}"), time.monotonic() + seconds
        await asyncio.sleep(EVERY_S * number / coordinators)
        while time.monotonic() < until:
            start = time.perf_counter()
            await store.report_coordinator(f"coordinator-{number}", told)
            took.append(time.perf_counter() - start)
            await asyncio.sleep(EVERY_S - (time.perf_counter() - start))

    start = time.perf_counter()
    await asyncio.gather(*(reporting(number) for number in range(coordinators)))
    share = busy.seconds / (time.perf_counter() - start)
    reports = [asyncio.create_task(reporting(number)) for number in range(coordinators)]
    beside = await _created(store, "beside", seconds / 2)
    await asyncio.gather(*reports)
    await store.close()
    return {
        "reports": len(took),
        "writer_share": share,
        "report_ms": 1e3 * sum(took) / len(took),
        "worst_report_ms": 1e3 * max(took),
        "create_ms_alone": 1e3 * alone,
        "create_ms_beside": 1e3 * beside,
    }


async def _created(store: SqlStore, name: str, seconds: float) -> float:
    """Mean seconds to create a job, one after the other."""
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        await store.create_job(NewJob(name=f"projects/p/jobs/{name}-{count}", project="p", spec=_JOB, labels={}))
        count += 1
    return (time.perf_counter() - start) / count


def main(arguments: list[str] | None = None) -> None:
    """Measure both databases, tell, and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coordinators", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    asked: dict[str, Any] = {"coordinators": given.coordinators, "seconds": given.seconds}
    with tempfile.TemporaryDirectory(prefix="diminuendo-reports-", dir=".") as folder:  # a disk, where /tmp is memory
        figures = {"sqlite": asyncio.run(measure(f"sqlite:///{Path(folder) / 'store.db'}", **asked))}
    server = Postgres()
    try:
        with server.database() as url:
            figures["postgresql"] = asyncio.run(measure(url, **asked))
    finally:
        server.close()
    for database, found in figures.items():
        print(database, ", ".join(f"{name} {value:.3g}" for name, value in found.items()))
    record(
        "reports", figures, command=command_line("tests.bench.reports", arguments), seed=0, folder=given.out, **asked
    )


if __name__ == "__main__":
    main()
