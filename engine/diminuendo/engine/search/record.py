"""The result folder's search.json: every candidate that was tried, so that a report needs no server."""

from __future__ import annotations

import math
from collections.abc import Sequence

from diminuendo.engine.cost import Cost, ratio
from diminuendo.engine.search.objective import amount
from diminuendo.engine.search.space import Space
from diminuendo.engine.search.state import Role, StageName, State, Trial
from diminuendo.engine.search.work import Judged, Prepared

RECORD_VERSION = 1

_STAGES: dict[Role, StageName] = {
    "first": "explore",
    "rival": "explore",
    "keep": "explore",
    "bracket": "explore",
    "move": "anneal",
    "polish": "anneal",
}
"""Stage of a candidate by its role; every other one is of the certification."""


def record_file(
    state: State, prepared: Prepared, finalists: Sequence[Trial], control: Trial, judged: Judged, winner: int
) -> dict[str, object]:
    """Content of search.json.

    Drops of trials are on the search half, in points, null where a candidate diverged; those of ``judged`` are on the
    sealed half. Ratios are original to candidate, ``objective_ratio`` of the figure that the search made small.

    Args:
        state: Its trials are told in proposal order, which is not always the order in which they ended.
        prepared: The original.
        finalists: As they were judged.
        control: The dense control, which `state` may lack.
        judged: Their verdicts.
        winner: Index into the finalists of the one that was returned.
    """
    request = state.request
    trials = state.trials if control in state.trials else [*state.trials, control]
    total = Space.of(prepared, state.surveys, request).total if request.goal.timed else prepared.total
    return {
        "version": RECORD_VERSION,
        "metric": prepared.metric,
        "higher_is_better": prepared.higher_is_better,
        "baseline": prepared.baseline,
        "search_samples": prepared.search_samples,
        "objective": request.objective,
        "delta": request.delta,
        "target": None if request.target is None else dict([request.target]),
        "original": {"params": prepared.total.params, "macs": prepared.total.macs},
        "returned": finalists[winner].index,
        "judged": [
            {"index": trial.index, "drop": verdict.drop, "drop_ci": [verdict.drop_low, verdict.drop_high]}
            for trial, verdict in zip(finalists, judged.finalists, strict=True)
        ],
        "trials": [_entry(state, total, trial) for trial in trials],
    }


def _entry(state: State, total: Cost, trial: Trial) -> dict[str, object]:
    goal, cost = state.request.goal, trial.cost
    figures = amount(total, goal.objective), amount(cost, goal.objective)
    return {
        "index": trial.index,
        "role": trial.role,
        "stage": _STAGES.get(trial.role, "certify"),
        "parent": trial.parent,
        "epochs": trial.epochs,
        "lineage_epochs": trial.lineage_epochs,
        "params": cost.params,
        "macs": cost.macs,
        "params_ratio": _finite(ratio(total.params, cost.params)),
        "macs_ratio": _finite(ratio(total.macs, cost.macs)),
        "objective_ratio": _finite(ratio(*figures)),
        "within_limits": goal.kept(cost),
        "drop": _finite(trial.drop),
        "divergence": _finite(trial.divergence),
    }


def _finite(value: float | None) -> float | None:
    """A number that JSON has; None for those that it lacks."""
    return value if value is not None and math.isfinite(value) else None
