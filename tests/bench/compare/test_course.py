from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from tests.bench.compare.course import Account, Candidate, OverspentError, certify, course, frontier

DELTA = 1.0


def line(*pairs: tuple[float, float]) -> list[Candidate[str]]:
    return [Candidate(ratio, drop, 2.0, f"{ratio}x") for ratio, drop in pairs]


@dataclass
class Fake:
    """Further tuning takes a share of every drop away; the sealed half is worse by a constant."""

    left: float = 0.5
    unseen: float = 0.0
    tuned: list[tuple[float, float]] = field(default_factory=list)
    looks: int = 0

    def tuned_on(self, candidate: Candidate[str], epochs: float) -> Candidate[str]:
        self.tuned.append((candidate.ratio, epochs))
        return replace(candidate, drop=candidate.drop * self.left, epochs=candidate.epochs + epochs)

    def sealed_drops(self, candidates: Sequence[Candidate[str]]) -> list[float]:
        self.looks += 1
        return [candidate.drop + self.unseen for candidate in candidates]


@pytest.mark.parametrize("total", [1.0, 12.0, 20.0])
@pytest.mark.parametrize(("trials", "share"), [(20, 0.5), (6, 0.3)])
def test_a_course_takes_what_there_is(total: float, trials: int, share: float) -> None:
    way = course(total, trials, share=share, slack=2.0)
    assert way.total == pytest.approx(total)
    assert way.trials * way.epochs == pytest.approx(share * total)
    account = Account(total)
    for epochs in [way.epochs] * way.trials + [way.final_epochs] * way.finalists:
        account.charge(epochs)


def test_an_account_refuses_what_it_cannot_pay() -> None:
    account = Account(3.0)
    account.charge(1.5)
    account.charge(1.5)
    with pytest.raises(OverspentError, match=r"3.0 epochs are spent and 0.5 asked for, of 3.0"):
        account.charge(0.5)
    assert account.spent == 3.0


def test_the_frontier_holds_what_none_other_beats() -> None:
    made = line((2.0, 0.1), (8.0, 5.0), (4.0, 0.5), (3.0, 0.6), (4.0, 0.4), (6.0, math.inf))
    assert [(c.ratio, c.drop) for c in frontier(made)] == [(8.0, 5.0), (4.0, 0.4), (2.0, 0.1)]


def test_finalists_go_on_to_smaller_networks_while_the_last_one_is_inside() -> None:
    way = course(40, 8, share=0.4, slack=2.0)
    bench = Fake()
    found = certify(bench, line((2.0, 0.2), (4.0, 1.0), (6.0, 1.9), (8.0, 2.1), (10.0, 6.0)), way, DELTA)
    # 6x is the smallest up to twice delta; halved to 0.95 it is inside, so that 8x is next, which is not: 4x follows.
    assert bench.tuned == [(6.0, way.final_epochs), (8.0, way.final_epochs), (4.0, way.final_epochs)]
    assert bench.looks == 1
    # 4x and 2x were inside before, and are judged as they were, too.
    assert found.finalists == ((8.0, 1.05, 1.05), (6.0, 0.95, 0.95), (4.0, 0.5, 0.5), (4.0, 1.0, 1.0), (2.0, 0.2, 0.2))
    assert (found.ratio, found.drop, found.search_drop) == (6.0, 0.95, 0.95)


def test_the_next_larger_finalist_counts_when_the_smallest_fails_on_the_sealed_half() -> None:
    way = course(40, 8, share=0.4, slack=2.0)
    found = certify(Fake(unseen=0.3), line((2.0, 0.2), (4.0, 1.0), (6.0, 1.9)), way, DELTA)
    assert (found.ratio, found.drop, found.search_drop) == (4.0, 0.8, 0.5)


def test_what_the_search_left_inside_delta_is_judged_as_it_was() -> None:
    way = course(40, 8, share=0.4, slack=2.0)
    found = certify(Fake(left=2.0), line((2.0, 0.2), (4.0, 0.9), (6.0, 1.9)), way, DELTA)  # tuning spoils
    assert (found.ratio, found.drop, found.search_drop) == (4.0, 0.9, 0.9)


@pytest.mark.parametrize(
    ("left", "drops", "then"),
    [
        (0.5, (1.9,), 4.0),  # inside at 0.95, and there is no other
        (0.9, (1.9,), 4.0),  # outside at 1.71: it may come inside yet
        (0.9, (1.9, 1.2), 4.0),  # both outside, and both near
        (0.9, (3.0, 2.5), 2.0),  # both far outside: the better one
    ],
)
def test_epochs_for_which_there_is_no_other_finalist_are_used(
    left: float, drops: tuple[float, ...], then: float
) -> None:
    way = course(40, 8, share=0.4, slack=2.0)
    bench = Fake(left=left)
    certify(bench, line(*zip((4.0, 2.0), drops, strict=False)), way, DELTA)
    assert sum(epochs for _, epochs in bench.tuned) == pytest.approx(way.finalists * way.final_epochs)
    assert bench.tuned[-1][0] == then


def test_nothing_inside_delta_is_worth_a_ratio_of_one() -> None:
    way = course(40, 8, share=0.4, slack=2.0)
    found = certify(Fake(unseen=3.0), line((2.0, 0.2), (4.0, 1.0)), way, DELTA)
    assert (found.ratio, found.drop) == (1.0, 3.1)  # 4x comes out inside, 2x is the insurance, both fail
    assert certify(Fake(), [], way, DELTA).ratio == 1.0
    assert certify(Fake(), line((4.0, math.inf)), way, DELTA).ratio == 1.0
    assert certify(Fake(left=math.inf), line((4.0, 1.5)), way, DELTA).ratio == 1.0
