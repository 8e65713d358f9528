"""What the database tells of jobs, evaluators and fleets, as families of metrics. Pure.

Every conductor of one database tells the same here. What has a series for each job is bounded: the newest ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from diminuendo.v1 import cluster_service_pb2, job_pb2
from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric

from diminuendo.services.common.spec import source_of
from diminuendo.services.conductor.figures import MAX_FLEETS, MAX_JOBS, Figures, FleetFigures
from diminuendo.services.conductor.records import Job, State, StoredCoordinator

MAX_PROJECTS, OTHERS = 50, "_others"
"""Projects with series of their own, those with most jobs, and what stands for all others: no project's name."""
SECOND_US = 1_000_000
_EVALUATOR_STATES = {
    job_pb2.EVALUATOR_STATE_STARTING: "starting",
    job_pb2.EVALUATOR_STATE_IDLE: "idle",
    job_pb2.EVALUATOR_STATE_BUSY: "busy",
    job_pb2.EVALUATOR_STATE_LOST: "lost",
}


def families(figures: Figures | None, fleets: Sequence[FleetFigures]) -> list[Metric]:
    """All of it; only that the database is away, where there are no figures."""
    up = GaugeMetricFamily("diminuendo_store_up", "1 when the database could be read for this page.")
    up.add_metric([], 0 if figures is None else 1)
    if figures is None:
        return [up]
    return [
        up,
        _jobs(figures),
        *_waiting(figures),
        *_running(figures.held),
        *_results(figures.finished),
        *_evaluators(figures.coordinators),
        *_fleets(fleets),
    ]


def _jobs(figures: Figures) -> Metric:
    family = GaugeMetricFamily(
        "diminuendo_jobs",
        f"Jobs in the database, by state and project ({MAX_PROJECTS} with most jobs; {OTHERS}: all others).",
        labels=["project", "state"],
    )
    totals: dict[str, int] = defaultdict(int)
    for (project, _), count in figures.jobs.items():
        totals[project] += count
    own = set(sorted(totals, key=lambda project: (-totals[project], project))[:MAX_PROJECTS])
    shown: dict[str, dict[State, int]] = {}
    for (project, state), count in figures.jobs.items():
        states = shown.setdefault(project if project in own else OTHERS, dict.fromkeys(State, 0))
        states[state] += count
    for project, states in sorted(shown.items()):
        for state, count in states.items():
            family.add_metric([project, state.name.lower()], count)
    return family


def _waiting(figures: Figures) -> list[Metric]:
    queue = GaugeMetricFamily(
        "diminuendo_queue_oldest_timestamp_seconds",
        "Since when the job waits that has waited longest for a coordinator; absent when none waits.",
    )
    quiet = GaugeMetricFamily(
        "diminuendo_jobs_quietest_timestamp_seconds",
        "When the running job changed last that has changed least recently; absent when none runs.",
    )
    for family, time in ((queue, figures.queued_since), (quiet, figures.quiet_since)):
        if time is not None:
            family.add_metric([], time / SECOND_US)
    return [queue, quiet]


class _PerJob:
    """Families with a series for each of some jobs."""

    def __init__(self, which: str) -> None:
        self._which = which
        self.families: list[Metric] = []

    def gauge(self, name: str, text: str, labels: Sequence[str] = ("job_name",)) -> GaugeMetricFamily:
        """One more family."""
        family = GaugeMetricFamily(name, f"{text} ({self._which})", labels=labels)
        self.families.append(family)
        return family


def _running(held: Sequence[Job]) -> list[Metric]:
    per_job = _PerJob(f"of the {MAX_JOBS} newest jobs in coordinators' hands")
    info = InfoMetricFamily(
        "diminuendo_job",
        f"What the {MAX_JOBS} newest jobs in coordinators' hands are.",
        labels=["job_name", "project", "fleet", "model", "stage"],
    )
    ratio = per_job.gauge("diminuendo_best_params_ratio", "Params ratio of the best candidate inside delta")
    drop = per_job.gauge("diminuendo_best_drop_points", "Drop of the metric of the best candidate inside delta")
    delta = per_job.gauge("diminuendo_delta_points", "The tolerance: the largest drop that is wanted")
    distance = per_job.gauge("diminuendo_delta_distance_points", "Delta less the best candidate's drop")
    steps = per_job.gauge("diminuendo_job_steps", "Steps of the search so far")
    epoch = per_job.gauge("diminuendo_job_lease_epoch", "Leases that the job has had")
    changed = per_job.gauge("diminuendo_job_changed_timestamp_seconds", "When the job changed last")
    for job in held:
        name, progress = job.name, job.progress or job_pb2.JobProgress()
        stage = job_pb2.Stage.Name(progress.stage).removeprefix("STAGE_").lower()
        info.add_metric([name, job.project, _last(job.fleet), model_of(job), stage], {})
        steps.add_metric([name], progress.steps)
        epoch.add_metric([name], job.epoch)
        changed.add_metric([name], job.update_time / SECOND_US)
        if job.spec.HasField("delta"):
            delta.add_metric([name], job.spec.delta)
        if progress.HasField("best"):
            ratio.add_metric([name], progress.best.params_ratio)
            drop.add_metric([name], progress.best.drop)
            if job.spec.HasField("delta"):
                distance.add_metric([name], job.spec.delta - progress.best.drop)
    return [info, *per_job.families]


def _results(finished: Sequence[Job]) -> list[Metric]:
    labels = ("job_name", "project", "model", "inside_delta")
    per_job = _PerJob(f"of the {MAX_JOBS} newest jobs that succeeded")
    ratio = per_job.gauge("diminuendo_result_params_ratio", "Params ratio of the result", labels)
    drop = per_job.gauge("diminuendo_result_drop_points", "Drop of the result on the sealed half", labels)
    for job in finished:
        if job.result is not None:
            values = [job.name, job.project, model_of(job), "true" if job.result.inside_delta else "false"]
            ratio.add_metric(values, job.result.params_ratio)
            drop.add_metric(values, job.result.drop)
    return per_job.families


def model_of(job: Job) -> str:
    """What is compressed, for people: the model's name in its fleet, the zoo's, or the start of the bundle's sha256."""
    kind, _, name = source_of(job.spec).partition(":")
    return job.model or (name[:12] if kind == "bundle" else name)


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _evaluators(stored: Sequence[StoredCoordinator]) -> list[Metric]:
    count = GaugeMetricFamily("diminuendo_evaluators", "Evaluators, by what they do.", labels=["state"])
    gpus = GaugeMetricFamily("diminuendo_evaluator_gpus", "GPUs that evaluators have.", labels=["state"])
    coordinators = GaugeMetricFamily("diminuendo_coordinators", "Coordinators heard of in the last 15 s.", len(stored))
    line = GaugeMetricFamily("diminuendo_works_waiting", "Works of all jobs that wait for an evaluator.")
    evaluators, graphics = (dict.fromkeys(_EVALUATOR_STATES.values(), 0.0) for _ in range(2))
    waiting = 0
    for one in stored:
        coordinator = cluster_service_pb2.Coordinator.FromString(one.body)
        waiting += coordinator.works_waiting
        for evaluator in coordinator.evaluators:
            state = _EVALUATOR_STATES.get(evaluator.state)
            if state is not None:
                evaluators[state] += 1
                graphics[state] += evaluator.gpus
    line.add_metric([], waiting)
    for state in evaluators:
        count.add_metric([state], evaluators[state])
        gpus.add_metric([state], graphics[state])
    return [count, gpus, coordinators, line]


def _fleets(fleets: Sequence[FleetFigures]) -> list[Metric]:
    which = f"of the {MAX_FLEETS} newest fleets"
    models = GaugeMetricFamily(
        "diminuendo_fleet_models",
        f"Models {which}, by what became of their newest job: inside_delta, outside_delta, failed, cancelled, or "
        "unfinished.",
        labels=["fleet", "outcome"],
    )
    params = GaugeMetricFamily(
        "diminuendo_fleet_params",
        f"Params of the models {which} whose result is inside delta: of the original networks, and of the results.",
        labels=["fleet", "network"],
    )
    size = GaugeMetricFamily(
        "diminuendo_fleet_size_bytes", "Bytes of the weights of these.", labels=["fleet", "network"]
    )
    for fleet in fleets:
        for outcome, count in fleet.models.items():
            models.add_metric([fleet.name, outcome], count)
        saved = fleet.saved
        params.add_metric([fleet.name, "original"], saved.original_params)
        params.add_metric([fleet.name, "compressed"], saved.compressed_params)
        size.add_metric([fleet.name, "original"], saved.original_bytes)
        size.add_metric([fleet.name, "compressed"], saved.compressed_bytes)
    return [models, params, size]
