"""Budgets are kept to the last evaluation, epoch and minute, and leave room for the certificate."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from tests.engine.search.driven import QUICK, Run, search
from tests.engine.search.world import World

from diminuendo.engine.cost import Cost
from diminuendo.engine.search import budget
from diminuendo.engine.search import state as states
from diminuendo.engine.search.budget import VERDICT, Finals, Forecast, Pace
from diminuendo.engine.search.drive import AnyAnswer, Done, drive
from diminuendo.engine.search.session import Finished, Session, Step
from diminuendo.engine.search.settings import EFFORTS, EffortName
from diminuendo.engine.search.state import StageNumber, State, Trial
from diminuendo.engine.search.work import Evaluate, Prepare, Prepared, Work

QUICK_SETTINGS = EFFORTS["quick"]


def prepared(**figures: float) -> Prepared:
    answer = World().run(Work(0, Prepare(QUICK.source, 0, 1), "prepare"))
    assert isinstance(answer, Prepared)
    return replace(answer, **figures)  # type: ignore[arg-type]


def spent(run: Run) -> tuple[int, float]:
    return len(run.evaluations), sum((question.epochs for question in run.evaluations), 0.0)


def with_budget(**most: float) -> dict[str, Any]:
    return {"budget": tuple(most.items())}


@pytest.mark.parametrize("effort", ["quick", "normal", "deep"])
@pytest.mark.parametrize("most", [3, 4, 5, 7, 10, 16, 20, 28])
def test_evaluations_are_never_exceeded_and_certification_is_among_them(most: int, effort: EffortName) -> None:
    run = search(effort=effort, **with_budget(evaluations=most))
    assert spent(run)[0] <= most
    assert spent(run)[0] >= most - 1
    assert run.certificate["evaluations"] == spent(run)[0]
    assert run.certificate["budget"] == {"evaluations": most}


@pytest.mark.parametrize("effort", ["quick", "normal", "deep"])
@pytest.mark.parametrize("most", [1, 3, 12, 13, 20, 35, 60, 100, 150, 250])
def test_epochs_are_never_exceeded(most: int, effort: EffortName) -> None:
    run = search(effort=effort, **with_budget(epochs=most))
    assert 0.5 * most <= spent(run)[1] <= most or spent(run) == spent(search(effort=effort))
    assert run.certificate["epochs"] == spent(run)[1]
    finals = [w.question for w in run.works if w.subject.startswith("final")]
    assert finals


@pytest.mark.parametrize("seed", range(4))
def test_both_at_once_with_candidates_that_diverge(seed: int) -> None:
    world = World(diverges=frozenset({6, 8}))
    run = search(world, seed=seed, **with_budget(evaluations=14, epochs=90))
    assert spent(run)[0] <= 14
    assert spent(run)[1] <= 90
    assert run.finished.inside_delta


def test_more_budget_finds_more_and_plenty_changes_nothing() -> None:
    ratios = [search(**with_budget(evaluations=most)).finished.params_ratio for most in (4, 12, 24)]
    assert ratios == sorted(ratios)
    assert ratios[0] < ratios[-1]
    plenty, free = search(**with_budget(evaluations=1000, epochs=100_000)), search()
    assert [w.key for w in plenty.works] == [w.key for w in free.works]


def test_the_best_so_far_is_what_comes_back() -> None:
    run = search(**with_budget(evaluations=9))
    best = [step.best for step in run.steps if step.stage == "explore"][-1]
    assert best is not None
    assert run.finished.inside_delta
    assert run.finished.params_ratio == pytest.approx(best.params_ratio)


def test_what_is_short_is_shared_between_counts_and_epochs() -> None:
    """By hand: quick takes 12 + 12 + 16 + 72 epochs, 3 finals of 12, and a control of 2 + 4 + 4 + 3 * 6 + 12.

    Of 48 epochs a quarter is the full tuning of one finalist, an eighth the control's, an eighth for what comes after.
    The other 24 are 0.214 of the search's 112: counts times 0.214^0.3 = 0.63, epochs times 0.214^0.7 = 0.340, in 32nd
    parts.
    """
    state = State(replace(QUICK, **with_budget(epochs=48)))
    less = budget.scaled(state, QUICK_SETTINGS)
    assert (less.budgets, less.kept, less.bracket, less.moves) == (4, 2, 3, 8)
    assert (less.first_epochs, less.kept_epochs, less.move_epochs) == (21 / 32, 43 / 32, 65 / 32)
    assert (less.growths, less.final_epochs) == ((1.0,), 12)
    assert less.window == 8 // 3
    # Of 120 a quarter pays for two full tunings; half of 24 pays for one, half of 18 for a shorter one.
    more, fewer, fewest = (
        budget.scaled(State(replace(QUICK, **with_budget(epochs=n))), QUICK_SETTINGS) for n in (120, 24, 18)
    )
    assert (more.growths, more.final_epochs) == ((1.0, 1.4), 12)
    assert (fewer.growths, fewer.final_epochs) == ((1.0,), 12)
    assert (fewest.growths, fewest.final_epochs) == ((1.0,), 9)
    assert budget.scaled(State(replace(QUICK, **with_budget(epochs=188))), QUICK_SETTINGS) is QUICK_SETTINGS
    assert budget.scaled(State(QUICK), QUICK_SETTINGS) is QUICK_SETTINGS


def test_what_certification_takes() -> None:
    """By hand: of 188 epochs half are 3 finals of 12, and the control takes an eighth at most."""
    finals = budget.finals(State(replace(QUICK, **with_budget(epochs=188))), QUICK_SETTINGS)
    assert finals == Finals(count=3, epochs=12, control=188 / 8)
    assert finals.total(lineage=6) == 3 * 12 + 6 + 12
    assert finals.total(lineage=20) == 3 * 12 + 23.5
    few = State(replace(QUICK, **with_budget(epochs=12)))
    assert budget.finals(few, QUICK_SETTINGS) == Finals(count=1, epochs=6, control=12 / 8)
    # Of 10 evaluations (10 - 1) // 3 = 3 are finalists, beside the control.
    by_number = State(replace(QUICK, **with_budget(evaluations=10)))
    assert budget.finals(by_number, QUICK_SETTINGS).count == 3
    assert budget.room(by_number, QUICK_SETTINGS, 4, 4) == 10 - 3 - 1
    assert budget.room(State(QUICK), QUICK_SETTINGS, 4, 4) == budget.UNLIMITED


def test_certification_takes_no_more_than_is_left_whatever_was_planned() -> None:
    """Of 10 evaluations 3 finals were planned; after 7 there is room for 2 and the control, after 8 for 1."""
    trial = Trial(0, "first", (), None, 6, 6, Cost(1, 1), 0.0, 0.0, "w")
    for done, count in ((6, 3), (7, 2), (8, 1)):
        state = State(replace(QUICK, **with_budget(evaluations=10)), trials=[trial] * done)
        assert budget.affordable(state, QUICK_SETTINGS) == Finals(count, 12)
    # Of 100 epochs 3 finals of 12 were planned, with a control of 12.5: 48.5. Of what is short the control gives up
    # all but a quarter, then finalists, then epochs of the last one.
    for spent_epochs, count, epochs, control in (
        (51.5, 3, 12, 12.5),
        (52, 3, 12, 12),
        (64, 2, 12, 9),
        (90, 1, 7.5, 2.5),
    ):
        state = State(replace(QUICK, **with_budget(epochs=100)), trials=[trial], epochs=spent_epochs)
        assert budget.affordable(state, QUICK_SETTINGS) == Finals(count, epochs, control)


def test_the_forecast_is_the_most_that_a_search_takes() -> None:
    for effort in ("quick", "normal"):
        for stage in (1, 2):
            run = search(effort=effort, stage=stage)
            whole = budget.forecast(replace(QUICK, effort=effort, stage=stage), EFFORTS[effort])
            evaluations, epochs = spent(run)
            assert evaluations <= whole.evaluations
            assert epochs <= whole.epochs
    # Quick, stage 1, by hand: 6 + 3 + 4 candidates, 3 finalists, the control.
    first = budget.forecast(replace(QUICK, stage=1), QUICK_SETTINGS)
    assert first.evaluations == 6 + 3 + 4 + 3 + 1
    assert first.epochs == 6 * 2 + 3 * 4 + 4 * 4 + 3 * 12 + (2 + 4 + 4 + 12)
    # Stage 2 has up to 4 squeezes of 6 epochs and 2 easings of 12 after the finals.
    second = budget.forecast(QUICK, QUICK_SETTINGS)
    assert (second.evaluations, second.epochs) == (6 + 3 + 4 + 12 + 3 + 1 + 4 + 2, 188 + 4 * 6 + 2 * 12)
    # Of 5 evaluations one is a finalist and one the control; a candidate takes at most a move's 6 epochs.
    few = budget.forecast(replace(QUICK, **with_budget(evaluations=5)), QUICK_SETTINGS)
    assert few == Forecast(5, 3 * 6 + 12 + (2 + 4 + 4 + 3 * 6 + 12) + 4 * 6 + 2 * 12)


# --- minutes -------------------------------------------------------------------------------------------------


class Clocked:
    """An executor on a clock of its own: an epoch takes as many seconds as the world says, all else one.

    It holds several works, so that some are under way when the time is over.
    """

    def __init__(self, world: World, slots: int = 1, *, slows_after: float = math.inf, slower: float = 4.0) -> None:
        self.world, self.slots, self.slows_after, self.slower = world, slots, slows_after, slower
        self.line: list[Work] = []
        self.now = 100.0
        self.given_up: list[Work] = []

    def clock(self) -> float:
        return self.now

    def submit(self, work: Work) -> None:
        self.line.append(work)

    def wait(self, timeout_s: float) -> list[Done]:
        work = self.line.pop(0)
        answer = self.world.run(work)
        self.now += getattr(answer, "seconds", 0.0) * (self.slower if self.now - 100.0 > self.slows_after else 1.0)
        return [Done(work, answer, "e", 0.0)]

    def cancel(self) -> None:
        self.given_up += self.line
        self.line = []


class Kept:
    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.states: list[bytes] = []

    def recall(self, keys: object) -> dict[str, AnyAnswer]:
        return {}

    def record(self, done: Done) -> None:
        pass

    def commit(self, step: Step, session: Session) -> None:
        self.steps.append(step)
        self.states.append(session.dump())

    def stopped(self) -> bool:
        return False


def timed(minutes: float, *, slots: int = 1, beside_s: float = 0.0, **most: Any) -> tuple[Finished, Clocked, Kept]:
    executor, journal = Clocked(World(beside_s=beside_s), slots), Kept()
    session = Session(replace(QUICK, **with_budget(minutes=minutes, **most)))
    outcome = drive(session, executor, journal, clock=executor.clock)
    assert isinstance(outcome, Finished)
    return outcome, executor, journal


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("beside_s", [0.0, 2.0])
@pytest.mark.parametrize("minutes", [0.5, 1.0, 1.5, 2.0, 3.0])
def test_minutes_are_kept_but_for_the_last_evaluation(minutes: float, beside_s: float, slots: int) -> None:
    """What was started before the end takes at most a move's 6 epochs, at a second each."""
    finished, executor, journal = timed(minutes, slots=slots, beside_s=beside_s)
    assert executor.now - 100.0 <= 60 * minutes + 6.0 + 1.0 + beside_s
    assert finished.inside_delta
    assert [step.index for step in journal.steps] == list(range(len(journal.steps)))
    assert "certify" in {step.stage for step in journal.steps}


@pytest.mark.parametrize("minutes", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("evaluations", "epochs"), [(5, 30), (9, 60), (14, 90), (20, 140)])
def test_all_three_at_once(minutes: float, evaluations: int, epochs: int) -> None:
    finished, executor, _ = timed(minutes, slots=2, evaluations=evaluations, epochs=epochs)
    content = next(f.content for f in finished.files if f.name == "certificate.json")
    certificate = json.loads(content or b"")
    assert certificate["evaluations"] <= evaluations
    assert certificate["epochs"] <= epochs
    assert executor.now - 100.0 <= 60 * minutes + 6.0 + 1.0


def test_an_hour_is_plenty_and_changes_nothing() -> None:
    finished, executor, _ = timed(60.0)
    free = search().finished
    assert (finished.params_ratio, finished.drop) == (free.params_ratio, free.drop)
    assert executor.given_up == []


def test_works_under_way_are_given_up_and_their_places_taken() -> None:
    """The machine becomes sixteen times slower, so that what was started can no longer be waited for."""
    executor, journal = Clocked(World(), 3, slows_after=20.0, slower=16.0), Kept()
    drive(Session(replace(QUICK, **with_budget(minutes=1.0))), executor, journal, clock=executor.clock)
    assert executor.given_up
    assert len({step.key for step in journal.steps}) == len(journal.steps)
    assert not {work.key for work in executor.given_up} & {step.key for step in journal.steps}


def test_no_time_at_all_still_certifies_one_candidate() -> None:
    finished, _, journal = timed(0.01)
    assert len([s for s in journal.steps if s.candidate]) == 3  # one candidate, the control, one finalist
    assert finished.inside_delta


def test_who_goes_on_from_a_dump_knows_that_the_time_is_over() -> None:
    whole, _, journal = timed(1.0)
    ended = next(i for i, step in enumerate(journal.steps) if step.stage == "certify")
    for state in (journal.states[ended], journal.states[ended + 1]):
        session, executor = Session.load(state), Clocked(World())
        assert session.elapsed_s > 0
        assert drive(session, executor, Kept(), clock=executor.clock) == whole


def test_the_time_between_two_drives_is_not_the_jobs() -> None:
    _, _, journal = timed(2.0)
    session, executor = Session.load(journal.states[8]), Clocked(World())
    spent_s = session.elapsed_s
    executor.now = 1e9
    assert isinstance(drive(session, executor, Kept(), clock=executor.clock), Finished)
    assert spent_s + executor.now - 1e9 > 60.0  # it did not end at once
    assert spent_s + executor.now - 1e9 <= 127.0


def test_what_a_candidate_takes_beside_its_epochs_is_no_part_of_them() -> None:
    """By hand: two candidates of half an epoch took 24 s, 22 of which were not for tuning; 66 of 120 s are over.

    An epoch takes 2 s, so that 54 s are 27 epochs, but for 11 s of each candidate to come.
    """
    trial = Trial(0, "first", (), None, 0.5, 0.5, Cost(1, 1), 0.0, 0.0, "w")
    state = State(replace(QUICK, **with_budget(minutes=2)), trials=[trial] * 2, epochs=1.0, tuning_s=24, beside_s=22)
    state.elapsed_s = 66
    assert budget.pace(state) == Pace(epoch_s=2.0, beside_s=11.0)
    assert budget.epochs_in_all(state) == 1.0 + 54 / 2
    assert budget.left(state) == (54 - (1 + VERDICT) * 11) / 2
    state.elapsed_s = 20
    # Six, three and four candidates of exploration, twelve moves, three finalists and the control: none is there yet.
    blank = replace(state, trials=[], epochs=0.0, tuning_s=0.0)
    blank.prepared = prepared(epoch_s=4.0, score_s=3.0)
    assert budget.pace(blank) == Pace(2.0, 3.0)
    assert budget.epochs_in_all(blank, QUICK_SETTINGS) == (100 - (29 + VERDICT) * 3) / 2


@pytest.mark.parametrize("beside_s", [0.06, 0.12, 0.25])
@pytest.mark.parametrize("left_s", [4, 8, 16])
def test_of_little_time_the_most_goes_into_tuning_one_finalist(left_s: int, beside_s: float) -> None:
    """Of what scoring leaves; candidates before it are not tuned, and take a quarter of the time at most."""
    executor, journal = Clocked(World(beside_s=beside_s, epoch_s=2.0)), Kept()
    session = Session(replace(QUICK, **with_budget(minutes=(5 + left_s) / 60)))
    assert isinstance(drive(session, executor, journal, clock=executor.clock), Finished)
    assert executor.now - 100.0 <= 5 + left_s + 1.0 + beside_s
    state = states.load(journal.states[-2])
    untuned = [t for t in state.trials if not t.lineage_epochs]
    assert len(untuned) >= QUICK_SETTINGS.budgets
    assert len(untuned) - QUICK_SETTINGS.budgets <= max(1, left_s / budget.PROBES_SHARE / beside_s)
    assert budget.longest(state) >= 0.4 * (left_s - (len(state.trials) + VERDICT) * beside_s)


# --- budgets for which candidates are not tuned before the full tuning ---------------------------------------


@pytest.mark.parametrize(("most", "first_epochs"), [(36, 0), (40, 17 / 32)])
def test_candidates_that_would_be_tuned_for_less_than_half_an_epoch_are_not(most: int, first_epochs: float) -> None:
    """By hand: of 36 epochs 15 are the search's 112, to the power of 0.7 times 2: 0.49 epochs; of 40, 18: 0.56."""
    settings = budget.scaled(State(replace(QUICK, **with_budget(epochs=most))), QUICK_SETTINGS)
    assert settings.first_epochs == first_epochs
    assert settings.untuned == (not first_epochs)


def test_all_epochs_are_the_finalists_then() -> None:
    few = budget.scaled(State(replace(QUICK, **with_budget(epochs=4))), QUICK_SETTINGS)
    assert (few.first_epochs, few.kept, few.bracket_epochs, few.move_epochs) == (0, 0, 0, 0)
    assert (few.budgets, few.bracket, few.moves) == (6, 4, 12 // 4)
    assert (few.growths, few.final_epochs) == ((1.0,), 2)
    # Nothing follows the finalist of an exploration: the control's eighth is all that it leaves.
    alone = replace(QUICK, stage=1, **with_budget(epochs=4))
    assert budget.scaled(State(alone), QUICK_SETTINGS).final_epochs == 3.5
    assert budget.finals(State(alone), budget.scaled(State(alone), QUICK_SETTINGS)) == Finals(1, 3.5, 0.5)


@pytest.mark.parametrize("most", [1, 4, 16])
@pytest.mark.parametrize("stage", [1, 2])
def test_untuned_candidates_find_a_finalist_that_tuning_brings_inside(most: float, stage: StageNumber) -> None:
    run = search(World(untuned=1.5), stage=stage, **with_budget(epochs=most))
    assert run.finished.inside_delta
    assert run.finished.params_ratio > 3.5
    by_role = {w.subject.split()[0]: w.question for w in run.works if isinstance(w.question, Evaluate)}
    tuned = [w.question for w in run.works if isinstance(w.question, Evaluate) and w.question.epochs]
    assert "rival" not in by_role
    assert {w.subject.split()[0] for w in run.works if w.question in tuned} <= {"control", "final", "squeeze", "ease"}
    assert all(question.parent is None for question in run.evaluations if not question.epochs)  # from the factors
    assert by_role["final"].parent is not None
    assert not by_role["final"].start


def test_a_target_has_all_epochs_for_its_finalist() -> None:
    run = search(World(untuned=1.5), delta=None, target=("params", 20_000), **with_budget(epochs=4))
    assert [question.epochs for question in run.evaluations if question.epochs] == [0.5, 3.5]
    assert run.finished.inside_delta


def test_the_pace_of_untuned_candidates_is_what_they_take_beside_epochs() -> None:
    """By hand: three took 9 s; of an epoch it is known only that the original takes 4."""
    trial = Trial(0, "first", (), None, 0, 0, Cost(1, 1), 0.0, 0.0, "w")
    state = State(replace(QUICK, **with_budget(minutes=2)), trials=[trial] * 3, tuning_s=9, beside_s=9)
    assert budget.pace(state) is None
    state.prepared = prepared(epoch_s=4.0, score_s=1.0)
    assert budget.pace(state) == Pace(2.0, 3.0)
    # A quarter of the 116 s after the survey is theirs: 29, of which 9 are over. There is room for six more.
    state.surveyed_s, state.elapsed_s = 4.0, 13.0
    settings = budget.scaled(replace(state, request=replace(QUICK, **with_budget(epochs=4))), QUICK_SETTINGS)
    assert budget.room(state, settings, 0, 0) == 20 // 3


# --- deadlines -----------------------------------------------------------------------------------------------


def until(executor: Clocked, end: float, session: Session | None = None, known_from: float = 0.0) -> Run:
    """Drive a session to a deadline on the executor's clock, of which nobody knows before `known_from`."""

    def left() -> float | None:
        return end - executor.now if executor.now >= known_from else None

    journal, run = Kept(), Run()
    run.outcome = drive(session or Session(QUICK), executor, journal, clock=executor.clock, left=left)
    run.steps = journal.steps
    return run


@pytest.mark.parametrize("minutes", [0.5, 1.0, 2.0])
def test_a_deadline_is_a_budget_of_minutes(minutes: float) -> None:
    executor = Clocked(World())
    run, budgeted = until(executor, 100.0 + 60 * minutes), timed(minutes)[0]
    assert (run.finished.params_ratio, run.finished.drop) == (budgeted.params_ratio, budgeted.drop)
    assert executor.now - 100.0 <= 60 * minutes + 6.0 + 1.0


def test_a_deadline_that_is_set_or_moved_while_the_job_runs_is_kept() -> None:
    whole = Clocked(World())
    until(whole, math.inf)
    set_late = Clocked(World())
    run = until(set_late, 160.0, known_from=140.0)
    assert run.finished.inside_delta
    assert set_late.now <= 160.0 + 6.0 + 1.0 < whole.now
    assert run.certificate["ended"] == "the deadline"


def test_a_deadline_that_is_over_still_certifies_one_candidate() -> None:
    run = until(Clocked(World()), 50.0)
    assert run.finished.inside_delta
    assert len([s for s in run.steps if s.candidate]) == 3  # one candidate, the control, one finalist


def test_a_deadline_does_not_wait_for_a_job_that_nobody_drove_meanwhile() -> None:
    executor, journal = Clocked(World()), Kept()
    session = Session(QUICK)
    drive(session, executor, journal, clock=executor.clock, left=lambda: 220.0 - executor.now)
    later = Clocked(World())
    later.now = 200.0
    again = until(later, 220.0, Session.load(journal.states[8]))
    assert again.finished.inside_delta
    assert later.now <= 220.0 + 6.0 + 1.0


def test_who_has_no_deadline_decides_as_if_there_were_none() -> None:
    executor = Clocked(World())
    run, free = until(executor, 0.0, known_from=math.inf), search()
    assert run.finished == free.finished


def test_without_minutes_nobody_asks_the_clock() -> None:
    def never() -> float:
        raise AssertionError

    assert isinstance(drive(Session(QUICK), Clocked(World()), Kept(), clock=never), Finished)
    session = Session(QUICK)
    before = session.dump()
    assert not session.timed
    assert session.elapse(1e9) is False
    assert session.elapsed_s == 1e9
    assert session.dump() != before  # told, but without a budget without effect
