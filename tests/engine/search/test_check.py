"""Requests that cannot be meant."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from tests.engine.search.driven import QUICK

from diminuendo.engine.plan import FORMAT_NAMES
from diminuendo.engine.search.check import RequestError, check, problems, request_of
from diminuendo.engine.search.objective import OBJECTIVES, Goal


@pytest.mark.parametrize(
    ("wishes", "text"),
    [
        ({"objective": "speed"}, f"objective: 'speed' is unknown; choose one of {', '.join(OBJECTIVES)}"),
        ({"limits": (("speed", 1.0),)}, f"limits: 'speed' is unknown; choose one of {', '.join(OBJECTIVES)}"),
        ({"limits": (("macs", 0.0),)}, "limits: macs=0.0 is no limit; give a number over 0"),
        ({"limits": (("macs", math.nan),)}, "limits: macs=nan is no limit"),
        ({"limits": (("macs", True),)}, "limits: macs=True is no limit"),
        ({"limits": (("macs", 1.0), ("macs", 2.0))}, "limits: macs is given 2 times; give it once"),
        ({"delta": None}, "delta: is missing; give points of the metric, over 0 and up to 100, or a target"),
        ({"target": ("size", 1.0)}, "target: size=1.0 is beside delta=1.0; give delta or target, not both"),
        (
            {"delta": None, "target": ("bytes", 1.0)},
            f"target: 'bytes' is unknown; choose one of {', '.join(OBJECTIVES)}",
        ),
        ({"delta": None, "target": ("size", -1.0)}, "target: size=-1.0 is no target; give a number over 0"),
        ({"delta": None, "target": ("size", math.nan)}, "target: size=nan is no target"),
        (
            {"delta": None, "target": ("size", 1.0), "objective": "macs"},
            "objective: 'macs' is beside a target of size, an objective of its own; leave it out",
        ),
        (
            {"delta": None, "target": ("params", 1.0), "accept": "strict"},
            "accept: 'strict' is about delta, and there is a target in its place; leave it out",
        ),
        (
            {"delta": None, "target": ("params", 5.0), "limits": (("params", 4.0),)},
            "limits: params is limited by the target already; give the smaller of both as the target",
        ),
        ({"formats": ("svd", "svd3")}, f"formats: svd3: unknown; choose some of {', '.join(FORMAT_NAMES)}"),
        ({"formats": ("svd", "svd")}, "formats: svd is given 2 times; give it once"),
        ({"freeze": ("x" * 257,)}, "has 257 characters; give at most 256"),
        ({"freeze": tuple(map(str, range(257)))}, "freeze: 257 patterns are too many; give at most 256"),
        ({"max_ratio": (("fc", 2.0), ("fc", 3.0))}, "max_ratio: fc is given 2 times; give it once"),
        ({"freeze": ("",)}, "'' is no pattern; give layer names"),
        ({"max_ratio": (("fc", 0.5),)}, "max_ratio: fc=0.5 is no ratio; give a number from 1"),
        ({"multiple": 0}, "multiple: 0 is no multiple of ranks; give a whole number from 1 to 1024"),
        ({"multiple": 8.0}, "multiple: 8.0 is no multiple"),
        ({"stage": 3}, "stage: 3 is unknown; give 1"),
        ({"budget": (("hours", 1.0),)}, "budget: 'hours' is unknown; choose one of evaluations, epochs, minutes"),
        ({"budget": (("evaluations", 2.0),)}, "budget: evaluations=2.0 is too little; give at least 3"),
        ({"budget": (("evaluations", 3.5),)}, "budget: evaluations=3.5 is no count; give a whole number"),
        ({"budget": (("epochs", 0.5),)}, "budget: epochs=0.5 is too little; give at least 1"),
        ({"budget": (("minutes", 0.0),)}, "budget: minutes=0.0 is no budget; give a number over 0"),
        ({"budget": (("minutes", math.inf),)}, "budget: minutes=inf is no budget"),
    ],
)
def test_a_wish_that_cannot_be_meant_names_field_value_and_remedy(wishes: dict[str, Any], text: str) -> None:
    with pytest.raises(RequestError) as caught:
        check(replace(QUICK, **wishes))
    assert text in str(caught.value)


def test_what_can_be_meant_is_accepted() -> None:
    request = request_of(
        "zoo:digits",
        1,
        objective="macs",
        limits={"size": 0.5, "params": 1e6},
        freeze=["conv*"],
        max_ratio={"fc": 1},
        multiple=8,
        stage=1,
        budget={"evaluations": 3, "epochs": 12, "minutes": 0.1},
    )
    assert list(problems(request)) == []
    assert (request.delta, request.limits) == (1.0, (("size", 0.5), ("params", 1e6)))
    assert request_of("zoo:made-up", 1.0, effort="quick") == QUICK


def test_a_target_is_its_own_objective_and_stands_in_place_of_delta() -> None:
    request = request_of("zoo:digits", target={"size": 1.5}, limits={"macs": 1e6})
    assert (request.delta, request.target, request.objective) == (None, ("size", 1.5), "size")
    assert request.goal == Goal("size", (("macs", 1e6),), 1.5)
    assert request_of("zoo:digits").delta == 1.0
    with pytest.raises(RequestError, match="delta or target, not both"):
        request_of("zoo:digits", 1.0, target={"size": 1.5})
    with pytest.raises(RequestError, match="target: size, macs are 2 figures; give one as the target, the others as"):
        request_of("zoo:digits", target={"size": 1.5, "macs": 1e6})
    with pytest.raises(RequestError, match="objective: 'params' is beside a target of size"):
        request_of("zoo:digits", target={"size": 1.5}, objective="params")


def test_one_text_is_no_list_of_its_letters() -> None:
    with pytest.raises(RequestError, match=r"^freeze: 'conv' is one text; give a list of them, such as \['conv'\]$"):
        request_of("zoo:digits", freeze="conv")
    with pytest.raises(RequestError, match=r"^formats: 'svd' is one text"):
        request_of("zoo:digits", formats="svd")


def test_every_problem_says_its_field() -> None:
    request = replace(QUICK, seed=-1, stage=3, budget=(("hours", 1.0),))  # type: ignore[arg-type]
    assert [problem.field for problem in problems(request)] == ["seed", "stage", "budget"]
