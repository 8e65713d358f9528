"""Layers frozen, limited and snapped; and the search cut short after its first stage."""

from __future__ import annotations

from typing import Any

import pytest
from tests.engine.search.driven import QUICK, search
from tests.engine.search.world import World

from diminuendo.engine.plan import DENSE
from diminuendo.engine.search import patterns
from diminuendo.engine.search.session import Session
from diminuendo.engine.search.space import Space
from diminuendo.engine.search.work import Prepare, Prepared, SurveyLayer, Work

NAMES = ("stem", "layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", "fc")


def test_patterns_span_dots_and_mind_case() -> None:
    assert [name for name in NAMES if patterns.matches(("layer1.*", "fc"), name)] == [NAMES[1], NAMES[2], "fc"]
    assert not patterns.matches(("FC",), "fc")
    assert patterns.complaint("freeze", ("layer1.*", "fc"), NAMES) is None


def test_a_pattern_that_means_nothing_names_the_nearest_layers() -> None:
    complaint = patterns.complaint("freeze", ("fc", "layer1.0.convl"), NAMES)
    assert complaint is not None
    assert complaint.startswith("freeze: no layer is named like 'layer1.0.convl'; the nearest are layer1.0.conv")
    assert patterns.complaint("freeze", ("?",), NAMES) == (
        "freeze: no layer is named like '?'; the nearest are stem, layer1.0.conv1, layer1.0.conv2"
    )


@pytest.mark.parametrize("seed", range(3))
def test_frozen_layers_stay_dense_and_are_not_surveyed(seed: int) -> None:
    run = search(freeze=("layer[03]",), seed=seed)
    assert [question.layer for question in run.surveyed] == ["layer1", "layer2"]
    assert all(plan["layer0"] == plan["layer3"] == DENSE for plan in run.plans)
    assert run.plan["layer2"] != DENSE
    assert run.finished.inside_delta


def test_a_pattern_that_matches_nothing_ends_the_job_before_the_survey() -> None:
    for wish in ({"freeze": ("layer9",)}, {"max_ratio": (("layer9", 4.0),)}):
        run = search(**wish)
        field = next(iter(wish))
        assert run.failure.startswith(f"{field}: no layer is named like 'layer9'; the nearest are layer")
        assert len(run.works) == 1


def test_freezing_everything_is_refused() -> None:
    assert search(freeze=("layer?",)).failure == "freeze: layer? leaves no layer to compress; freeze fewer of 4"


@pytest.mark.parametrize("seed", range(3))
def test_limited_layers_shrink_no_further(seed: int) -> None:
    world = World()
    run = search(max_ratio=(("layer2", 3.0), ("layer*", 6.0), ("layer3", 1.0)), seed=seed)
    for plan in run.plans:
        for i, (name, choice) in enumerate(plan.items()):
            ratio = world.cost(DENSE, i).params / world.cost(choice, i).params
            assert ratio <= {"layer2": 3.0, "layer3": 1.0}.get(name, 6.0)
    ratios = [world.cost(DENSE, 2).params / world.cost(plan["layer2"], 2).params for plan in run.plans]
    assert max(ratios) > 2.0


def test_the_multiple_reaches_the_survey_and_so_every_plan() -> None:
    run = search(multiple=8)
    assert {question.multiple for question in run.surveyed} == {8}
    ranks = {rank for plan in run.plans for choice in plan.values() for rank in choice.ranks}
    assert ranks
    assert all(rank % 8 == 0 for rank in ranks)


def test_a_space_without_wishes_has_every_option(world: World) -> None:
    session = Session(QUICK)
    prepared = world.run(session.ask()[0])
    assert isinstance(prepared, Prepared)
    surveys = [world.run(Work(0, SurveyLayer("", "", "", f"layer{i}", 0, 1), "")) for i in range(4)]
    space = Space.of(prepared, surveys)  # type: ignore[arg-type]
    assert [len(layer.options) for layer in space.layers] == [1 + len(world.options(i)) for i in range(4)]


def test_stage_1_ends_after_the_exploration_and_certifies() -> None:
    first, whole = search(stage=1), search()
    assert first.finished.inside_delta
    assert {step.stage for step in first.steps} == {"prepare", "survey", "explore", "certify", "done"} - {"prepare"}
    subjects = [w.subject.split()[0] for w in first.works]
    assert "bracket" in subjects
    assert not {"move", "polish"} & set(subjects)
    # Up to there both decide alike.
    explored = len([s for s in first.steps if s.stage == "explore"]) + 5
    assert [w.key for w in first.works[:explored]] == [w.key for w in whole.works[:explored]]
    assert first.finished.params_ratio < whole.finished.params_ratio
    assert first.certificate["stage"] == 1


def test_expected_works_of_stage_1_leave_out_the_annealing() -> None:
    run = search(stage=1)
    assert all(step.works_expected >= step.works_done for step in run.steps)
    assert run.steps[0].works_expected == len(run.works) or run.steps[0].works_expected < 35


@pytest.mark.parametrize(
    "wishes",
    [
        {"objective": "macs", "limits": (("memory", 0.1),)},
        {"freeze": ("layer1",), "max_ratio": (("layer3", 4.0),), "multiple": 4},
        {"stage": 1, "budget": (("epochs", 60.0),)},
        {"budget": (("evaluations", 9.0), ("minutes", 5.0)), "effort": "normal"},
    ],
)
def test_dump_and_load_anywhere_change_nothing_and_the_same_seed_decides_alike(wishes: dict[str, Any]) -> None:
    once, again, reloaded = search(**wishes), search(**wishes), search(reload=True, **wishes)
    assert once == again == reloaded


def test_a_prepared_question_has_no_wish_in_it() -> None:
    """What is known of the original is shared by all jobs, whatever they ask for."""
    asked = [Session(QUICK).ask()[0], search(freeze=("layer0",), stage=1).works[0]]
    assert asked[0].key == asked[1].key
    assert isinstance(asked[0].question, Prepare)
