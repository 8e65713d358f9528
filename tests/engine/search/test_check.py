"""Requests that cannot be meant."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from tests.engine.search.driven import QUICK

from diminuendo.engine.search.check import RequestError, check, problems, request_of


@pytest.mark.parametrize(
    ("wishes", "text"),
    [
        ({"objective": "latency"}, "objective: 'latency' is unknown; choose one of params, macs, size, memory"),
        ({"limits": (("latency", 1.0),)}, "limits: 'latency' is unknown; choose one of params, macs, size, memory"),
        ({"limits": (("macs", 0.0),)}, "limits: macs=0.0 is no limit; give a number over 0"),
        ({"limits": (("macs", math.nan),)}, "limits: macs=nan is no limit"),
        ({"limits": (("macs", True),)}, "limits: macs=True is no limit"),
        ({"limits": (("macs", 1.0), ("macs", 2.0))}, "limits: macs is given 2 times; give it once"),
        ({"freeze": ("",)}, "'' is no pattern; give layer names"),
        ({"max_ratio": (("fc", 0.5),)}, "max_ratio: fc=0.5 is no ratio; give a number from 1"),
        ({"multiple": 0}, "multiple: 0 is no multiple of ranks; give a whole number from 1 to 1024"),
        ({"multiple": 8.0}, "multiple: 8.0 is no multiple"),
        ({"stage": 3}, "stage: 3 is unknown; give 1"),
        ({"budget": (("hours", 1.0),)}, "budget: 'hours' is unknown; choose one of evaluations, epochs, minutes"),
        ({"budget": (("evaluations", 2.0),)}, "budget: evaluations=2.0 is too little; give at least 3"),
        ({"budget": (("evaluations", 3.5),)}, "budget: evaluations=3.5 is no count; give a whole number"),
        ({"budget": (("epochs", 11.0),)}, "budget: epochs=11.0 is too little; give at least 12"),
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
