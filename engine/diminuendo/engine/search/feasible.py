"""Whether what a request wants can be had of the network: its patterns, and its limits."""

from __future__ import annotations

from diminuendo.engine.search import moves, patterns
from diminuendo.engine.search.moves import Board
from diminuendo.engine.search.objective import UNITS, amount, shown
from diminuendo.engine.search.path import path
from diminuendo.engine.search.space import Space
from diminuendo.engine.search.state import Request
from diminuendo.engine.search.work import Prepared


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
    """What is wrong with the limits: not even the smallest plan, or none that was found, keeps them all."""
    for (name, most), (_, bound) in zip(space.goal.limits, space.goal.bounds, strict=True):
        cheapest = [min(amount(o.cost, name) for o in layer.options) for layer in space.layers]
        least = amount(space.fixed, name) + sum(cheapest)
        if least > bound:
            return (
                f"limits: {name}={most:g} cannot be kept: the least that the forms of this network allow is "
                f"{shown(name, least / UNITS[name])}; raise the limit, or freeze less"
            )
    board = Board.of_space(space)
    plan = board.plan(moves.keep_limits(board, board.state(path(space)[0].plan)))
    if space.goal.kept(space.cost(plan)):
        return None
    given = ", ".join(f"{name}={most:g}" for name, most in space.goal.limits)
    return f"limits: {given} contradict each other: no plan was found that keeps them all; raise one of them"
