"""What decisions are made by, however many candidates there have been."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from tests.engine.search.test_surrogate import space_of
from tests.engine.search.world import World

from diminuendo.engine.plan import Plan
from diminuendo.engine.search.space import Space
from diminuendo.engine.search.standing import CROWD, Crowd
from diminuendo.engine.search.state import Role, Trial

DELTA = 1.0


@pytest.fixture(scope="module")
def space() -> Space:
    return space_of(World())


def trials(space: Space, count: int) -> list[Trial]:
    """Candidates of any size with any drop; one in ten diverged, one in fifty is a dense control."""
    chance = random.Random(count)
    made = []
    for index in range(count):
        choices = Plan(tuple((layer.spec.name, chance.choice(layer.options).choice) for layer in space.layers)).choices
        cost = replace(space.total, params=chance.randrange(1, space.total.params))
        drop = None if chance.random() < 0.1 else 4.0 * chance.random()
        role: Role = "control" if index % 50 == 49 else "move"
        made.append(Trial(index, role, choices, None, 1.0, 1.0, cost, drop, 0.1, "weights"))
    return made


def test_of_a_few_hundred_all_count(space: Space) -> None:
    seen = trials(space, CROWD)
    scored = [t for t in seen if t.drop is not None and t.role != "control"]
    assert Crowd(space, DELTA, seen).trials == scored


@pytest.mark.parametrize("delta", [DELTA, math.inf], ids=["delta", "target"])
def test_of_thousands_the_latest_and_the_best_count(space: Space, delta: float) -> None:
    seen = trials(space, 12 * CROWD)
    crowd = Crowd(space, delta, seen)
    assert len(crowd.trials) < 2 * CROWD
    assert [t.index for t in crowd.trials] == sorted(t.index for t in crowd.trials)
    scored = [t for t in seen if t.drop is not None and t.role != "control"]
    assert crowd.trials[-CROWD // 2 :] == scored[-CROWD // 2 :]
    inside = [t for t in scored if t.drop is not None and t.drop <= delta]
    best = sorted(inside, key=(lambda t: (t.drop, t.index)) if math.isinf(delta) else (lambda t: t.cost.params))
    assert set(best[:20]) <= set(crowd.trials)
    assert len(crowd.known) == len({Plan(t.choices).key() for t in seen})


def test_who_counts_follows_from_the_trials_alone(space: Space) -> None:
    seen = trials(space, 5 * CROWD)
    grown = Crowd(space, DELTA)
    for trial in seen:
        grown.add(trial)
    assert grown.trials == Crowd(space, DELTA, seen).trials
    assert grown.known == Crowd(space, DELTA, seen).known
