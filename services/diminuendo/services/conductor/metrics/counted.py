"""What this conductor counts, in a registry of its own, and the page that shows it. Base units, unit in the name.

What happens to jobs is counted from the events that this conductor stored: each is stored once, by one conductor, so
that sums over conductors are right, and a report that comes again counts once. Counters start at 0 with the process,
as Prometheus expects.
"""

from __future__ import annotations

import asyncio
from collections import Counter as TallyCounter
from collections.abc import Iterable
from dataclasses import dataclass

import grpc
from diminuendo.v1 import job_pb2
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from diminuendo.services.common import tracing
from diminuendo.services.common.errors import StoreUnavailableError
from diminuendo.services.conductor.figures import Figures, FleetFigures, FleetResult
from diminuendo.services.conductor.metrics import told
from diminuendo.services.conductor.metrics.host import Host
from diminuendo.services.conductor.metrics.page import Page
from diminuendo.services.conductor.records import Changes, Job, State
from diminuendo.services.conductor.servicers.cluster_service import HEARD_US
from diminuendo.services.conductor.store.base import Clock, Store

RPC_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
WAITING_BUCKETS = (0.1, 1.0, 5.0, 20.0, 60.0, 300.0, 1800.0, 3600.0)
STORE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
QUEUE_BUCKETS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0)
EVALUATION_BUCKETS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 10800.0)
WAITING_METHODS = frozenset({"LeaseJob", "WaitJob"})
"""Unary calls that wait for something to happen, as streams do: how long they take says nothing of the conductor."""
STREAMS = ("ReadArtifact", "WatchFleet", "WatchJob")
"""Calls whose answer is a stream."""
MAX_VALUES, OTHER = 20, "OTHER"
"""Different values of a label that coordinators choose, and what stands for all further ones."""
KINDS = ("prepare", "survey", "evaluate", "judge", "export")
CAUSES = ("EVALUATOR_LOST", "OUT_OF_MEMORY", "GPU_OUT_OF_MEMORY", "TIMEOUT")
REASONS = (*CAUSES, "USER_CODE", "ARTIFACT_MISSING", "INTERNAL")
"""Values of the labels that are known beforehand. Their series are there from the start: the first of something that
happens would not be an increase of a series that begins with it.
"""
FLEETS_US = 15_000_000
"""How old the figures of fleets may be of which no change was told."""
SECOND_US = 1_000_000

disable_created_metrics()  # type: ignore[no-untyped-call]  # each counter would have a second series, with the time of its making


@dataclass(frozen=True, slots=True)
class _Rpc:
    """The series of a method."""

    ended: dict[grpc.StatusCode, Counter]
    took: Histogram


class _Bounded:
    """Values of a label that others choose: the first ones as they are."""

    def __init__(self, known: Iterable[str]) -> None:
        self._seen = set(known)

    def of(self, value: str) -> str:
        """The value, or what stands for it."""
        if value not in self._seen:
            if len(self._seen) >= MAX_VALUES:
                return OTHER
            self._seen.add(value)
        return value


class Metrics:
    """All of the conductor's metrics. Counting is safe from any thread; pages belong to one event loop."""

    def __init__(self, clock: Clock, host: Host | None = None) -> None:
        """Fresh, all at zero; with the figures of a host, if one is given."""
        self._clock, self._host = clock, host
        self._rpc: dict[str, _Rpc] = {}
        self._under_way = TallyCounter[str]()
        self._kinds, self._causes, self._reasons = _Bounded(KINDS), _Bounded(CAUSES), _Bounded(REASONS)
        self._fleets = _Fleets(clock)
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._count_calls(registry)
        self._count_jobs(registry)
        self._count_works(registry)
        self._count_content(registry)

    def _count_calls(self, registry: CollectorRegistry) -> None:
        self.rpcs = Counter(
            "diminuendo_rpc", "Calls that ended, by method and gRPC code.", ["method", "code"], registry=registry
        )
        self.rpc_seconds = Histogram(
            "diminuendo_rpc_seconds",
            "Time from a call's arrival to its end, of calls that do not wait for anything to happen.",
            ["method"],
            buckets=RPC_BUCKETS,
            registry=registry,
        )
        self.rpc_waiting_seconds = Histogram(
            "diminuendo_rpc_waiting_seconds",
            "Time from a call's arrival to its end, of streams and of calls that wait for something to happen.",
            ["method"],
            buckets=WAITING_BUCKETS,
            registry=registry,
        )
        for method in (*STREAMS, *WAITING_METHODS):
            self.rpc_waiting_seconds.labels(method)
        self.store_seconds = Histogram(
            "diminuendo_store_seconds",
            "Time from asking the database to its answer, the wait for its turn included; by kind of operation.",
            ["operation"],
            buckets=STORE_BUCKETS,
            registry=registry,
        )
        self._store_series = {name: self.store_seconds.labels(name) for name in ("read", "write")}

    def _count_jobs(self, registry: CollectorRegistry) -> None:
        self.jobs_created = Counter("diminuendo_jobs_created", "Jobs that were created.", registry=registry)
        self.jobs_ended = Counter(
            "diminuendo_jobs_ended",
            "Jobs that ended, by outcome (inside_delta, outside_delta, failed, cancelled) and, of failures, by reason.",
            ["outcome", "reason"],
            registry=registry,
        )
        for outcome in ("inside_delta", "outside_delta", "cancelled"):
            self.jobs_ended.labels(outcome, "")
        for reason in REASONS:
            self.jobs_ended.labels("failed", reason)
        self.ratio_points = Counter(
            "diminuendo_result_ratio_points",
            "Params ratios, less 1 each, of results inside delta: what the evaluators' time was spent for.",
            registry=registry,
        )
        self.queue_wait = Histogram(
            "diminuendo_queue_wait_seconds",
            "Time from a job's creation to its first lease.",
            buckets=QUEUE_BUCKETS,
            registry=registry,
        )
        self.leases = Counter(
            "diminuendo_leases",
            "Leases given, each with the job's next epoch: first ones, ones of jobs that were queued again, and ones "
            "taken over from a coordinator that was gone.",
            ["kind"],
            registry=registry,
        )
        for kind in ("first", "again", "taken_over"):
            self.leases.labels(kind)
        self.steps = Counter("diminuendo_steps_committed", "Steps of searches that were committed.", registry=registry)

    def _count_works(self, registry: CollectorRegistry) -> None:
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
        for kind in KINDS:
            self.evaluation_seconds.labels(kind)
            for outcome in ("done", "remembered", *(("diverged",) if kind == "evaluate" else ())):
                self.evaluations.labels(kind, outcome)
        self.samples = Counter(
            "diminuendo_samples", "Samples that candidates were tuned on, each time counted.", registry=registry
        )
        self.attempts_lost = Counter(
            "diminuendo_attempts_lost", "Attempts that came to nothing, by cause.", ["cause"], registry=registry
        )
        for cause in CAUSES:
            self.attempts_lost.labels(cause)

    def _count_content(self, registry: CollectorRegistry) -> None:
        self.content_bytes = Counter(
            "diminuendo_artifact_transfer_bytes",
            "Bytes of content that clients sent (in) and fetched (out) through this conductor.",
            ["direction"],
            registry=registry,
        )
        self.bytes_in, self.bytes_out = (self.content_bytes.labels(direction) for direction in ("in", "out"))
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

    # --- calls and the database ----------------------------------------------------------------------------

    def began(self, method: str) -> None:
        """A call has come; `count_rpc` is to follow. From the pages' event loop only."""
        self._under_way[method] += 1

    def count_rpc(self, method: str, code: grpc.StatusCode, seconds: float, *, streams: bool = False) -> None:
        """A call that `began` has ended.

        Args:
            streams: Its answer is a stream.
        """
        series = self._rpc.get(method)
        if series is None:
            took = self.rpc_waiting_seconds if streams or method in WAITING_METHODS else self.rpc_seconds
            series = self._rpc[method] = _Rpc({}, took.labels(method))
        ended = series.ended.get(code)
        if ended is None:
            ended = series.ended[code] = self.rpcs.labels(method, code.name)
        ended.inc()
        self._under_way[method] -= 1
        series.took.observe(seconds, tracing.exemplar())

    def time_store(self, operation: str, seconds: float) -> None:
        """An operation on the database, ``read`` or ``write``, has ended."""
        self._store_series[operation].observe(seconds)

    # --- what happens to jobs ------------------------------------------------------------------------------

    def committed(self, changes: Changes) -> None:
        """Count the events that this conductor has stored; any conductor's changes of fleets are to be read."""
        if changes.models or changes.everything:
            self._fleets.changed = True
        for noted in changes.noted:
            for event in noted.events:
                kind = event.WhichOneof("kind")
                if kind == "evaluation_finished":
                    self._count_evaluation(noted.job, event.evaluation_finished)
                elif kind == "attempt_lost":
                    self.attempts_lost.labels(self._causes.of(event.attempt_lost.cause)).inc()
                elif kind == "step_committed":
                    self.steps.inc()
                elif kind == "leased":
                    self._count_lease(noted.job, queued=len(noted.events) > 1)
                elif kind == "state_changed":
                    self._count_state(noted.job, event)

    def _count_evaluation(self, job: Job, evaluation: job_pb2.EvaluationFinished) -> None:
        kind, outcome = self._kinds.of(evaluation.kind), "done"
        if evaluation.remembered:
            outcome = "remembered"
        elif evaluation.kind == "evaluate" and not evaluation.HasField("candidate"):
            outcome = "diverged"
        self.evaluations.labels(kind, outcome).inc()
        if not evaluation.remembered:
            traced = tracing.exemplar(tracing.evaluation_trace_id(job.name, job.epoch, evaluation.index))
            self.evaluation_seconds.labels(kind).observe(evaluation.seconds, traced)
            self.samples.inc(evaluation.samples)

    def _count_lease(self, job: Job, *, queued: bool) -> None:
        """Count a lease; one of a job that was not queued before it was taken over."""
        if job.epoch == 1 and job.start_time is not None:
            self.queue_wait.observe((job.start_time - job.create_time) / SECOND_US)
        self.leases.labels("taken_over" if not queued else "first" if job.epoch == 1 else "again").inc()

    def _count_state(self, job: Job, event: job_pb2.JobEvent) -> None:
        match State(event.state_changed.state):
            case State.QUEUED if event.sequence == 1:
                self.jobs_created.inc()
            case State.CANCELLED:
                self.jobs_ended.labels("cancelled", "").inc()
            case State.FAILED:
                reason = self._reasons.of(job.failure.reason if job.failure else "")
                self.jobs_ended.labels("failed", reason).inc()
            case State.SUCCEEDED if job.result is not None:
                self.jobs_ended.labels("inside_delta" if job.result.inside_delta else "outside_delta", "").inc()
                if job.result.inside_delta:
                    self.ratio_points.inc(max(0.0, job.result.params_ratio - 1.0))
            case _:
                pass

    # --- pages ---------------------------------------------------------------------------------------------

    async def page(self, store: Store) -> Page:
        """The metrics of this moment; those of the database and of the host are read for it."""
        figures = await _figures(store, self._clock())
        self._fleets.refresh(store)
        families = [*told.families(figures, self._fleets.known), self._calls_under_way()]
        if self._host is not None:
            families += await asyncio.to_thread(self._host.families)
        return Page(self.registry, families)

    def _calls_under_way(self) -> Metric:
        family = GaugeMetricFamily("diminuendo_rpcs_under_way", "Calls under way.", labels=["method"])
        for method, calls in self._under_way.items():
            family.add_metric([method], calls)
        return family

    async def settle(self) -> None:
        """Return when nothing is read for the next page any more."""
        await self._fleets.settle()


async def _figures(store: Store, now: int) -> Figures | None:
    """What the database says; None while it is away."""
    try:
        return await store.read_figures(coordinators_since=now - HEARD_US)
    except StoreUnavailableError:
        return None


class _Fleets:
    """Figures of fleets, read beside the pages: no page waits for them."""

    def __init__(self, clock: Clock) -> None:
        self.known: tuple[FleetFigures, ...] = ()
        self.changed = False
        self._clock, self._read_at = clock, -FLEETS_US
        self._results: dict[int, FleetResult] = {}
        self._reading: asyncio.Task[None] | None = None

    def refresh(self, store: Store) -> None:
        """Have them read again where they are old."""
        now = self._clock()
        old = self.changed or now - self._read_at >= FLEETS_US
        if old and (self._reading is None or self._reading.done()):
            self._read_at, self.changed = now, False
            self._reading = asyncio.create_task(self._read(store), name="fleet-figures")

    async def settle(self) -> None:
        """Return when nothing is being read."""
        if self._reading is not None:
            await asyncio.wait({self._reading})

    async def _read(self, store: Store) -> None:
        try:
            self.known, self._results = await store.read_fleet_figures(self._results)
        except StoreUnavailableError:
            self.known = ()
