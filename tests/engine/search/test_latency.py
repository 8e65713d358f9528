"""Latency as the objective and as a limit: candidates by the table, finalists as measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.engine.search.driven import QUICK, search
from tests.engine.search.world import REST, WIDTHS, World, profile_of

from diminuendo.engine.cost import Cost
from diminuendo.engine.plan import DENSE, Choice, Plan
from diminuendo.engine.search.objective import LATENCY_MARGIN, Goal
from diminuendo.engine.search.result import pick, time_ratio
from diminuendo.engine.search.space import Space
from diminuendo.engine.search.work import Judged, LayerTime, Prepare, Prepared, Surveyed, SurveyLayer, Verdict, Work

MS = 1e6


def survey(world: World) -> tuple[Prepared, list[Surveyed]]:
    prepared = world.run(Work(0, Prepare("", 0, 1), ""))
    assert isinstance(prepared, Prepared)
    questions = [SurveyLayer("", "", "", f"layer{i}", 0, 1, latency=True) for i in range(len(WIDTHS))]
    answers = [world.run(Work(0, question, "")) for question in questions]
    return prepared, [answer for answer in answers if isinstance(answer, Surveyed)]


def test_forms_are_timed_only_for_jobs_that_ask_for_it() -> None:
    assert {question.latency for question in search().surveyed} == {False}
    assert {question.latency for question in search(objective="latency").surveyed} == {True}
    assert {question.latency for question in search(limits=(("latency", 1.0),)).surveyed} == {True}
    assert not Goal("macs", (("size", 1.0),)).timed


def test_the_fastest_network_is_not_the_smallest() -> None:
    world = World()
    fast, small = (world.plan_cost(search(objective=name).plan) for name in ("latency", "params"))
    assert fast.latency_ns < small.latency_ns
    assert small.params < fast.params


def test_the_space_has_the_times_of_the_survey() -> None:
    world = World()
    space = Space.of(*survey(world), replace(QUICK, objective="latency"))
    assert space.total.latency_ns == world.total().latency_ns
    assert space.fixed.latency_ns == REST.latency_ns
    plan = space.dense.replace("layer1", Choice("svd", (6,))).replace("layer3", Choice("tucker2", (14, 14)))
    assert space.cost(plan).latency_ns == world.plan_cost(plan).latency_ns
    assert space.timed(Cost(1, 2, 3, 4), plan) == Cost(1, 2, 3, 4, world.plan_cost(plan).latency_ns)
    assert space.amount(space.total) == world.total().latency_ns


def test_layers_that_were_timed_on_another_machine_count_by_their_share() -> None:
    """Layer 2 was timed where everything takes three times as long."""

    class Mixed(World):
        def timed(self, i: int) -> LayerTime:
            time = super().timed(i)
            return replace(time, dense_ns=3 * time.dense_ns, whole_ns=3 * time.whole_ns) if i == 2 else time

        def run(self, work: Work):  # type: ignore[no-untyped-def]
            answer = super().run(work)
            if isinstance(answer, Surveyed) and answer.layer == "layer2":
                slow = [replace(o, cost=replace(o.cost, latency_ns=3 * o.cost.latency_ns)) for o in answer.options]
                return replace(answer, options=tuple(slow))
            return answer

    request = replace(QUICK, objective="latency")
    assert Space.of(*survey(Mixed()), request) == Space.of(*survey(World()), request)


def test_layers_that_take_longer_than_the_network_make_it_longer() -> None:
    class Hasty(World):
        def timed(self, i: int) -> LayerTime:
            return replace(super().timed(i), whole_ns=1000)

    space = Space.of(*survey(Hasty()), replace(QUICK, objective="latency"))
    assert space.fixed.latency_ns == 0
    assert space.total.latency_ns == space.cost(space.dense).latency_ns


def test_frozen_layers_take_their_time_though_nobody_surveyed_them() -> None:
    world = World()
    prepared, surveys = survey(world)
    request = replace(QUICK, objective="latency", freeze=("layer3",))
    space = Space.of(prepared, surveys[:3], request)
    assert space.fixed.latency_ns == REST.latency_ns + world.cost(DENSE, 3).latency_ns
    assert space.cost(space.dense).latency_ns == world.total().latency_ns


def test_the_certificate_tells_what_was_measured_and_what_the_table_said() -> None:
    run, world = search(World(off=1.03), objective="latency"), World()
    original, found = world.total().latency_ns, world.plan_cost(run.plan).latency_ns
    latency = run.certificate["latency"]
    assert latency["original_ms"] == original / MS
    assert latency["compressed_ms"] == pytest.approx(1.03 * found / MS, rel=1e-5)
    assert latency["ratio"] == run.certificate["time_ratio"] == run.finished.objective_ratio
    assert latency["ratio"] == pytest.approx(original / found / 1.03)
    assert latency["predicted_ratio"] == pytest.approx(original / found)
    assert latency["spread"] == 0.02
    assert latency["machine"] == "a made-up machine"
    assert latency["predicted_on"] == ["a made-up machine"]


def test_a_table_of_another_machine_is_warned_of() -> None:
    """As where outcomes are known from a job that ran elsewhere."""

    class Moved(World):
        def timed(self, i: int) -> LayerTime:
            return replace(super().timed(i), machine="the machine of last year")

    for world, expected in ((World(), ()), (Moved(), ("TIMED_ELSEWHERE",))):
        run = search(world, objective="latency", stage=1)
        assert tuple(reason for reason, _ in run.steps[-1].warnings) == expected
    assert run.steps[-1].warnings[0][1] == (
        "latencies were told by a table of the machine of last year, the finalists were timed on a made-up machine"
    )
    assert run.certificate["latency"]["predicted_on"] == ["the machine of last year"]


def test_without_a_table_the_time_is_measured_all_the_same() -> None:
    latency = search().certificate["latency"]
    assert latency["ratio"] > 1.0
    assert latency["predicted_ratio"] is None
    assert latency["predicted_on"] == []


@pytest.mark.parametrize("seed", range(2))
def test_a_limit_is_kept_as_measured_whole_where_the_table_is_a_little_off(seed: int) -> None:
    world = World(off=1.04)
    most = 0.62 * world.total().latency_ns / MS
    run = search(world, limits=(("latency", most),), seed=seed)
    candidates = [plan for plan in run.plans if any(choice != DENSE for choice in plan.values())]
    assert len(candidates) > 10
    assert all(world.plan_cost(plan).latency_ns <= (1 - LATENCY_MARGIN) * most * MS for plan in candidates)
    assert run.finished.inside_delta
    assert run.certificate["latency"]["compressed_ms"] <= most
    assert run.certificate["limits_exceeded"] == []


def test_a_target_is_met_as_measured_whole_where_the_table_is_a_little_off() -> None:
    most = 0.6 * World().total().latency_ns / MS
    run = search(World(off=1.04), delta=None, target=("latency", most), objective="latency")
    assert run.certificate["target_met"]
    assert 0.8 * most <= run.certificate["latency"]["compressed_ms"] <= most


def test_a_limit_that_is_broken_as_measured_is_broken_whatever_the_table_said() -> None:
    world = World(off=1.5)
    most = 0.62 * world.total().latency_ns / MS
    run = search(world, limits=(("latency", most),))
    assert run.finished.drop <= 1.0
    assert not run.finished.inside_delta
    assert run.certificate["limits_exceeded"] == ["latency"]


def test_a_limit_that_no_plan_keeps_says_what_is_kept_back() -> None:
    world = World()
    least = REST.latency_ns
    for i in range(len(WIDTHS)):
        least += min([world.cost(DENSE, i).latency_ns, *(o.cost.latency_ns for o in world.options(i))])
    run = search(limits=(("latency", least / MS),))  # the margin is what is missing
    assert run.failure.startswith(f"limits: latency={least / MS:g} cannot be kept: the least")
    assert f"{least / MS:.4g} ms of latency, and 5% of the limit are kept back for noise" in run.failure


def test_where_no_form_is_faster_than_its_layer_nothing_is_compressed() -> None:
    class Calls(World):
        """Calls are all that takes time."""

        def cost(self, choice: Choice, i: int) -> Cost:
            stages = {"dense": 1, "svd": 2, "tucker2": 3}[choice.format]
            return replace(super().cost(choice, i), latency_ns=5000 * stages)

    run = search(Calls(), objective="latency")
    assert run.finished.inside_delta
    assert all(choice == DENSE for choice in run.plan.values())
    assert run.certificate["time_ratio"] == 1.0


def test_the_fastest_finalist_inside_delta_is_picked_as_measured() -> None:
    def judged(*finalists: tuple[float, int]) -> Judged:
        verdicts = tuple(Verdict(98.0 - drop, drop, drop, drop) for drop, _ in finalists)
        profiles = tuple(profile_of(Cost(10, 10, latency_ns=ns)) for _, ns in finalists)
        return Judged(98.0, verdicts, verdicts[0], profiles[0], profiles, "", 0.0)

    request = replace(QUICK, objective="latency")
    assert pick(judged((0.9, 300), (0.5, 200), (1.5, 100)), request) == 1
    assert pick(judged((0.9, 200), (0.5, 200)), request) == 0


def test_the_time_ratio_of_an_outcome_without_a_race_is_that_of_its_times() -> None:
    """As it was recorded by an earlier version."""
    plan = Plan.of({f"layer{i}": DENSE for i in range(4)})
    profile = profile_of(World().plan_cost(plan))
    verdict = Verdict(98.0, 0.0, 0.0, 0.0)
    judged = Judged(98.0, (verdict,), verdict, replace(profile, time_ms=3.0), (replace(profile, time_ms=2.0),), "", 0.0)
    assert time_ratio(judged, 0) == 1.5
    assert time_ratio(replace(judged, time_ratios=(1.4,)), 0) == 1.4


@pytest.mark.parametrize("wishes", [{"objective": "latency"}, {"limits": (("latency", 0.2),)}])
def test_dump_and_load_keep_the_table(wishes: dict[str, Any]) -> None:
    assert search(reload=True, **wishes) == search(**wishes)
