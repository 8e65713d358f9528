from __future__ import annotations

from diminuendo.engine.cost import Cost
from diminuendo.engine.plan import DENSE, ZERO, Choice, LayerSpec, Plan
from diminuendo.engine.search.moves import Board
from diminuendo.engine.search.space import LayerOptions, Space
from diminuendo.engine.search.wiring import ENDS, Wiring, reached
from diminuendo.engine.search.work import Option

# stem, then a block of one -> two beside a shortcut, then fc on their sum.
RESIDUAL: Wiring = (
    (ENDS, ("fc",)),
    ("stem", (ENDS,)),
    ("one", ("stem",)),
    ("two", ("one",)),
    ("shortcut", ("stem",)),
    ("fc", ("shortcut", "two")),
)
NAMES = tuple(name for name, _ in RESIDUAL[1:])
SMALL = Choice("svd", (1,))


def space(wiring: Wiring = RESIDUAL, *, zero: tuple[str, ...] = NAMES) -> Space:
    """Dense layers of 100 params; svd of rank 1 of 10, and the n-th of 20 + n; rank 0 has none."""
    layers = []
    for i, name in enumerate(NAMES):
        forms = [Option(ZERO, Cost(0, 0), 1.0, 2.0 + i)] if name in zero else []
        forms += [Option(SMALL, Cost(20 + i, 0), 0.9, 1.0 + i), Option(Choice("svd", (2,)), Cost(50, 0), 0.5, 0.5)]
        layers.append(LayerOptions(LayerSpec(name, "linear", 10, 10), (Option(DENSE, Cost(100, 0), 0.0, 0.0), *forms)))
    return Space(tuple(layers), Cost(510, 0), wiring=wiring)


def plan(**choices: Choice) -> Plan:
    return Plan(tuple((name, choices.get(name, DENSE)) for name in NAMES))


def test_what_is_reached_past_constants() -> None:
    assert reached(RESIDUAL, ()) == {ENDS, *NAMES}
    assert reached(RESIDUAL, ["two"]) == {ENDS, "stem", "two", "shortcut", "fc"}
    assert reached(RESIDUAL, ["shortcut"]) == {ENDS, *NAMES}
    assert reached(RESIDUAL, ["two", "shortcut"]) == {"two", "shortcut", "fc"}
    assert reached(RESIDUAL, ["fc", "two"]) == {"fc"}
    again: Wiring = ((ENDS, ("a",)), ("a", (ENDS, "a")))  # called twice
    assert reached(again, ()) == {ENDS, "a"}
    assert reached(again, ["a"]) == {"a"}


def test_a_layer_that_only_layers_at_rank_zero_take_from_goes_there_for_nothing() -> None:
    found = space()
    tidied = found.tidied(plan(two=ZERO, stem=SMALL))
    assert tidied == plan(two=ZERO, one=ZERO, stem=SMALL)
    # two's own 4, and stem's 1; none of one's 3.
    assert found.damages(tidied) == (1.0, 0.0, 4.0, 0.0, 0.0)
    assert found.damage(tidied) == found.damage(plan(two=ZERO, one=DENSE, stem=SMALL)) == 5.0
    assert found.damage(plan(one=ZERO)) == 3.0  # two still has an input: the mean
    assert found.tidied(plan(one=ZERO)) == plan(one=ZERO)
    assert space(zero=("two",)).tidied(plan(two=ZERO)) == plan(two=ZERO, one=SMALL)  # the cheapest that it has


def test_no_plan_cuts_the_network() -> None:
    found = space()
    # Either would do; one of the block opens no way by itself, and the shortcut costs a param more than two.
    assert found.tidied(plan(two=ZERO, shortcut=ZERO)) == plan(two=SMALL, shortcut=ZERO)
    assert found.tidied(plan(one=ZERO, two=ZERO, shortcut=ZERO)) == plan(one=ZERO, two=ZERO, shortcut=SMALL)
    every = found.tidied(plan(**dict.fromkeys(NAMES, ZERO)))
    assert ENDS in reached(RESIDUAL, [name for name in NAMES if every[name] == ZERO])
    assert every == plan(stem=SMALL, one=SMALL, two=SMALL, shortcut=ZERO, fc=SMALL)


def test_without_wiring_or_rank_zero_plans_stay_as_they_are() -> None:
    cut = plan(two=ZERO, shortcut=ZERO)
    assert space(()).tidied(cut) == cut
    assert space(()).damages(cut) == (0.0, 0.0, 4.0, 5.0, 0.0)
    small = plan(two=SMALL, shortcut=SMALL)
    assert space().tidied(small) == small


def test_plans_of_the_board_are_tidied() -> None:
    found = space()
    board = Board.of_space(found)
    assert board.plan(board.state(plan(two=ZERO))) == plan(two=ZERO, one=ZERO)
