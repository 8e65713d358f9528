"""What is made small, and limits on the rest."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from tests.engine.search.driven import QUICK, search
from tests.engine.search.world import REST, World

from diminuendo.engine.cost import Cost
from diminuendo.engine.plan import DENSE, Choice, LayerSpec, Plan
from diminuendo.engine.search import moves
from diminuendo.engine.search.moves import Board
from diminuendo.engine.search.objective import OBJECTIVES, Goal, ObjectiveName, amount, shown
from diminuendo.engine.search.path import path
from diminuendo.engine.search.result import pick
from diminuendo.engine.search.rng import keyed
from diminuendo.engine.search.space import LayerOptions, Space
from diminuendo.engine.search.surrogate import Observation, Surrogate
from diminuendo.engine.search.work import Judged, Option, ProfileSummary, Verdict

COST = Cost(params=1000, macs=50_000, size_bytes=4000, elements=250, latency_ns=2_500_000)
MB = 2**20


def test_figures_of_a_cost() -> None:
    assert [amount(COST, name) for name in OBJECTIVES] == [1000, 50_000, 4000, 4000 + 4 * 250, 2_500_000]
    assert (COST + COST - COST) == COST
    assert shown("macs", 1234.0) == "1,234 macs"
    assert shown("size", 0.5) == "0.5 MB of size"
    assert shown("latency", 2.5) == "2.5 ms of latency"


def test_limits_are_in_their_units_and_may_be_reached() -> None:
    goal = Goal("params", (("macs", 50_000.0), ("size", 4000 / MB)))
    assert goal.kept(COST)
    assert goal.over(COST) == 0.0
    dearer = Cost(1000, 100_000, 4000, 250)
    assert not goal.kept(dearer)
    assert goal.over(dearer) == pytest.approx(math.log(2))


def test_the_default_goal_is_params_without_limits() -> None:
    assert Goal().amount(COST) == 1000
    assert Goal().kept(Cost(10**12, 10**12))


def test_the_path_of_another_objective_falls_in_it() -> None:
    """A form with fewer params but more outputs is worth nothing where memory counts."""
    spec = LayerSpec("l", "linear", 8, 8)
    dense = Option(DENSE, Cost(100, 100, 400, 10), 0.0, 0.0)
    chatty = Option(Choice("svd", (1,)), Cost(50, 50, 200, 100), 0.0, 0.1)
    quiet = Option(Choice("svd", (2,)), Cost(80, 80, 320, 12), 0.0, 0.2)
    layers = (LayerOptions(spec, (dense, chatty, quiet)),)
    by_memory = path(Space(layers, dense.cost, Goal("memory")))
    assert [point.plan["l"] for point in by_memory] == [DENSE, quiet.choice]
    assert [point.amount for point in by_memory] == [400 + 40, 320 + 48]
    assert [point.plan["l"] for point in path(Space(layers, dense.cost))] == [DENSE, chatty.choice]


def test_keeping_limits_takes_the_cheapest_damage_first() -> None:
    def layer(name: str, damage: float) -> LayerOptions:
        dense = Option(DENSE, Cost(100, 1000), 0.0, 0.0)
        return LayerOptions(
            LayerSpec(name, "linear", 8, 8), (dense, Option(Choice("svd", (1,)), Cost(50, 400), 0.0, damage))
        )

    layers = (layer("dear", 0.5), layer("cheap", 0.1))
    for most, expected in ((2000, "dd"), (1400, "ds"), (1399, "ss")):
        space = Space(layers, Cost(200, 2000), Goal("params", (("macs", float(most)),)))
        board = Board.of_space(space)
        state = moves.keep_limits(board, [0, 0])
        assert "".join("ds"[option] for option in state) == expected


def layer_of(name: str, *forms: tuple[Cost, float]) -> LayerOptions:
    """A layer whose first form is the dense one."""
    made = (Option(Choice("svd", (i,)) if i else DENSE, cost, 0.0, damage) for i, (cost, damage) in enumerate(forms))
    return LayerOptions(LayerSpec(name, "linear", 8, 8), tuple(made))


def test_limits_come_before_the_target_where_both_cannot_be_had() -> None:
    """The form has a tenth of the params and twice the outputs; only the dense layer keeps the limit."""
    layer = layer_of("l", (Cost(1000, 0, 0, 10), 0.0), (Cost(100, 0, 0, 20), 0.1))
    board = Board.of_space(Space((layer,), layer.options[0].cost, Goal("params", (("memory", 4 * 10 / MB),))))
    assert moves.keep_limits(board, [1], most=100) == [0]


def test_annealing_never_trades_a_limit_for_damage() -> None:
    """A thousandth over the limit would save nine tenths of the damage."""
    forms = ((Cost(100, 5000), 0.0), (Cost(50, 1000), 1.0), (Cost(49, 1001), 0.1))
    layers = (layer_of("a", *forms), layer_of("b", *forms))
    space = Space(layers, Cost(200, 10_000), Goal("params", (("macs", 2000.0),)))
    surrogate = Surrogate.fit(space, [Observation(space.dense, 0.0, 0.0)])
    for seed in range(10):
        found = moves.anneal(surrogate, space.dense, 100, moves=200, rng=keyed(seed, "a"), avoid=())
        assert found is not None
        assert space.cost(found).macs == 2000


def test_the_smallest_finalist_inside_delta_and_limits_is_picked() -> None:
    def judged(*finalists: tuple[float, int]) -> Judged:
        verdicts = tuple(Verdict(98.0 - drop, drop, drop, drop) for drop, _ in finalists)
        profiles = tuple(ProfileSummary(10, macs, 1.0, 1.0, 1.0, ()) for _, macs in finalists)
        return Judged(98.0, verdicts, verdicts[0], profiles[0], profiles, "", 0.0)

    request = replace(QUICK, limits=(("macs", 100.0),))
    assert pick(judged((0.1, 101), (0.9, 100), (0.2, 90)), request) == 1
    assert pick(judged((0.1, 101), (1.5, 100), (1.2, 90)), request) == 2
    assert pick(judged((0.5, 101), (0.1, 101)), request) == 1
    assert pick(judged((0.1, 101), (0.9, 100)), QUICK) == 0


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_gets_small_inside_delta(objective: ObjectiveName) -> None:
    run = search(objective=objective)
    assert run.finished.inside_delta
    assert run.finished.drop <= 1.0
    world = World()
    original, found = world.total(), world.plan_cost(run.plan)
    assert run.finished.objective_ratio == pytest.approx(amount(original, objective) / amount(found, objective))
    assert run.finished.objective_ratio > {"memory": 1.2, "latency": 1.5}.get(objective, 3.0)
    assert run.certificate["objective"] == objective
    assert f"x {objective} at" in run.steps[-1].summary


def test_the_objective_decides_what_is_found() -> None:
    world = World()
    by_params, by_memory = (world.plan_cost(search(objective=name).plan) for name in ("params", "memory"))
    assert by_memory.memory_bytes < by_params.memory_bytes
    assert by_params.params < by_memory.params


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "limits",
    [
        (("macs", 500_000.0),),
        (("memory", 0.10),),
        (("size", 0.03), ("macs", 1_500_000.0)),
        (("params", 20_000.0), ("memory", 0.12)),
    ],
)
@pytest.mark.parametrize("objective", ["params", "memory"])
def test_every_candidate_keeps_the_limits(
    objective: ObjectiveName, limits: tuple[tuple[ObjectiveName, float], ...], seed: int
) -> None:
    run, world, goal = search(objective=objective, limits=limits, seed=seed), World(), Goal(objective, limits)
    candidates = [plan for plan in run.plans if any(choice != DENSE for choice in plan.values())]
    assert len(candidates) > 10
    assert all(goal.kept(world.plan_cost(plan)) for plan in candidates)
    assert goal.kept(world.plan_cost(run.plan))
    assert run.certificate["limits"] == dict(limits)
    assert run.certificate["limits_exceeded"] == []


def test_a_limit_that_binds_changes_the_result_and_one_that_does_not_changes_nothing() -> None:
    free = search()
    loose = search(limits=(("macs", 1e12),))
    assert loose.plan == free.plan
    assert [s.best for s in loose.steps] == [s.best for s in free.steps]
    memory = World().plan_cost(free.plan).memory_bytes / MB
    tight = search(limits=(("memory", 0.97 * memory),))
    assert tight.plan != free.plan
    assert World().plan_cost(tight.plan).memory_bytes <= 0.97 * memory * MB


def test_what_keeps_its_limits_only_outside_delta_is_not_called_inside() -> None:
    run = search(limits=(("params", 4000.0),))
    assert not run.finished.inside_delta
    assert World().plan_cost(run.plan).params <= 4000


def test_a_finalist_that_breaks_a_limit_is_not_inside_whatever_its_drop() -> None:
    """The built network is what counts: here it is larger than was counted."""

    class Swollen(World):
        def plan_cost(self, plan: Plan) -> Cost:
            return super().plan_cost(plan) + Cost(10_000, 0)

    run = search(Swollen(sensitivity=(0.5, 0.5, 0.5, 0.5)), limits=(("params", 9_000.0),))
    assert run.finished.drop <= 1.0
    assert not run.finished.inside_delta
    assert run.certificate["limits_exceeded"] == ["params"]
    assert all(step.best is None for step in run.steps)


def test_a_limit_that_no_plan_keeps_is_named_with_the_least_there_is() -> None:
    world = World()
    least = REST.params + sum(min(o.cost.params for o in world.options(i)) for i in range(4))
    run = search(limits=(("params", float(least - 1)),))
    assert run.failure.startswith(f"limits: params={least - 1} cannot be kept: the least")
    assert f"{least:,} params" in run.failure
    assert run.evaluations == []
    assert not search(limits=(("params", float(least)),)).finished.inside_delta


def test_limits_that_contradict_each_other_are_refused() -> None:
    """Few params want a form with many outputs, few outputs the dense layer: each alone can be had."""

    class Torn(World):
        def cost(self, choice: Choice, i: int) -> Cost:
            params = super().cost(choice, i).params
            return Cost(params, params, 4 * params, 100 if choice == DENSE else 100_000)

    few, quiet = ("params", 20_000.0), ("memory", 0.4)
    assert search(Torn(), limits=(few,)).finished
    assert search(Torn(), limits=(quiet,)).finished
    run = search(Torn(), limits=(few, quiet))
    assert run.failure.startswith("limits: params=20000, memory=0.4 contradict each other")
