"""The result folder's files, from what the session knows: plan, profile, certificate; search.json is `record`'s."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from diminuendo.engine.cost import ratio
from diminuendo.engine.plan import PLAN_VERSION, Plan
from diminuendo.engine.search.objective import ObjectiveName
from diminuendo.engine.search.record import record_file
from diminuendo.engine.search.space import Space
from diminuendo.engine.search.state import Request, State, Trial
from diminuendo.engine.search.work import ExportsMade, Judged, Prepared, ProfileSummary, Verdict

NO_EXPORTS = ExportsMade((), 0.0)


@dataclass(frozen=True, slots=True)
class ResultFileContent:
    """A file of the result folder: either its bytes, or the sha256 of content that the store already has."""

    name: str
    content: bytes | None
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Figures:
    """What a network scores on the sealed half, in points, and what it costs."""

    score: float
    profile: ProfileSummary


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a session that found a model.

    Attributes:
        inside_delta: Whether all that was asked for is kept: the drop is inside delta, or the figure is within the
            target that stood in its place, and every limit holds.
        metric: Its name.
        drop_ci: 95 % interval of the drop.
    """

    inside_delta: bool
    drop: float
    params_ratio: float
    macs_ratio: float
    files: tuple[ResultFileContent, ...]
    objective_ratio: float
    metric: str
    original: Figures
    compressed: Figures
    drop_ci: tuple[float, float]


def points(value: float) -> str:
    """Of a metric, for people: two decimals, or two digits where the metric is in small units."""
    if round(value, 2):
        return f"{value:.2f}"
    return f"{value:.2g}" if abs(value) > 1e-6 else "0.00"


def holds(verdict: Verdict, request: Request) -> bool:
    """Whether a verdict is inside delta under the request's accept rule; any is where there is a target instead."""
    if request.delta is None:
        return True
    return (verdict.drop if request.accept == "estimate" else verdict.drop_high) <= request.delta


def broken(profile: ProfileSummary, request: Request) -> tuple[ObjectiveName, ...]:
    """Limits of the request that a network breaks."""
    return tuple(name for name, most in request.limits if figure(profile, name) > most)


def met(profile: ProfileSummary, request: Request) -> bool:
    """Whether a network is within the request's target; true where there is none."""
    return request.target is None or figure(profile, request.target[0]) <= request.target[1]


def figure(profile: ProfileSummary, name: ObjectiveName) -> float:
    """A network's params, MACs, MB, or ms."""
    figures: dict[ObjectiveName, float] = {
        "params": profile.params,
        "macs": profile.macs,
        "size": profile.size_mb,
        "memory": profile.memory_mb,
        "latency": profile.time_ms,
    }
    return figures[name]


def pick(judged: Judged, request: Request) -> int:
    """The finalist to return: the first inside delta, target and all limits, else the one nearest to that.

    Limits come before the drop: they are known of a plan without tuning it. Finalists for a delta come smallest first.
    Those for a target come by their drop on the search half, so that the sealed half has no say in which it is: its
    drop is then that of a network chosen without it.
    """
    excess = [len(broken(profile, request)) + (not met(profile, request)) for profile in judged.profiles]
    order = list(range(len(judged.finalists)))
    if request.target is None:  # of latency the order so far is the table's
        order.sort(key=lambda i: figure(judged.profiles[i], request.objective))
    for index in order:
        if holds(judged.finalists[index], request) and not excess[index]:
            return index
    if request.target is not None:
        return min(order, key=lambda i: (excess[i], i))
    return min(order, key=lambda i: (excess[i], judged.finalists[i].drop, i))


def time_ratio(judged: Judged, index: int) -> float:
    """How many times as fast as the original a finalist is: as timed side by side, where it was."""
    if judged.time_ratios:
        return judged.time_ratios[index]
    return ratio(judged.original_profile.time_ms, judged.profiles[index].time_ms)


def timed_on(state: State) -> list[str]:
    """The machines that the table of latencies was measured on; none where there is no table."""
    return sorted({survey.time.machine for survey in state.surveys if survey.time})


def latency_of(state: State, prepared: Prepared, trial: Trial, judged: Judged, index: int) -> dict[str, object]:
    """What the certificate says of the time: as measured whole, and as the table said before."""
    whole_ns = Space.of(prepared, state.surveys, state.request).total.latency_ns if state.request.goal.timed else 0
    known = whole_ns > 0 and trial.cost.latency_ns > 0
    return {
        "original_ms": judged.original_profile.time_ms,
        "compressed_ms": judged.profiles[index].time_ms,
        "ratio": time_ratio(judged, index),
        "spread": judged.time_spread,
        "machine": judged.machine,
        "predicted_ratio": ratio(whole_ns, trial.cost.latency_ns) if known else None,
        "predicted_on": timed_on(state),
    }


def finish(
    state: State,
    prepared: Prepared,
    finalists: list[Trial],
    control: Trial,
    judged: Judged,
    exports: ExportsMade = NO_EXPORTS,
) -> Finished:
    """Assemble the result of the winning finalist."""
    winner = pick(judged, state.request)
    verdict, trial = judged.finalists[winner], finalists[winner]
    original, compressed = judged.original_profile, judged.profiles[winner]
    exceeded = broken(compressed, state.request)
    within = met(compressed, state.request)
    inside = holds(verdict, state.request) and within and not exceeded
    objective = state.request.objective
    certificate = {
        "metric": prepared.metric,
        "original": judged.original,
        "compressed": verdict.score,
        "drop": verdict.drop,
        "drop_ci": [verdict.drop_low, verdict.drop_high],
        "delta": state.request.delta,
        "target": None if state.request.target is None else dict([state.request.target]),
        "target_met": None if state.request.target is None else within,
        "accept": state.request.accept,
        "inside_delta": inside,
        "objective": objective,
        "limits": dict(state.request.limits),
        "limits_exceeded": list(exceeded),
        "params_ratio": ratio(original.params, compressed.params),
        "macs_ratio": ratio(original.macs, compressed.macs),
        "size_ratio": ratio(original.size_mb, compressed.size_mb),
        "memory_ratio": ratio(original.memory_mb, compressed.memory_mb),
        "time_ratio": time_ratio(judged, winner),
        "latency": latency_of(state, prepared, trial, judged, winner),
        "sealed_samples": prepared.sealed_samples,
        "search_samples": prepared.search_samples,
        "search_drop": trial.drop,
        "finalists_judged": len(judged.finalists),
        "evaluations": len(state.trials),
        "epochs": state.epochs,
        "seconds": round(state.seconds, 3),
        "seed": state.request.seed,
        "precision": str(prepared.numerics),
        "dense_control": {
            "score": judged.control.score,
            "drop": judged.control.drop,
            "epochs": control.lineage_epochs,
        },
        "tuned_epochs": trial.lineage_epochs,
        "stage": state.request.stage,
        "budget": dict(state.request.budget),
        "ended": state.ended,
        "exports": {made.form: made.entry() for made, _ in exports.made},
        "warnings": [{"reason": reason, "message": message} for reason, message in state.warnings],
        "source": state.request.source,
    }
    files = (
        ResultFileContent("model.safetensors", None, trial.weights),
        ResultFileContent("plan.json", _json(plan_file(state.request, prepared, trial)), None),
        ResultFileContent("certificate.json", _json(certificate), None),
        ResultFileContent("profile.json", _json(profile_file(judged.machine, original, compressed)), None),
        ResultFileContent("search.json", _json(record_file(state, prepared, finalists, control, judged, winner)), None),
        *(ResultFileContent(made.file, None, sha256) for made, sha256 in exports.made if made.file and sha256),
    )
    return Finished(
        inside,
        verdict.drop,
        ratio(original.params, compressed.params),
        ratio(original.macs, compressed.macs),
        files,
        time_ratio(judged, winner)
        if objective == "latency"
        else ratio(figure(original, objective), figure(compressed, objective)),
        prepared.metric,
        Figures(judged.original, original),
        Figures(verdict.score, compressed),
        (verdict.drop_low, verdict.drop_high),
    )


def plan_file(request: Request, prepared: Prepared, trial: Trial) -> dict[str, object]:
    """Content of plan.json."""
    return {
        "version": PLAN_VERSION,
        "source": request.source,
        "layers": {
            name: {"format": choice.format, "ranks": list(choice.ranks)} for name, choice in Plan(trial.choices).items()
        },
        "left_dense": dict(prepared.left_dense),
    }


def profile_file(machine: str, original: ProfileSummary, compressed: ProfileSummary) -> dict[str, object]:
    """Content of profile.json; layers are keyed by the original network's layer names."""
    return {"machine": machine, "original": _profile(original), "compressed": _profile(compressed)}


def _profile(profile: ProfileSummary) -> dict[str, object]:
    figures = asdict(profile)
    figures["layers"] = {name: {"params": cost.params, "macs": cost.macs} for name, cost in profile.cost_by_layer}
    del figures["cost_by_layer"]
    return figures


def _json(content: dict[str, object]) -> bytes:
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()
