"""What metrics cost: a scrape of a database of 10,000 jobs, and their share of CreateJob's time.

``python -m tests.bench.observability`` fills a database (see `service_store`) with 10,000 jobs of 20 projects, 200 of
them running and 1,000 models in fleets, and reads the page again and again. Then it times what a CreateJob adds
to metrics (the interceptor's counting, two operations of the store, the committed event) beside the whole call.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
import urllib.request
from pathlib import Path
from statistics import median

import grpc
from diminuendo.v1 import cluster_service_pb2, job_pb2
from sqlalchemy import create_engine, text
from tests.bench.results import command_line, record
from tests.bench.service_calls import CREATE, measure
from tests.bench.service_conductor import Started, conductor
from tests.bench.service_store import fill

from diminuendo.services.conductor import jobs as rules
from diminuendo.services.conductor.metrics import Metrics
from diminuendo.services.conductor.records import Changes, NewJob, Noted
from diminuendo.services.conductor.store.connect import sqlite_url
from diminuendo.services.conductor.store.sql import SqlStore, wall_clock

JOBS, RUNNING, MODELS, EVALUATORS = 10_000, 200, 1000, 1000
SEED = 0


def prepare(folder: Path) -> None:
    """A database of so many jobs, with running ones and fleets among them, and a coordinator of many evaluators."""
    fill(folder, count=JOBS, known=1000, trials=10, seed=SEED)
    url = sqlite_url(str(folder / "diminuendo.db"))
    engine = create_engine(url)
    best = job_pb2.Candidate(params_ratio=4.0, macs_ratio=3.0, drop=0.5)
    progress = job_pb2.JobProgress(stage=job_pb2.STAGE_ANNEAL, steps=40, best=best).SerializeToString()
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE jobs SET state = 'RUNNING', progress = :progress WHERE id % :every = 0"),
            {"progress": progress, "every": JOBS // RUNNING},
        )
        connection.execute(
            text("UPDATE jobs SET fleet = 'projects/p/fleets/f' || (id % 20), model = 'm' || id WHERE id <= :models"),
            {"models": MODELS},
        )
        for i in range(20):
            connection.execute(
                text("INSERT INTO fleets (name, project, labels, create_time) VALUES (:name, 'p', '{}', 0)"),
                {"name": f"projects/p/fleets/f{i}"},
            )
    engine.dispose()
    evaluators = [
        job_pb2.EvaluatorStatus(evaluator=f"evaluator-{i}", state=job_pb2.EVALUATOR_STATE_BUSY, work="conv1", gpus=1)
        for i in range(EVALUATORS)
    ]
    body = cluster_service_pb2.Coordinator(name="c", evaluators=evaluators).SerializeToString()

    async def report() -> None:
        store = await asyncio.to_thread(SqlStore.open, url, clock=lambda: wall_clock() + 3_600_000_000)
        await store.report_coordinator("c", body)
        await store.close()

    asyncio.run(report())


def scrapes(server: Started, count: int) -> tuple[list[float], float, int]:
    """Milliseconds of each of some scrapes after the first two, as their reader sees them and of the conductor's
    processor alone; and bytes of the last one.

    Where others have the machine's processors too, the latter is what a scrape takes by itself.
    """
    times, size, used = list[float](), 0, 0.0
    for number in range(count + 2):
        start = time.perf_counter()
        with urllib.request.urlopen(f"http://{server.http}/metrics", timeout=10) as page:
            size = len(page.read())
        if number > 1:
            times.append(1000 * (time.perf_counter() - start))
        else:
            used = sum(server.process.cpu_times()[:2])
    return times, 1000 * (sum(server.process.cpu_times()[:2]) - used) / count, size


def counting_us(rounds: int) -> float:
    """Microseconds that metrics take of one CreateJob."""
    metrics = Metrics(wall_clock)
    new = NewJob(name="projects/p/jobs/a", project="p", spec=job_pb2.JobSpec(zoo="digits", delta=1.0), labels={})
    draft = rules.create(new, wall_clock())
    start = time.process_time()  # others may have the processor meanwhile
    for _ in range(rounds):
        metrics.began("CreateJob")
        metrics.committed(Changes(noted=(Noted(draft.job, tuple(draft.events)),)))
        metrics.time_store("write", 0.001)
        metrics.count_rpc("CreateJob", grpc.StatusCode.OK, 0.001)
    return 1e6 * (time.process_time() - start) / rounds


def main() -> None:
    """Measure, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scrapes", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=5.0)
    args = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="diminuendo-observability-") as name:
        folder = Path(name)
        prepare(folder / "data")
        with conductor(folder) as server:
            times, cpu_ms, size = scrapes(server, args.scrapes)
        with conductor(folder / "empty") as server:
            created = measure(server, CREATE, [], seconds=args.seconds, warm_s=1.0)
    own_us = counting_us(20_000)
    figures = {
        "scrape_median_ms": median(times),
        "scrape_max_ms": max(times),
        "scrape_min_ms": min(times),
        "scrape_cpu_ms": cpu_ms,
        "page_bytes": size,
        "jobs": JOBS,
        "create_job_p50_ms": created.p50_ms,
        "create_job_per_s": created.per_s,
        "create_job_cpu_us": 1e6 * created.server_cpu / created.per_s,
        "metrics_of_a_create_job_us": own_us,
        "share_of_latency": own_us / (1000 * created.p50_ms),
        "share_of_processor": own_us * created.per_s / 1e6 / created.server_cpu,
    }
    record("observability", figures, command=command_line("tests.bench.observability"), seed=SEED, load_before=load)
    for key, value in figures.items():
        print(f"{key}: {value:.4g}")


if __name__ == "__main__":
    main()
