"""What the conductor counts and measures, in a registry of its own. Base units, unit in the name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import grpc
from diminuendo.v1 import job_pb2
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from diminuendo.services.common.errors import StoreUnavailableError
from diminuendo.services.conductor.records import Listing, State
from diminuendo.services.conductor.store.base import HELD, Clock, Store

MAX_JOBS = 100
"""Running jobs that have series of their own, newest first: the number of series stays bounded."""
RPC_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
EVALUATION_BUCKETS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 10800.0)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Evaluators of one coordinator as it last told, and until when that is believed."""

    busy: int
    idle: int
    until: int


class Metrics:
    """All of the conductor's metrics. Belongs to one event loop."""

    def __init__(self, clock: Clock) -> None:
        """Fresh, all at zero."""
        self._clock = clock
        self._clusters: dict[str, Cluster] = {}
        self._rpc_series: dict[tuple[str, grpc.StatusCode], tuple[Counter, Histogram]] = {}
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.store_up = Gauge(
            "diminuendo_store_up", "1 when the database could be read for this page.", registry=registry
        )
        self.jobs = Gauge("diminuendo_jobs", "Jobs in the database, by state.", ["state"], registry=registry)
        self.evaluations = Counter(
            "diminuendo_evaluations",
            "Works that came back, by kind and by outcome: done, remembered, diverged.",
            ["kind", "outcome"],
            registry=registry,
        )
        self.evaluation_seconds = Histogram(
            "diminuendo_evaluation_seconds",
            "Wall-clock time of a work on its evaluator.",
            ["kind"],
            buckets=EVALUATION_BUCKETS,
            registry=registry,
        )
        self.evaluators = Gauge(
            "diminuendo_evaluators", "Evaluators of the coordinators heard of.", ["state"], registry=registry
        )
        self.steps = Counter("diminuendo_steps_committed", "Steps of searches that were committed.", registry=registry)
        self.best_ratio = Gauge(
            "diminuendo_best_params_ratio",
            f"Best candidate inside delta of each running job ({MAX_JOBS} newest): params ratio.",
            ["job"],
            registry=registry,
        )
        self.best_drop = Gauge(
            "diminuendo_best_drop_points",
            f"Best candidate inside delta of each running job ({MAX_JOBS} newest): drop of the metric.",
            ["job"],
            registry=registry,
        )
        self.attempts_lost = Counter(
            "diminuendo_attempts_lost", "Attempts that came to nothing, by cause.", ["cause"], registry=registry
        )
        self.artifacts_removed = Counter(
            "diminuendo_artifacts_removed", "Content that was removed because no job refers to it.", registry=registry
        )
        self.artifacts_removed_bytes = Counter(
            "diminuendo_artifacts_removed_bytes", "Bytes of the content that was removed.", registry=registry
        )
        self.evaluations_removed = Counter(
            "diminuendo_evaluations_removed", "Outcomes forgotten because no job has reported them.", registry=registry
        )
        self.artifacts = Gauge(
            "diminuendo_artifacts",
            "Content in the artifact store as last gone through: kept for a job, or waiting to be removed.",
            ["state"],
            registry=registry,
        )
        self.artifacts_bytes = Gauge(
            "diminuendo_artifacts_bytes", "Bytes of that content.", ["state"], registry=registry
        )
        self.rpcs = Counter(
            "diminuendo_rpc", "Calls that ended, by method and gRPC code.", ["method", "code"], registry=registry
        )
        self.rpc_seconds = Histogram(
            "diminuendo_rpc_seconds",
            "Time from a call's arrival to its end.",
            ["method"],
            buckets=RPC_BUCKETS,
            registry=registry,
        )

    def count_rpc(self, method: str, code: grpc.StatusCode, seconds: float) -> None:
        """A call has ended."""
        series = self._rpc_series.get((method, code))
        if series is None:
            series = self.rpcs.labels(method, code.name), self.rpc_seconds.labels(method)
            self._rpc_series[method, code] = series
        ended, took = series
        ended.inc()
        took.observe(seconds)

    def count_evaluation(self, evaluation: job_pb2.EvaluationFinished) -> None:
        """One work came back."""
        outcome = "done"
        if evaluation.remembered:
            outcome = "remembered"
        elif evaluation.kind == "evaluate" and not evaluation.HasField("candidate"):
            outcome = "diverged"
        self.evaluations.labels(evaluation.kind, outcome).inc()
        if not evaluation.remembered:
            self.evaluation_seconds.labels(evaluation.kind).observe(evaluation.seconds)

    def heard_of(self, coordinator: str, *, busy: int, idle: int, for_us: int) -> None:
        """A coordinator told what its evaluators do."""
        self._clusters[coordinator] = Cluster(busy, idle, self._clock() + for_us)

    async def page(self, store: Store) -> bytes:
        """The metrics in Prometheus' text format; those of the database are read for it."""
        fill = await self._read(store)
        # From here on nothing waits, so that two pages made at the same time do not mix.
        for gauge in (self.jobs, self.best_ratio, self.best_drop):
            gauge.clear()
        fill()
        self._fill_evaluators()
        return generate_latest(self.registry)

    async def _read(self, store: Store) -> Callable[[], None]:
        try:
            counts = await store.count_jobs()
            running = await store.list_jobs(Listing(states=frozenset(HELD), limit=MAX_JOBS))
        except StoreUnavailableError:
            return lambda: self.store_up.set(0)

        def fill() -> None:
            self.store_up.set(1)
            for state in State:
                self.jobs.labels(state.name.lower()).set(counts.get(state, 0))
            for job in running:
                if job.progress is not None and job.progress.HasField("best"):
                    self.best_ratio.labels(job.name).set(job.progress.best.params_ratio)
                    self.best_drop.labels(job.name).set(job.progress.best.drop)

        return fill

    def _fill_evaluators(self) -> None:
        now = self._clock()
        self._clusters = {name: cluster for name, cluster in self._clusters.items() if cluster.until > now}
        self.evaluators.labels("busy").set(sum(cluster.busy for cluster in self._clusters.values()))
        self.evaluators.labels("idle").set(sum(cluster.idle for cluster in self._clusters.values()))
