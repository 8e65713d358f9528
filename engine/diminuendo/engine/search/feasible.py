"""Whether what a request wants can be had of the network: its patterns, and its limits."""

from __future__ import annotations

from diminuendo.engine.search import patterns, reconcile, target
from diminuendo.engine.search.moves import Board
from diminuendo.engine.search.objective import LATENCY_MARGIN, UNITS, amount, shown
from diminuendo.engine.search.space import Space
from diminuendo.engine.search.state import Request
from diminuendo.engine.search.work import Prepared

_FIELDS = {"limit": "limits", "target": "target"}
"""The request's field of each kind of wish."""


def misnamed(request: Request, prepared: Prepared) -> str | None:
    """What is wrong with the patterns; None when each means a layer, and some layer is not frozen."""
    names = [spec.name for spec, _ in prepared.layers]
    every = [*names, *(name for name, _ in prepared.left_dense)]
    complaint = patterns.complaint("freeze", request.freeze, every)
    complaint = complaint or patterns.complaint("max_ratio", [pattern for pattern, _ in request.max_ratio], every)
    if complaint is None and all(patterns.matches(request.freeze, name) for name in names):
        return f"freeze: {', '.join(request.freeze)} leaves no layer to compress; freeze fewer of {len(names)}"
    return complaint


def impossible(space: Space) -> str | None:
    """What is wrong with limits and target: not even the smallest plan, or none that was found, keeps them all."""
    goal = space.goal
    wanted = [("limit", name, most) for name, most in goal.limits]
    if goal.target is not None:
        wanted.append(("target", goal.objective, goal.target))
        before = space.amount(space.total)
        if before <= goal.most:
            return (
                f"target: {goal.objective}={goal.target:g} is kept by the original, which has "
                f"{shown(goal.objective, before / UNITS[goal.objective])}; give less"
            )
    for kind, name, most in wanted:
        cheapest = [min(amount(o.cost, name) for o in layer.options) for layer in space.layers]
        least = amount(space.fixed, name) + sum(cheapest)
        if least > goal.bound(name, most):
            back = f", and {LATENCY_MARGIN:.0%} of the {kind} are kept back for noise" if name == "latency" else ""
            return (
                f"{_FIELDS[kind]}: {name}={most:g} cannot be kept: the least that the forms of this network allow is "
                f"{shown(name, least / UNITS[name])}{back}; raise the {kind}, or freeze less"
            )
    if target.least_damaged(space) is not None:
        return None
    given = ", ".join(f"{name}={most:g}" for _, name, most in wanted)
    fields = " and ".join(dict.fromkeys(_FIELDS[kind] for kind, _, _ in wanted))
    certain = reconcile.impossible(Board.of_space(target.bounded(space)).uses)
    why = "no plan can keep them all" if certain else "no plan was found that keeps them all"
    return f"{fields}: {given} contradict each other: {why}; raise one of them, or freeze less"
