from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.engine.search.driven import search
from tests.engine.search.world import World

from diminuendo.engine.search.drive import AnyAnswer, Done, Stopped, drive
from diminuendo.engine.search.session import Finished, Request, Session, StateError, Step
from diminuendo.engine.search.work import OWN, OWN_RIVAL, Evaluate, Failed, Judge, Numerics, Prepared, Work

REQUEST = Request("zoo:made-up", delta=1.0, effort="quick")


class ShuffledExecutor:
    """Finishes works in a random order, as a cluster of `slots` evaluators would."""

    def __init__(self, world: World, slots: int, seed: int) -> None:
        self.world, self.slots, self.random = world, slots, random.Random(seed)
        self.line: list[Work] = []

    def submit(self, work: Work) -> None:
        assert len(self.line) < self.slots
        self.line.append(work)

    def wait(self, timeout_s: float) -> list[Done]:
        work = self.line.pop(self.random.randrange(len(self.line)))
        return [Done(work, self.world.run(work), "e", 0.0)]

    def cancel(self) -> None:
        self.line.clear()


class MemoryJournal:
    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.outcomes: dict[str, AnyAnswer] = {}
        self.state: bytes = b""
        self.stop_after: int | None = None

    def recall(self, keys: Sequence[str]) -> dict[str, AnyAnswer]:
        return {key: self.outcomes[key] for key in keys if key in self.outcomes}

    def record(self, done: Done) -> None:
        self.outcomes[done.work.key] = done.answer

    def commit(self, step: Step, session: Session) -> None:
        self.steps.append(step)
        self.state = session.dump()

    def stopped(self) -> bool:
        return self.stop_after is not None and len(self.steps) >= self.stop_after


def run(world: World, request: Request = REQUEST, slots: int = 1, seed: int = 0) -> tuple[Finished, MemoryJournal]:
    journal = MemoryJournal()
    outcome = drive(Session(request), ShuffledExecutor(world, slots, seed), journal)
    assert isinstance(outcome, Finished)
    return outcome, journal


def plan_of(finished: Finished) -> dict[str, object]:
    content = next(f.content for f in finished.files if f.name == "plan.json")
    assert content is not None
    loaded = json.loads(content)
    assert isinstance(loaded, dict)
    return loaded


def test_it_ends_inside_delta_and_close_to_it(world: World) -> None:
    finished, journal = run(world)
    assert finished.inside_delta
    assert 0.5 <= finished.drop <= 1.0
    best = journal.steps[-1].best
    assert best is not None
    assert finished.params_ratio > 4


def test_annealing_improves_on_exploration() -> None:
    world = World(misjudged={2: 6.0})
    _, journal = run(world)
    explored = [s.best.params_ratio for s in journal.steps if s.stage == "explore" and s.best]
    annealed = [s.best.params_ratio for s in journal.steps if s.stage == "anneal" and s.best]
    assert annealed[-1] > 1.05 * explored[-1]


@pytest.mark.parametrize(("slots", "seed"), [(1, 0), (2, 1), (3, 2), (100, 3)])
def test_decisions_do_not_depend_on_evaluators_or_the_order_of_arrival(slots: int, seed: int) -> None:
    expected, journal = run(World())
    finished, other = run(World(), slots=slots, seed=seed)
    assert other.steps == journal.steps
    assert finished == expected


def test_another_seed_decides_otherwise() -> None:
    _, one = run(World())
    _, two = run(World(), Request("zoo:made-up", delta=1.0, effort="quick", seed=1))
    assert [s.key for s in one.steps] != [s.key for s in two.steps]


def test_dump_and_load_at_every_step_change_nothing(world: World) -> None:
    expected, journal = run(World())
    session = Session(REQUEST)
    steps = []
    while session.outcome is None:
        session = Session.load(session.dump())
        work = session.ask()[0]
        assert work.index == session.next_index
        steps.append(session.tell(world.run(work)))
    assert steps == journal.steps
    assert session.outcome == expected


@pytest.mark.parametrize("stop_after", [1, 3, 8, 15, 25])
def test_a_successor_goes_on_from_the_last_commit_and_pays_nothing_twice(stop_after: int) -> None:
    expected, whole = run(World())
    world, journal = World(), MemoryJournal()
    journal.stop_after = stop_after
    with pytest.raises(Stopped):
        drive(Session(REQUEST), ShuffledExecutor(world, 3, 5), journal)
    journal.stop_after = None
    outcome = drive(Session.load(journal.state), ShuffledExecutor(world, 2, 6), journal)
    assert outcome == expected
    assert journal.steps == whole.steps
    assert len(world.answered) == len(set(world.answered))


def test_remembered_outcomes_are_never_computed_again() -> None:
    expected, journal = run(World())
    world = World()
    outcome = drive(Session(REQUEST), ShuffledExecutor(world, 2, 0), journal)
    assert outcome == expected
    assert world.answered == []


def test_a_diverged_candidate_does_not_stop_the_job() -> None:
    finished, journal = run(World(diverges=frozenset({5, 12, 20})))
    assert finished.inside_delta
    reasons = [reason for step in journal.steps for reason, _ in step.warnings]
    assert reasons.count("CANDIDATE_DIVERGED") == 3


def test_all_candidates_diverging_ends_the_job_with_a_reason() -> None:
    world = World(diverges=frozenset(range(5, 200)))
    outcome = drive(Session(REQUEST), ShuffledExecutor(world, 2, 0), MemoryJournal())
    assert isinstance(outcome, Failed)
    assert "diverged" in outcome.message


def test_nothing_inside_delta_gives_the_nearest_marked_so() -> None:
    finished, journal = run(World(floor=5.0))
    assert not finished.inside_delta
    assert journal.steps[-1].best is None
    assert finished.drop < 6.0


def test_strict_wants_the_upper_bound_inside() -> None:
    request = Request("zoo:made-up", delta=1.0, effort="quick", accept="strict")
    strict, _ = run(World(), request)
    estimate, _ = run(World())
    assert strict.inside_delta
    assert strict.drop <= 0.5  # the world's interval is half a point either way
    assert strict.params_ratio < estimate.params_ratio


def test_a_failed_work_ends_the_session_with_it() -> None:
    session = Session(REQUEST)
    session.tell(Failed("USER_CODE", "the network's forward: ValueError: no", "Traceback ..."))
    assert isinstance(session.outcome, Failed)
    assert session.ask() == []
    with pytest.raises(ValueError, match="ended"):
        session.tell(Failed("USER_CODE", "again"))


def test_an_outcome_of_another_kind_is_refused(world: World) -> None:
    session = Session(REQUEST)
    answer = world.run(session.ask()[0])
    session.tell(answer)
    with pytest.raises(ValueError, match="of kind"):
        session.tell(answer)


@pytest.mark.parametrize("data", [b"", b"not a state", Session(REQUEST).dump()[:-4]])
def test_damaged_state_is_discarded_with_a_word(data: bytes) -> None:
    with pytest.raises(StateError, match="start the search again"):
        Session.load(data)


def test_candidates_start_from_their_parents_weights(world: World) -> None:
    session, parents = Session(REQUEST), 0
    while session.outcome is None:
        work = session.ask()[0]
        if isinstance(work.question, Evaluate) and work.subject.startswith(("keep", "bracket", "move")):
            assert work.question.parent is not None
            parents += 1
        session.tell(world.run(work))
    assert parents > 5


def test_expected_works_are_told_and_reached(world: World) -> None:
    _, journal = run(world)
    assert journal.steps[-1].works_done == journal.steps[-1].works_expected == len(journal.steps)
    assert all(step.works_expected >= step.works_done for step in journal.steps)


def test_the_result_folder_has_its_files(world: World) -> None:
    finished, _ = run(world)
    names = ["model.safetensors", "plan.json", "certificate.json", "profile.json", "search.json"]
    assert [f.name for f in finished.files] == names
    plan = plan_of(finished)
    assert plan["source"] == "zoo:made-up"
    certificate = next(json.loads(f.content) for f in finished.files if f.name == "certificate.json" and f.content)
    assert certificate["params_ratio"] == finished.params_ratio
    assert certificate["drop_ci"] == [finished.drop - 0.5, finished.drop + 0.5]
    assert certificate["dense_control"]["epochs"] >= certificate["tuned_epochs"] - 8


@pytest.mark.parametrize(("cured", "squeezed"), [(1.0, False), (0.4, True)])
def test_finalists_that_full_tuning_leaves_far_inside_are_squeezed(cured: float, squeezed: bool) -> None:
    """Where the full tuning takes most of the drop away, smaller candidates use what it left of delta."""
    run = search(World(cured=cured))
    made = [work for work in run.works if work.subject.startswith("squeeze")]
    judged = run.works[-1].question
    assert isinstance(judged, Judge)
    assert bool(made) == squeezed
    if squeezed:
        finalist = next(
            step.candidate for step, work in zip(run.steps, run.works, strict=True) if "final" in work.subject
        )
        best = run.steps[-1].best
        assert finalist is not None
        assert best is not None
        assert best.params_ratio > 1.1 * finalist.params_ratio
        assert best.drop >= 0.8 or len(made) == 4
        assert len(judged.finalists) >= 4


class Fast(World):
    """Prepared where bfloat16 pays."""

    def run(self, work: Work) -> AnyAnswer:
        answer = super().run(work)
        return replace(answer, numerics=Numerics(bf16=True)) if isinstance(answer, Prepared) else answer


def test_every_candidate_is_tuned_as_was_found_fastest_at_the_start() -> None:
    found = search(Fast(), reload=True)
    assert {question.numerics for question in found.evaluations} == {Numerics(bf16=True)}
    assert found.certificate["precision"] == "bfloat16 autocast, channels_last"


@pytest.mark.parametrize(("learned_by_heart", "better"), [(3.0, OWN), (0.5, OWN_RIVAL)])
def test_the_owners_loss_gets_the_weight_that_served_one_plan_better(learned_by_heart: float, better: float) -> None:
    run = search(World(own=None, learned_by_heart=learned_by_heart))
    first = [work.question for work in run.works if work.subject.startswith(("first", "rival"))]
    twins = [question for question in first if isinstance(question, Evaluate)]
    assert len(twins) == 6
    assert [question.own for question in twins] == [OWN] * 5 + [OWN_RIVAL]
    assert twins[-1].choices == twins[2].choices
    assert {question.own for question in run.evaluations[6:]} == {better}


@pytest.mark.parametrize("world", [World(own=0.5), World(own=None)])
def test_without_need_or_room_no_weight_is_tried(world: World) -> None:
    budget = () if world.own else (("evaluations", 7.0),)
    assert not [work for work in search(world, budget=budget).works if work.subject.startswith("rival")]
