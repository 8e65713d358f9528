"""What is still to come, as every step tells it: held against what came."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.engine.search.driven import QUICK, Run, search
from tests.engine.search.world import World

from diminuendo.engine.search import budget
from diminuendo.engine.search.outlook import Outlook, outlook
from diminuendo.engine.search.settings import EFFORTS
from diminuendo.engine.search.state import State

QUICK_SETTINGS = EFFORTS["quick"]
SEARCHING = ("explore", "anneal", "certify")
WORLD = World(beside_s=0.5, epoch_s=1.0)
"""A candidate takes half a second and one for each epoch; the original's epoch takes as long."""


def told(run: Run) -> list[tuple[float, float]]:
    """Seconds still to come from the first candidate on: as they were told, and as they were."""
    in_all = run.steps[-1].seconds_done
    return [(s.seconds_expected - s.seconds_done, in_all - s.seconds_done) for s in run.steps if s.stage in SEARCHING]


@pytest.mark.parametrize(
    "wishes",
    [
        {},
        {"effort": "normal"},
        {"stage": 1},
        {"budget": (("epochs", 12),)},
        {"budget": (("epochs", 48),)},
        {"budget": (("evaluations", 14),)},
        {"delta": None, "target": ("params", 1e5)},
    ],
)
def test_the_seconds_are_near_to_what_comes(wishes: dict[str, Any]) -> None:
    """Most comes in the last tunings: by the works alone a fraction of it would be told at first."""
    run = search(WORLD, **wishes)
    first, *others = told(run)
    assert first[0] == pytest.approx(first[1], rel=0.5)
    assert all(expected <= 1.7 * came + 2.0 and came <= 1.7 * expected + 2.0 for expected, came in others)


def test_nothing_is_told_before_the_first_candidate_and_nothing_is_left_at_the_end() -> None:
    run = search(WORLD)
    assert {step.seconds_expected for step in run.steps if step.stage in ("prepare", "survey")} == {0.0}
    assert run.steps[-1].seconds_expected == run.steps[-1].seconds_done > 0
    assert [step.seconds_done for step in run.steps] == sorted(step.seconds_done for step in run.steps)


def test_where_an_epoch_was_never_measured_nothing_is_told_until_one_is() -> None:
    run = search(World(beside_s=0.5))
    explored = [step.seconds_expected for step in run.steps if step.stage in SEARCHING]
    assert explored[0] == 0.0
    assert all(explored[1:])


def test_a_blank_search_by_hand() -> None:
    """Quick: 6, 3 and 4 candidates, 12 moves, 3 finalists, one made of them; control and verdict. 6 fit 10 evaluations.

    Of those, 3 are finalists and one is the control.
    """
    assert outlook(State(QUICK), QUICK_SETTINGS) == Outlook(6 + 3 + 4 + 12 + 3 + 1 + 2, None)
    assert outlook(State(replace(QUICK, stage=1)), QUICK_SETTINGS) == Outlook(6 + 3 + 4 + 3 + 2, None)
    ten = replace(QUICK, budget=(("evaluations", 10),))
    assert outlook(State(ten), QUICK_SETTINGS) == Outlook(6 + 3 + 2, None)


def test_epochs_of_a_budget_bound_it() -> None:
    for most in (4, 12, 48):
        run = search(WORLD, budget=(("epochs", most),))
        left = [s.seconds_expected - s.seconds_done for s in run.steps if s.stage in SEARCHING]
        works = [s.works_expected - s.works_done for s in run.steps if s.stage in SEARCHING]
        assert all(s <= most + (n + budget.VERDICT) * WORLD.beside_s for s, n in zip(left, works, strict=True))
