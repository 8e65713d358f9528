"""The result folder's files, from what the session knows: plan.json, profile.json, certificate.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from diminuendo.engine.cost import ratio
from diminuendo.engine.plan import PLAN_VERSION, Plan
from diminuendo.engine.search.objective import ObjectiveName
from diminuendo.engine.search.state import Request, State, Trial
from diminuendo.engine.search.work import Judged, Prepared, ProfileSummary, Verdict


@dataclass(frozen=True, slots=True)
class ResultFileContent:
    """A file of the result folder: either its bytes, or the sha256 of content that the store already has."""

    name: str
    content: bytes | None
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a session that found a model."""

    inside_delta: bool
    drop: float
    params_ratio: float
    macs_ratio: float
    files: tuple[ResultFileContent, ...]
    objective_ratio: float = 1.0


def holds(verdict: Verdict, request: Request) -> bool:
    """Whether a verdict is inside delta under the request's accept rule."""
    return (verdict.drop if request.accept == "estimate" else verdict.drop_high) <= request.delta


def broken(profile: ProfileSummary, request: Request) -> tuple[ObjectiveName, ...]:
    """Limits of the request that a network breaks."""
    return tuple(name for name, most in request.limits if figure(profile, name) > most)


def figure(profile: ProfileSummary, name: ObjectiveName) -> float:
    """A network's params, MACs, or MB."""
    figures: dict[ObjectiveName, float] = {
        "params": profile.params,
        "macs": profile.macs,
        "size": profile.size_mb,
        "memory": profile.memory_mb,
    }
    return figures[name]


def pick(judged: Judged, request: Request) -> int:
    """The finalist to return: the first (smallest) inside delta and all limits, else the one nearest to that.

    Limits come before the drop: they are known of a plan without tuning it.
    """
    excess = [len(broken(profile, request)) for profile in judged.profiles]
    for index, verdict in enumerate(judged.finalists):
        if holds(verdict, request) and not excess[index]:
            return index
    return min(range(len(judged.finalists)), key=lambda i: (excess[i], judged.finalists[i].drop, i))


def finish(state: State, prepared: Prepared, finalists: list[Trial], control: Trial, judged: Judged) -> Finished:
    """Assemble the result of the winning finalist."""
    winner = pick(judged, state.request)
    verdict, trial = judged.finalists[winner], finalists[winner]
    original, compressed = judged.original_profile, judged.profiles[winner]
    exceeded = broken(compressed, state.request)
    inside = holds(verdict, state.request) and not exceeded
    objective = state.request.objective
    certificate = {
        "metric": prepared.metric,
        "original": judged.original,
        "compressed": verdict.score,
        "drop": verdict.drop,
        "drop_ci": [verdict.drop_low, verdict.drop_high],
        "delta": state.request.delta,
        "accept": state.request.accept,
        "inside_delta": inside,
        "objective": objective,
        "limits": dict(state.request.limits),
        "limits_exceeded": list(exceeded),
        "params_ratio": ratio(original.params, compressed.params),
        "macs_ratio": ratio(original.macs, compressed.macs),
        "size_ratio": ratio(original.size_mb, compressed.size_mb),
        "memory_ratio": ratio(original.memory_mb, compressed.memory_mb),
        "time_ratio": ratio(original.time_ms, compressed.time_ms),
        "sealed_samples": prepared.sealed_samples,
        "search_samples": prepared.search_samples,
        "search_drop": trial.drop,
        "finalists_judged": len(judged.finalists),
        "evaluations": len(state.trials),
        "epochs": state.epochs,
        "seconds": round(state.seconds, 3),
        "seed": state.request.seed,
        "dense_control": {
            "score": judged.control.score,
            "drop": judged.control.drop,
            "epochs": control.lineage_epochs,
        },
        "tuned_epochs": trial.lineage_epochs,
        "stage": state.request.stage,
        "budget": dict(state.request.budget),
        "ended": state.ended,
        "source": state.request.source,
    }
    files = (
        ResultFileContent("model.safetensors", None, trial.weights),
        ResultFileContent("plan.json", _json(plan_file(state.request, prepared, trial)), None),
        ResultFileContent("certificate.json", _json(certificate), None),
        ResultFileContent("profile.json", _json(profile_file(judged.machine, original, compressed)), None),
    )
    return Finished(
        inside,
        verdict.drop,
        ratio(original.params, compressed.params),
        ratio(original.macs, compressed.macs),
        files,
        ratio(figure(original, objective), figure(compressed, objective)),
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
