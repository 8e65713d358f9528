"""What is said of a job before its search, with numbers by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
from tests.engine.search.driven import QUICK, search
from tests.engine.search.world import World

from diminuendo.engine.cost import Cost
from diminuendo.engine.search import doubts
from diminuendo.engine.search.drive import AnyAnswer
from diminuendo.engine.search.work import Labels, Prepared, Work

TEN = Labels(10, 0.1)


def prepared(baseline: float = 75.0, count: int = 400, **more: Any) -> Prepared:
    fields: dict[str, Any] = {"hits": True} | more
    return Prepared("", "top1", True, baseline, count, count, 1000, Cost(1, 1), (), (), "", 0.0, **fields)


def reasons(of: Prepared, delta: float | None = 100.0) -> list[str]:
    return [reason for reason, _ in doubts.doubts(replace(QUICK, delta=delta), of)]


# --- noise ---------------------------------------------------------------------------------------------------


def test_the_noise_is_that_of_an_eighth_of_changed_predictions() -> None:
    """On 10,000 samples a standard error of 100 sqrt(0.125 / 10000) = 0.354 points; 1.96 of them are 0.693."""
    assert doubts.noise(1.0, prepared(count=10_000)) == pytest.approx(0.693, rel=0.002)
    assert doubts.needed(1.0, prepared()) == math.ceil((0.125 - 0.0001) * 1e4 * 1.959964**2)


def test_no_more_can_change_than_delta_and_twice_the_misses() -> None:
    """One of 400 is missed: at most 0.01 + 2 * 0.0025 = 0.015 change, and the pseudo-samples of the interval."""
    square, centre = (0.015 * 400 + 1) / 402, 0.01 * 400 / 402
    expected = 195.9964 * math.sqrt((square - centre**2) / 402)
    assert doubts.noise(1.0, prepared(99.75)) == pytest.approx(expected, rel=1e-6)
    assert expected == pytest.approx(1.286, abs=0.001)
    errors = replace(prepared(0.25), higher_is_better=False)
    assert doubts.noise(1.0, errors) == pytest.approx(expected, rel=1e-6)


def test_the_noise_of_other_values_follows_their_spread() -> None:
    """An eighth drawn anew: variance 2 * 0.125 * 40^2 = 400, a standard error of 1 on 400 samples."""
    line = prepared(30.0, hits=False, deviation=40.0)
    assert doubts.noise(5.0, line) == pytest.approx(1.96, rel=1e-4)
    assert doubts.noise(0.5, line) == doubts.noise(5.0, line)
    assert doubts.needed(0.5, line) == math.ceil(400 * (1.959964 / 0.5) ** 2)
    assert doubts.noise(1.0, prepared(hits=False)) == 0.0


def test_a_delta_below_the_noise_is_told_with_both_numbers_and_what_would_do() -> None:
    ((reason, message),) = doubts.doubts(replace(QUICK, delta=1.0), prepared())
    assert reason == "DELTA_BELOW_NOISE"
    assert message == (
        "delta: 1 is less than the noise of the evaluation data: on 400 sealed samples the 95 % interval of a drop is "
        "about 3.48 points to either side; about 9,600 evaluation samples would do, or a delta of 3.5"
    )
    assert reasons(prepared(count=4900), 1.0) == []
    small = prepared(0.2, hits=False, deviation=0.04)  # 1.96 * sqrt(0.25 * 0.04^2 / 400)
    ((_, message),) = doubts.doubts(replace(QUICK, delta=0.001), small)
    assert "is about 0.002 points to either side" in message
    assert reasons(prepared(), None) == []  # a target


@pytest.mark.parametrize(("count", "rounded"), [(7, 7), (99, 99), (101, 110), (9596, 9600), (123_456, 130_000)])
def test_numbers_of_samples_are_rounded_up_to_two_digits(count: int, rounded: int) -> None:
    assert doubts._rounded(count) == rounded


def test_what_was_noted_of_the_original_is_told_first() -> None:
    notes = (("METRIC_DEPENDS_ON_BATCH", "metric: odd"),)
    assert next(doubts.doubts(replace(QUICK, delta=1.0), prepared(notes=notes))) == notes[0]


# --- chance --------------------------------------------------------------------------------------------------


def test_the_interval_of_an_accuracy_is_wilsons() -> None:
    """Brown, Cai and DasGupta 2001: of 5 hits in 10 it is 0.237 to 0.763."""
    assert doubts._accuracy(prepared(50.0, 10)) == pytest.approx((0.2366, 0.7634), abs=1e-4)


@pytest.mark.parametrize(
    ("baseline", "count", "labels", "refused", "told"),
    [
        (10.25, 400, TEN, True, []),  # an untrained network
        (0.0, 400, TEN, True, []),  # its classes are in another order
        (12.5, 400, TEN, True, []),  # 0.096 to 0.161
        (15.0, 400, TEN, False, []),  # 0.118 to 0.188: better than a guess
        (53.0, 400, Labels(2, 0.5), True, []),
        (60.0, 400, Labels(2, 0.5), False, []),
        (70.0, 10, Labels(2, 0.5), False, ["ORIGINAL_AT_CHANCE"]),  # 0.397 to 0.892: too few samples to say
        (96.0, 400, Labels(2, 0.95), False, ["ORIGINAL_AT_MAJORITY"]),
        (99.0, 400, Labels(2, 0.95), False, []),
        (10.25, 400, Labels(10, 0.1, top1=False), False, []),  # a metric of the owner's
        (10.25, 400, None, False, []),
    ],
)
def test_an_original_that_guesses_is_refused_and_one_that_may_guess_is_told(
    baseline: float, count: int, labels: Labels | None, refused: bool, told: list[str]
) -> None:
    original = prepared(baseline, count, labels=labels)
    assert (doubts.hopeless(original) is not None) is refused
    if not refused:
        assert reasons(original) == told


def test_both_say_numbers_and_remedy() -> None:
    assert doubts.hopeless(prepared(10.25, labels=TEN)) == (
        "model: its top1 of 10.25 on 400 samples cannot be told from that of a guess among 10 classes, 10.00, so that "
        "there is nothing to keep; check that its weights are the trained ones, the order of the classes, and how "
        "inputs are prepared"
    )
    ((_, message),) = doubts.doubts(replace(QUICK, delta=100.0), prepared(96.0, labels=Labels(2, 0.955)))
    assert "its top1 of 96.00 on 400 samples cannot be told from 95.50, which who always answers the" in message
    assert message.endswith("bring a metric that weighs classes")


# --- classes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unseen", "unjudged", "says"),
    [
        ((3,), (), "the search half has no samples of class 3, so that it sees no loss on them (100 classes"),
        ((), (3, 7), "the sealed half has none of classes 3, 7, so that the certificate says nothing of them (100"),
        (
            (3, 7),
            (3, 7),
            "no samples of classes 3, 7, so that it sees no loss on them; the sealed half has none of them,",
        ),
        ((3,), (7,), "of class 3, so that it sees no loss on them; the sealed half has none of class 7, so"),
        (tuple(range(11)), (), "of classes 0, 1, 2, 3, 4, 5, 6, 7 and 3 others, so"),
    ],
)
def test_missing_classes_are_named(unseen: tuple[int, ...], unjudged: tuple[int, ...], says: str) -> None:
    labels = Labels(100, 0.02, unseen, unjudged)
    ((reason, message),) = doubts.doubts(replace(QUICK, delta=100.0), prepared(labels=labels))
    assert reason == "CLASSES_MISSING"
    assert says in message
    assert message.endswith("; bring at least 2 samples of each")
    assert reasons(prepared(labels=Labels(100, 0.02))) == []


# --- in a session --------------------------------------------------------------------------------------------


@dataclass
class Doubtful(World):
    """A world whose original is of this kind."""

    original: Prepared | None = None

    def run(self, work: Work) -> AnyAnswer:
        answer = super().run(work)
        if isinstance(answer, Prepared) and self.original:
            same = {name: getattr(self.original, name) for name in ("baseline", "labels", "hits")}
            return replace(answer, **same)
        return answer


def test_warnings_go_with_the_first_step_and_into_the_certificate() -> None:
    original = prepared(98.0, labels=Labels(10, 0.1, unseen=(4,)))
    run = search(Doubtful(original=original, diverges=frozenset({6})))
    assert [reason for reason, _ in run.steps[0].warnings] == ["CLASSES_MISSING", "DELTA_BELOW_NOISE"]
    told = [warning for step in run.steps for warning in step.warnings]
    assert [(w["reason"], w["message"]) for w in run.certificate["warnings"]] == told
    assert [reason for reason, _ in told][2:] == ["CANDIDATE_DIVERGED"]
    assert run == search(Doubtful(original=original, diverges=frozenset({6})), reload=True)


def test_what_guesses_ends_the_job_before_the_survey() -> None:
    run = search(Doubtful(original=prepared(9.5, labels=TEN)))
    assert run.failure.startswith("model: its top1 of 9.50 on 400 samples cannot be told from")
    assert len(run.works) == 1
    assert run.steps[0].warnings == ()


def test_a_world_without_doubts_has_no_warnings() -> None:
    assert search().certificate["warnings"] == []
