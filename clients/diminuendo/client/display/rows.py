"""Jobs and results as rows of text, for tables on a terminal and in a notebook. What is there is not yet made safe."""

from __future__ import annotations

from diminuendo.client.display import text
from diminuendo.client.types import JobInfo, JobState, Result

JOB_COLUMNS = ("job", "source", "state", "stage", "delta", "params", "drop", "created")
"""Heads of `job_row`."""
NUMBERS = frozenset({"delta", "params", "drop"})
"""Those that are numbers."""
RESULT_COLUMNS = ("", "original", "compressed", "ratio")
"""Heads of `result_rows`."""


def job_row(job: JobInfo) -> tuple[str, ...]:
    """A job among others."""
    stage = job.progress.stage.value if job.progress and not job.state.final else ""
    figures = job.result or (job.progress.best if job.progress else None)
    return (
        job.job_id,
        text.source(job.source),
        job.state.value,
        stage,
        f"{job.delta:g}" if job.delta is not None else text.figures(job.target),
        text.times(figures.params_ratio) if figures else "",
        text.points(figures.drop) if figures else "",
        text.local_time(job.create_time),
    )


def job_fields(job: JobInfo) -> dict[str, str]:
    """All that is known of a job, by name; what is not there is left out."""
    progress, result, failure = job.progress, job.result, job.failure
    target = text.figures(job.target)
    rows = {
        "name": job.name,
        "source": job.source,
        "state": job.state.value,
        "delta": "" if job.delta is None else f"{job.delta:g} points, {job.accept}",
        "target": target,
        "objective": "" if job.target else job.objective,
        "limits": text.figures(job.limits),
        "formats": ", ".join(job.formats),
        "freeze": ", ".join(job.freeze),
        "max ratio": ", ".join(f"{pattern} {most:g}x" for pattern, most in job.max_ratio.items()),
        "multiple": str(job.multiple) if job.multiple != 1 else "",
        "effort": f"{job.effort}, stage {job.stage}, seed {job.seed}",
        "budget": ", ".join(f"{most:g} {kind}" for kind, most in job.budget.items()),
        "parallel": "" if job.parallel is None else f"{job.parallel} evaluations at a time",
        "labels": ", ".join(f"{key}={value}" for key, value in sorted(job.labels.items())),
        "priority": str(job.priority) if job.priority else "",
        "retry of": job.retry_of,
        "exports": ", ".join(job.exports),
        "deadline": text.local_time(job.deadline),
        "created": text.local_time(job.create_time),
        "started": text.local_time(job.start_time),
        "ended": text.local_time(job.end_time),
        "progress": f"{progress.stage.value}, {progress.works_done} of {progress.works_expected} works"
        if progress
        else "",
        "best": text.best_line(progress.best, job.delta, target) if progress and not job.state.final else "",
        "result": outcome(job) if result else "",
        "failure": f"{failure.reason}: {failure.message}" if failure else "",
        "traceback": failure.traceback if failure else "",
    }
    return {name: value for name, value in rows.items() if value}


def outcome(info: JobInfo) -> str:
    """How the job ended, in one line."""
    if info.state is JobState.SUCCEEDED and info.result is not None:
        result = info.result
        figures = f"{text.times(result.params_ratio)} fewer params, {text.times(result.macs_ratio)} fewer MACs"
        if info.objective not in ("params", "macs"):
            figures += f", {text.times(result.objective_ratio)} less {info.objective}"
        allowed = "" if info.delta is None else f" of {info.delta:g}"
        wanted = text.figures(info.target) or "delta"
        verdict = f"inside {wanted}" if result.inside_delta else f"nothing inside {wanted}; the nearest"
        return f"{verdict}: {figures}, drop {text.points(result.drop)}{allowed}"
    if info.state is JobState.FAILED and info.failure is not None:
        return f"{info.name} failed ({info.failure.reason}): {text.one_line(info.failure.message)}"
    return f"{info.name} is {info.state.value}"


def result_rows(result: Result) -> list[tuple[str, ...]]:
    """Original against compressed, figure by figure; ratios alone where a coordinator told no more."""
    old, new = result.original, result.compressed
    interval = (
        "" if result.drop_ci is None else f" ({text.points(result.drop_ci[0])} to {text.points(result.drop_ci[1])})"
    )
    drop = f"drop {text.points(result.drop)}{interval}"
    if old is None or new is None:
        return [
            ("params", "", "", text.times(result.params_ratio)),
            ("MACs", "", "", text.times(result.macs_ratio)),
            ("metric", "", "", drop),
        ]
    rows = [
        ("params", f"{old.params:,}", f"{new.params:,}", text.times(result.params_ratio)),
        ("MACs", f"{old.macs:,}", f"{new.macs:,}", text.times(result.macs_ratio)),
        ("size", f"{old.size_mb:.3f} MB", f"{new.size_mb:.3f} MB", _ratio(old.size_bytes, new.size_bytes)),
        (
            "memory",
            f"{old.memory_bytes / 2**20:.3f} MB",
            f"{new.memory_bytes / 2**20:.3f} MB",
            _ratio(old.memory_bytes, new.memory_bytes),
        ),
    ]
    if old.time_ms and new.time_ms:
        rows.append(("time", f"{old.time_ms:.3f} ms", f"{new.time_ms:.3f} ms", _ratio(old.time_ms, new.time_ms)))
    return [(f"{result.metric}, sealed half", text.points(old.score), text.points(new.score), drop), *rows]


def _ratio(old: float, new: float) -> str:
    return text.times(old / new) if new else ""
