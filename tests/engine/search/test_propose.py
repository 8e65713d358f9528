"""Where candidates are tried when few of them can be paid for, and where delta is expected to be crossed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from tests.engine.search.driven import QUICK, Run, search
from tests.engine.search.test_budget import with_budget
from tests.engine.search.test_surrogate import space_of
from tests.engine.search.world import World

from diminuendo.engine.plan import Plan
from diminuendo.engine.search import propose
from diminuendo.engine.search.session import RESERVE_STEP, RESERVES
from diminuendo.engine.search.settings import EFFORTS
from diminuendo.engine.search.space import Space
from diminuendo.engine.search.standing import TUNING, Crowd, Standing
from diminuendo.engine.search.state import State, Trial
from diminuendo.engine.search.work import Evaluated, Judge

SETTINGS = EFFORTS["quick"]


def standing(*drops: tuple[float, float]) -> Standing:
    """How (params ratio, drop) of candidates stand, in the made-up world; divergence follows the drop."""
    state, space = State(QUICK), space_of(World())
    for index, (ratio, drop) in enumerate(drops):
        plan = Plan(tuple((layer.spec.name, layer.options[-1 - index].choice) for layer in space.layers))
        cost = replace(space.cost(plan), params=int(space.total.params / ratio))
        state.trials.append(Trial(index, "first", plan.choices, None, 1.0, 1.0, cost, drop, math.exp(drop), "weights"))
    return standing_of(state, space)


def standing_of(state: State, space: Space) -> Standing:
    return Standing(state, space, Crowd(space, state.request.tolerance, state.trials))


def tried(run: Run, role: str) -> list[float]:
    """Params ratios of the candidates of a role."""
    return [step.candidate.params_ratio for step in run.steps if step.candidate and step.summary.startswith(f"{role} ")]


def test_between_sizes_that_lie_far_apart_the_log_of_the_drop_is_interpolated() -> None:
    crossing = propose.crossing(standing((2.0, 0.25), (32.0, 16.0)))
    assert crossing is not None
    assert math.exp(crossing) == pytest.approx(2.0 * 16 ** (math.log(4) / math.log(64)), rel=1e-3)


def test_a_drop_of_nothing_counts_as_a_faint_one() -> None:
    one, two = (propose.crossing(standing((2.0, drop), (32.0, 8.0))) for drop in (-0.5, 0.0))
    assert one == two
    assert one is not None
    assert math.exp(one) == pytest.approx(2.0 * 4, rel=1e-3)


def test_where_all_are_outside_there_is_no_crossing_and_where_all_are_inside_it_lies_beyond() -> None:
    assert propose.crossing(standing((2.0, 1.5), (4.0, 3.0))) is None
    beyond = propose.crossing(standing((2.0, 0.25), (4.0, 0.5)))
    assert beyond is not None
    assert math.exp(beyond) == pytest.approx(8.0, rel=1e-3)


def test_a_candidate_far_from_delta_is_not_tuned_on() -> None:
    far = standing((1.5, 0.125), (60.0, 60.0))
    assert propose.kept(far, SETTINGS) == []
    near = standing((4.0, 0.8), (6.0, 1.3), (60.0, 60.0))
    assert [p.parent.index for p in propose.kept(near, SETTINGS) if p.parent] == [0, 1]


def test_a_bracket_ends_where_more_tuning_may_still_bring_delta() -> None:
    found = standing((2.0, 0.25), (32.0, 16.0))
    total = found.space.total.params
    crossing = propose.crossing(found)
    assert crossing is not None
    proposals = propose.bracket(found, replace(SETTINGS, bracket=1))
    assert [p.parent.index for p in proposals if p.parent] == [0]
    ratio = total / found.space.cost(proposals[0].plan).params
    assert 2.0 < ratio < math.exp(crossing + 2 * propose.FAR)


def test_the_first_step_reaches_for_the_crossing_within_twice_the_efforts() -> None:
    assert propose.first_step(standing((2.0, 0.5), (16.0, 4.0)), SETTINGS) == 2 * SETTINGS.step
    assert propose.first_step(standing((2.0, 0.9), (2.2, 1.2)), SETTINGS) == SETTINGS.step
    assert propose.first_step(standing((2.0, 3.0)), SETTINGS) == SETTINGS.step


@pytest.mark.parametrize("evaluations", [6, 8])
def test_few_first_plans_leave_the_ends_of_the_range_to_those_that_have_many(evaluations: int) -> None:
    many, few = (tried(search(**wishes), "first") for wishes in ({}, with_budget(evaluations=evaluations)))
    assert 1 < len(few) < propose.FEW < len(many)
    assert many[0] * 1.2 < few[0] < few[-1] < many[-1] / 1.2


@pytest.mark.parametrize("epochs", [40, 48, 60])
def test_little_tuning_is_not_spent_far_from_delta(epochs: float) -> None:
    run = search(**with_budget(epochs=epochs))
    assert run.finished.inside_delta
    assert run.finished.params_ratio > 4
    later = [ratio for role in ("keep", "bracket", "move", "polish") for ratio in tried(run, role)]
    assert later
    assert max(later) < 2.5 * run.finished.params_ratio


# --- what full tuning is expected to do ----------------------------------------------------------------------


def test_drops_fall_with_a_power_of_the_epochs_until_tunings_show_another() -> None:
    found = standing((2.0, 0.25), (4.0, 1.2))
    trial = found.trials[1]
    assert found.forecast(trial, 6.0) == pytest.approx(found.estimates[1] * (2 / 8) ** TUNING)
    assert found.forecast(trial, 0.0) == pytest.approx(found.estimates[1])


def test_a_tuning_that_brought_much_or_nothing_moves_the_forecast() -> None:
    def after(drop: float) -> float:
        tuned = standing((2.0, 0.25), (4.0, 1.2))
        before = tuned.state.trials[1]
        more = replace(before, index=2, role="keep", parent=1, epochs=6.0, lineage_epochs=7.0, drop=drop)
        tuned.state.trials.append(replace(more, divergence=math.exp(drop)))
        tuned = standing_of(tuned.state, tuned.space)
        return tuned.forecast(before, 6.0) / tuned.estimates[1]

    assert after(0.5) < (2 / 8) ** TUNING < after(1.2)


def test_the_smallest_candidate_that_full_tuning_is_trusted_with_is_gone_on_from() -> None:
    found = standing((2.0, 0.25), (4.0, 0.9), (5.0, 1.1), (6.0, 2.5))
    assert found.incumbent is found.trials[1]
    assert propose.base_of(found, SETTINGS) is found.trials[2]
    assert propose.base_of(found, replace(SETTINGS, final_epochs=0)) is found.trials[1]
    (smallest, *larger) = propose.finalists(found, SETTINGS)
    assert (smallest.parent, smallest.plan) == (found.trials[2], Plan(found.trials[2].choices))
    assert len(larger) == len(SETTINGS.growths) - 1


def test_finalists_that_are_much_larger_do_not_inherit_the_best_ones_faults() -> None:
    found = standing((2.0, 0.25), (4.0, 0.9))
    settings = replace(SETTINGS, growths=(1.0, 1.15, 1.35))
    assert [p.parent for p in propose.finalists(found, settings)] == [found.trials[1], found.trials[1], None]


def test_where_none_is_inside_sizes_are_tried_near_the_one_that_full_tuning_may_bring_there() -> None:
    """One candidate is larger by the factor that the forecast of 1.8 is outside by, not half of the way to 1x."""
    found, one = standing((6.0, 1.8)), replace(SETTINGS, bracket=1)
    assert propose.base_of(found, one) is None
    missing = found.forecast(found.trials[0], one.final_epochs) / propose.SURE
    growth = max(propose.LEAST_GROWTH, missing ** (1 / found.steepness))
    assert 1.0 < missing < math.sqrt(6.0)
    (near,) = propose.bracket(found, one)
    assert found.space.cost(near.plan).params == pytest.approx(growth * found.trials[0].cost.params, rel=0.05)
    (far,) = propose.bracket(found, replace(one, final_epochs=0))
    assert found.space.cost(far.plan).params > found.space.cost(near.plan).params


def test_a_finalist_outside_delta_is_tuned_on_or_given_capacity() -> None:
    found = standing((4.0, 1.1))
    final = found.trials[0]
    again = propose.ease(found, SETTINGS, [final], 12.0)
    assert again is not None
    assert (again.role, again.parent, again.plan, again.epochs) == ("ease", final, Plan(final.choices), 12.0)
    grown = propose.ease(found, SETTINGS, [final], 1 / 32)
    assert grown is not None
    assert grown.parent is final
    assert 1.0 < found.space.cost(grown.plan).params / final.cost.params <= 1.1 / propose.SURE + 1e-3
    assert propose.ease(found, replace(SETTINGS, easings=0), [final], 12.0) is None
    assert propose.ease(standing((4.0, 0.9)), SETTINGS, standing((4.0, 0.9)).trials, 12.0) is None


def test_between_a_finalist_outside_and_a_candidate_inside_there_may_be_another_one() -> None:
    """3 points ask for twice the params, beyond those of the one inside: their middle is tried, if there is one."""
    found = standing((3.0, 0.3), (4.0, 3.0))
    inside, final = found.trials
    between = propose.ease(found, SETTINGS, [final], 1 / 32)
    assert between is not None
    middle = math.sqrt(inside.cost.params * final.cost.params)
    assert found.space.cost(between.plan).params == pytest.approx(middle, rel=0.05)
    near = standing((3.8, 0.3), (4.0, 3.0))
    assert propose.ease(near, SETTINGS, [near.trials[1]], 1 / 32) is None


def test_a_finalist_far_inside_is_made_as_small_as_drops_have_grown_with_the_ratio() -> None:
    """By hand: a drop of 0.65 may grow to 0.9, hence the ratio by about the root of that, as drops grow as squares."""
    found = standing((4.0, 0.65), (8.0, 2.6))
    final = found.trials[0]
    steepness = (1.5 * 0.5 + 0.5 * math.log(2) * math.log(4)) / (0.5 + 0.5 * math.log(2) ** 2)
    assert found.steepness == pytest.approx(steepness, rel=0.02)
    smaller = propose.squeeze(found, SETTINGS, [final], 0.0)
    assert smaller is not None
    assert (smaller.role, smaller.parent, smaller.epochs) == ("squeeze", final, 0.0)
    ratio = math.exp(math.log(0.9 / 0.65) / found.steepness)
    assert final.cost.params / found.space.cost(smaller.plan).params == pytest.approx(ratio, rel=0.05)
    # Tuning brings it nearer to the original, so that it may be smaller yet; near delta it is left as it is.
    longer = propose.squeeze(found, SETTINGS, [final], 24.0)
    assert longer is not None
    assert found.space.cost(longer.plan).params < found.space.cost(smaller.plan).params
    far = standing((4.0, 0.1))
    at_once = propose.squeeze(far, SETTINGS, far.trials, 0.0)
    assert at_once is not None
    amounts = far.trials[0].cost.params, far.space.cost(at_once.plan).params
    assert math.log(amounts[0] / amounts[1]) == pytest.approx(SETTINGS.step, abs=0.05)
    near = standing((4.0, 0.85))
    assert propose.squeeze(near, SETTINGS, near.trials, 0.0) is None
    assert propose.squeeze(near, SETTINGS, near.trials, 24.0) is not None


def of_role(run: Run, *roles: str) -> list[str]:
    """Weights of the candidates of some roles."""
    return [
        answer.weights
        for work, answer in zip(run.works, run.answers, strict=True)
        if isinstance(answer, Evaluated) and answer.weights and work.subject.startswith(roles)
    ]


def judged(run: Run) -> list[str]:
    question = run.works[-1].question
    assert isinstance(question, Judge)
    return [tuned.weights for tuned in question.finalists]


def test_where_full_tuning_spoils_what_was_inside_delta_that_is_judged_as_it_was() -> None:
    """From 24 epochs on every drop of this world is 2.5 times as large."""
    run = search(World(cured=2.5), **with_budget(epochs=60))
    (final,) = tried(run, "final")
    assert run.finished.inside_delta
    assert 1 <= len(set(judged(run)) - set(of_role(run, "final", "squeeze", "ease"))) <= RESERVES
    assert run.finished.params_ratio in tried(run, "move") + tried(run, "bracket") + tried(run, "polish")
    assert final > run.finished.params_ratio


@pytest.mark.parametrize("wishes", [{}, *(with_budget(epochs=n) for n in (30, 40, 50, 60))], ids=str)
def test_larger_candidates_inside_delta_are_judged_beside_the_finalists(wishes: dict[str, Any]) -> None:
    run = search(**wishes)
    reserves = set(judged(run)) - set(of_role(run, "final", "squeeze", "ease"))
    assert 1 <= len(reserves) <= RESERVES
    told = zip(run.steps, run.answers, strict=True)
    inside = {
        answer.weights: step.candidate.params_ratio
        for step, answer in told
        if isinstance(answer, Evaluated)
        and step.candidate
        and step.candidate.drop <= 1.0
        and "control" not in step.summary
    }
    ratios = [inside[weights] for weights in reserves]
    assert min(ratios) == min(inside.values())
    step = max(RESERVE_STEP, (max(ratios) / min(ratios)) ** (1 / (RESERVES - 1)))
    for ratio in inside.values():
        assert ratio > max(ratios) or any(ratio <= near < step * ratio for near in ratios), (ratio, ratios)


def test_a_sealed_half_that_is_stricter_takes_a_larger_candidate_and_not_none() -> None:
    """All finalists descend from one candidate: what is spoilt for one is spoilt for all of them."""
    kind, strict = (search(World(stricter=points), **with_budget(epochs=40)) for points in (0.0, 0.7))
    assert kind.finished.inside_delta
    assert strict.finished.inside_delta
    assert 1.0 < strict.finished.params_ratio < min(tried(strict, "final"))
