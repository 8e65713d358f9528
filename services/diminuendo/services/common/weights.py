"""The setting that says what projects may have of the evaluators."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator
from pydantic_settings import NoDecode

from diminuendo.services.common.names import COMPONENT

_RULE = "give PROJECT=NUMBER,..., each number over 0 and up to 1000000"


def parsed(given: object) -> dict[str, float]:
    """Weights by project, from ``PROJECT=NUMBER,...``.

    Raises:
        ValueError: It is not of that form.
    """
    if isinstance(given, Mapping):
        given = written(given)
    weights: dict[str, float] = {}
    for part in str(given).split(",") if given else ():
        project, _, number = part.strip().partition("=")
        try:
            weight = float(number)
        except ValueError:
            raise ValueError(f"{part!r} is no weight; {_RULE}") from None
        if not COMPONENT.fullmatch(project) or not (math.isfinite(weight) and 0 < weight <= 1e6):
            raise ValueError(f"{part!r} is no weight; {_RULE}")
        if project in weights:
            raise ValueError(f"{project!r} has two weights; give one")
        weights[project] = weight
    return weights


def written(weights: Mapping[str, float]) -> str:
    """The text that `parsed` reads."""
    return ",".join(f"{project}={weight!r}" for project, weight in weights.items())


Weights = Annotated[dict[str, float], NoDecode, BeforeValidator(parsed)]
