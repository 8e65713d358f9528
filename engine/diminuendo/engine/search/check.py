"""What is wrong with a request, as far as can be said without the network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from diminuendo.engine.exports.forms import FormError, parse_all
from diminuendo.engine.plan import FORMAT_NAMES
from diminuendo.engine.search.budget import BUDGETS, LEAST, BudgetName
from diminuendo.engine.search.objective import OBJECTIVES, ObjectiveName
from diminuendo.engine.search.settings import EffortName
from diminuendo.engine.search.state import AcceptName, Request, StageNumber

DEFAULT_DELTA = 1.0
"""Of a request that has neither delta nor target, in points."""

MOST_MULTIPLE = 1024
"""No hardware likes ranks in larger steps."""

MOST_PATTERNS = 256
MOST_PATTERN = 256
"""Patterns of one kind, and characters of each."""

_IN = "size and memory in MB, latency in ms"


class RequestError(ValueError):
    """A request that cannot be meant; the message names the field, its value, and what is legal."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one field: its value, and what is legal."""

    field: str
    text: str

    def __str__(self) -> str:
        """Both in one line."""
        return f"{self.field}: {self.text}"


def request_of(
    source: str,
    delta: float | None = None,
    *,
    target: Mapping[ObjectiveName, float] | None = None,
    effort: EffortName = "normal",
    accept: AcceptName = "estimate",
    seed: int = 0,
    threads: int = 1,
    formats: Sequence[str] = (),
    objective: ObjectiveName | None = None,
    limits: Mapping[ObjectiveName, float] | None = None,
    freeze: Sequence[str] = (),
    max_ratio: Mapping[str, float] | None = None,
    multiple: int = 1,
    stage: StageNumber = 2,
    budget: Mapping[BudgetName, float] | None = None,
    exports: Sequence[str] = (),
) -> Request:
    """A checked request; see `diminuendo.engine.compress` for what its fields mean.

    Raises:
        RequestError: It cannot be meant.
    """
    wanted = tuple((target or {}).items())
    if len(wanted) > 1:
        raise RequestError(
            f"target: {', '.join(name for name, _ in wanted)} are {len(wanted)} figures; give one as the target, "
            "the others as limits"
        )
    for field, names in (("formats", formats), ("freeze", freeze), ("exports", exports)):
        if isinstance(names, str):
            raise RequestError(f"{field}: {names!r} is one text; give a list of them, such as [{names!r}]")
    if delta is None and not wanted:
        delta = DEFAULT_DELTA
    request = Request(
        source,
        float(delta) if type(delta) is int else delta,
        seed,
        effort,
        accept,
        threads,
        tuple(formats),
        (wanted[0][0] if wanted else "params") if objective is None else objective,
        tuple((limits or {}).items()),
        tuple(freeze),
        tuple((max_ratio or {}).items()),
        multiple,
        stage,
        tuple((budget or {}).items()),
        wanted[0] if wanted else None,
        tuple(exports),
    )
    check(request)
    return request


def check(request: Request) -> None:
    """Refuse a request that cannot be meant; RequestError says why."""
    problem = next(problems(request), None)
    if problem is not None:
        raise RequestError(str(problem))


def problems(request: Request) -> Iterator[Problem]:
    """What cannot be meant."""
    if request.target is None:
        yield from _of_delta(request.delta)
    else:
        yield from _of_target(request, *request.target)
    yield from _known("effort", request.effort, get_args(EffortName))
    yield from _known("accept", request.accept, get_args(AcceptName))
    if not 0 <= request.seed < 2**63:
        yield Problem("seed", f"{request.seed!r} is out of range; give a whole number from 0 up to 2^63 - 1")
    if request.threads < 1:
        yield Problem("threads", f"{request.threads!r} is too few; give at least 1")
    unknown = [name for name in request.formats if name not in FORMAT_NAMES]
    if unknown:
        yield Problem("formats", f"{', '.join(unknown)}: unknown; choose some of {', '.join(FORMAT_NAMES)}")
    yield from _once("formats", request.formats)
    yield from _of_objective(request)
    yield from _of_layers(request)
    if request.stage not in (1, 2):
        yield Problem("stage", f"{request.stage!r} is unknown; give 1 (stop after exploration) or 2 (anneal too)")
    yield from _of_budget(request)
    try:
        parse_all(request.exports)
    except FormError as error:
        yield Problem("exports", str(error))


def _of_delta(delta: float | None) -> Iterator[Problem]:
    if delta is None:
        yield Problem("delta", "is missing; give points of the metric, over 0 and up to 100, or a target in its place")
    elif isinstance(delta, bool) or not isinstance(delta, int | float) or not 0 < delta <= 100:  # NaN is refused too
        yield Problem("delta", f"{delta!r} is no tolerance; give points of the metric, over 0 and up to 100")


def _of_target(request: Request, name: ObjectiveName, most: float) -> Iterator[Problem]:
    yield from _known("target", name, OBJECTIVES)
    if not _positive(most):
        yield Problem("target", f"{name}={most!r} is no target; give a number over 0 ({_IN})")
    if request.delta is not None:
        yield Problem("target", f"{name}={most!r} is beside delta={request.delta!r}; give delta or target, not both")
    if request.objective != name:
        yield Problem(
            "objective",
            f"{request.objective!r} is beside a target of {name}, an objective of its own; leave it out",
        )
    if request.accept != "estimate":
        yield Problem("accept", f"{request.accept!r} is about delta, and there is a target in its place; leave it out")
    if name in dict(request.limits):
        yield Problem("limits", f"{name} is limited by the target already; give the smaller of both as the target")


def _known(field: str, value: object, legal: Sequence[str]) -> Iterator[Problem]:
    if value not in legal:
        yield Problem(field, f"{value!r} is unknown; choose one of {', '.join(legal)}")


def _of_objective(request: Request) -> Iterator[Problem]:
    yield from _known("objective", request.objective, OBJECTIVES)
    for name, most in request.limits:
        yield from _known("limits", name, OBJECTIVES)
        if not _positive(most):
            yield Problem("limits", f"{name}={most!r} is no limit; give a number over 0 ({_IN})")
    yield from _once("limits", [name for name, _ in request.limits])


def _of_layers(request: Request) -> Iterator[Problem]:
    yield from _patterns("freeze", request.freeze)
    yield from _patterns("max_ratio", [pattern for pattern, _ in request.max_ratio])
    for pattern, most in request.max_ratio:
        if not _positive(most) or most < 1:
            yield Problem("max_ratio", f"{pattern}={most!r} is no ratio; give a number from 1 (stays dense) up")
    yield from _once("max_ratio", [pattern for pattern, _ in request.max_ratio])
    multiple = request.multiple
    if isinstance(multiple, bool) or not isinstance(multiple, int) or not 1 <= multiple <= MOST_MULTIPLE:
        yield Problem(
            "multiple", f"{multiple!r} is no multiple of ranks; give a whole number from 1 to {MOST_MULTIPLE}"
        )


def _patterns(field: str, patterns: Sequence[str]) -> Iterator[Problem]:
    if len(patterns) > MOST_PATTERNS:
        yield Problem(field, f"{len(patterns)} patterns are too many; give at most {MOST_PATTERNS}; * is for any part")
    for pattern in patterns:
        if not pattern:
            yield Problem(field, "'' is no pattern; give layer names, with * for any part, e.g. 'layer1.*'")
        elif len(pattern) > MOST_PATTERN:
            yield Problem(field, f"{pattern[:40]!r}... has {len(pattern)} characters; give at most {MOST_PATTERN}")


def _of_budget(request: Request) -> Iterator[Problem]:
    for name, most in request.budget:
        yield from _known("budget", name, BUDGETS)
        least = LEAST.get(name, 0)
        if not _positive(most) or most < least:
            yield Problem(
                "budget",
                f"{name}={most!r} is too little; give at least {least:g}"
                if least
                else f"{name}={most!r} is no budget; give a number over 0",
            )
        elif name == "evaluations" and most != int(most):
            yield Problem("budget", f"{name}={most!r} is no count; give a whole number")
    yield from _once("budget", [name for name, _ in request.budget])


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _once(field: str, names: Sequence[str]) -> Iterator[Problem]:
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield Problem(field, f"{name} is given {names.count(name)} times; give it once")
