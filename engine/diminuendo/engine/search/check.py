"""What is wrong with a request, as far as can be said without the network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

from diminuendo.engine.plan import FORMAT_NAMES
from diminuendo.engine.search.budget import BUDGETS, LEAST, BudgetName
from diminuendo.engine.search.objective import OBJECTIVES, ObjectiveName
from diminuendo.engine.search.settings import EffortName
from diminuendo.engine.search.state import AcceptName, Request, StageNumber

MOST_MULTIPLE = 1024
"""No hardware likes ranks in larger steps."""


class RequestError(ValueError):
    """A request that cannot be meant; the message names the field, its value, and what is legal."""


def request_of(
    source: str,
    delta: float,
    *,
    effort: EffortName = "normal",
    accept: AcceptName = "estimate",
    seed: int = 0,
    threads: int = 1,
    formats: Sequence[str] = (),
    objective: ObjectiveName = "params",
    limits: Mapping[ObjectiveName, float] | None = None,
    freeze: Sequence[str] = (),
    max_ratio: Mapping[str, float] | None = None,
    multiple: int = 1,
    stage: StageNumber = 2,
    budget: Mapping[BudgetName, float] | None = None,
) -> Request:
    """A checked request; see `diminuendo.engine.compress` for what its fields mean.

    Raises:
        RequestError: It cannot be meant.
    """
    request = Request(
        source,
        float(delta) if type(delta) is int else delta,
        seed,
        effort,
        accept,
        threads,
        tuple(formats),
        objective,
        tuple((limits or {}).items()),
        tuple(freeze),
        tuple((max_ratio or {}).items()),
        multiple,
        stage,
        tuple((budget or {}).items()),
    )
    check(request)
    return request


def check(request: Request) -> None:
    """Refuse a request that cannot be meant; RequestError says why."""
    problem = next(problems(request), None)
    if problem is not None:
        raise RequestError(problem)


def problems(request: Request) -> Iterator[str]:
    """What cannot be meant: each names the field, its value, and what is legal."""
    delta = request.delta
    if isinstance(delta, bool) or not isinstance(delta, int | float) or not 0 < delta <= 100:  # NaN is refused too
        yield f"delta: {delta!r} is no tolerance; give points of the metric, over 0 and up to 100"
    yield from _known("effort", request.effort, get_args(EffortName))
    yield from _known("accept", request.accept, get_args(AcceptName))
    if not 0 <= request.seed < 2**63:
        yield f"seed: {request.seed!r} is out of range; give a whole number from 0 up to 2^63 - 1"
    if request.threads < 1:
        yield f"threads: {request.threads!r} is too few; give at least 1"
    unknown = [name for name in request.formats if name not in FORMAT_NAMES]
    if unknown:
        yield f"formats: {', '.join(unknown)}: unknown; choose some of {', '.join(FORMAT_NAMES)}"
    yield from _of_objective(request)
    yield from _of_layers(request)
    if request.stage not in (1, 2):
        yield f"stage: {request.stage!r} is unknown; give 1 (stop after exploration) or 2 (anneal too)"
    yield from _of_budget(request)


def _known(field: str, value: object, legal: Sequence[str]) -> Iterator[str]:
    if value not in legal:
        yield f"{field}: {value!r} is unknown; choose one of {', '.join(legal)}"


def _of_objective(request: Request) -> Iterator[str]:
    yield from _known("objective", request.objective, OBJECTIVES)
    for name, most in request.limits:
        yield from _known("limits", name, OBJECTIVES)
        if not _positive(most):
            yield f"limits: {name}={most!r} is no limit; give a number over 0 (size and memory in MB)"
    yield from _once("limits", [name for name, _ in request.limits])


def _of_layers(request: Request) -> Iterator[str]:
    for pattern in (*request.freeze, *(pattern for pattern, _ in request.max_ratio)):
        if not pattern:
            yield "freeze, max_ratio: '' is no pattern; give layer names, with * for any part, e.g. 'layer1.*'"
    for pattern, most in request.max_ratio:
        if not _positive(most) or most < 1:
            yield f"max_ratio: {pattern}={most!r} is no ratio; give a number from 1 (stays dense) up"
    multiple = request.multiple
    if isinstance(multiple, bool) or not isinstance(multiple, int) or not 1 <= multiple <= MOST_MULTIPLE:
        yield f"multiple: {multiple!r} is no multiple of ranks; give a whole number from 1 to {MOST_MULTIPLE}"


def _of_budget(request: Request) -> Iterator[str]:
    for name, most in request.budget:
        yield from _known("budget", name, BUDGETS)
        least = LEAST.get(name, 0)
        if not _positive(most) or most < least:
            yield (
                f"budget: {name}={most!r} is too little; give at least {least:g}"
                if least
                else (f"budget: {name}={most!r} is no budget; give a number over 0")
            )
        elif name != "minutes" and most != int(most):
            yield f"budget: {name}={most!r} is no count; give a whole number"
    yield from _once("budget", [name for name, _ in request.budget])


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _once(field: str, names: Sequence[str]) -> Iterator[str]:
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield f"{field}: {name} is given {names.count(name)} times; give it once"
