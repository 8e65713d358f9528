"""Whose turn it is: weights, priorities, limits, turns that are kept and credit that is not."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

import pytest

from diminuendo.services.coordinator.line import PAUSE_S, STAY_S, Claim, Line


class Cluster:
    """Evaluators in virtual time that do whatever the line gives them; each work takes what `seconds` says."""

    def __init__(self, evaluators: int, seconds: Callable[[str], float]) -> None:
        self.line: Line[tuple[str, int]] = Line(evaluators)
        self.seconds, self.now, self.count = seconds, 0.0, 0
        self.idle = [""] * evaluators
        self.running: list[tuple[float, int, float, str]] = []
        self.used: dict[str, float] = {}
        self.begun: list[tuple[float, str]] = []

    def add(self, job: str, works: int = 1) -> None:
        for _ in range(works):
            self.count += 1
            self.line.add(job, self.count, (job, self.count), self.now)

    def fill(self) -> None:
        """Give works to idle evaluators."""
        for last in list(self.idle):
            taken = self.line.take(self.now, last)
            if taken is None:
                return
            self.idle.remove(last)
            job, index = taken
            self.begun.append((self.now, job))
            heapq.heappush(self.running, (self.now + self.seconds(job), index, self.now, job))

    def step(self) -> str:
        """Let the next work end; whose it was."""
        self.fill()
        self.now, _, begun, job = heapq.heappop(self.running)
        self.line.ended(job, begun, self.now)
        self.used[job] = self.used.get(job, 0.0) + self.now - begun
        self.idle.append(job)
        return job

    def run(self, until: float, *, refill: bool = True) -> None:
        """Go on until a moment; a job puts another work in line for each that ends."""
        while self.now < until:
            job = self.step()
            if refill:
                self.add(job)


def spread(mean: float, seed: int = 0) -> Callable[[str], float]:
    """Times with a heavy tail: lognormal, the longest hundreds of times the usual."""
    rng = random.Random(seed)
    return lambda _job: mean * rng.lognormvariate(-0.5 * 1.5**2, 1.5)


@pytest.mark.parametrize("evaluators", [1, 7, 40])
def test_projects_share_by_weight(evaluators: int) -> None:
    cluster = Cluster(evaluators, spread(10.0))
    for project, weight in (("a", 1.0), ("b", 2.0), ("c", 5.0)):
        cluster.line.join(Claim(project, project, weight))
        cluster.add(project, 4 * evaluators)
    cluster.run(60_000.0)
    whole = sum(cluster.used.values())
    for project, weight in (("a", 1.0), ("b", 2.0), ("c", 5.0)):
        assert cluster.used[project] / whole == pytest.approx(weight / 8, rel=0.05)


def test_evaluators_that_come_free_together_are_shared_at_once() -> None:
    cluster = Cluster(24, lambda _job: 100.0)
    for project, weight in (("a", 1.0), ("b", 2.0)):
        cluster.line.join(Claim(project, project, weight))
        cluster.add(project, 100)
    cluster.fill()
    assert [[job for _, job in cluster.begun].count(name) for name in "ab"] == [8, 16]


def test_a_project_of_many_jobs_has_no_more_than_one_of_one_job() -> None:
    cluster = Cluster(8, spread(5.0))
    for i in range(9):
        cluster.line.join(Claim(f"many{i}", "many"))
        cluster.add(f"many{i}", 16)
    cluster.line.join(Claim("one", "one"))
    cluster.add("one", 16)
    cluster.run(40_000.0)
    whole = sum(cluster.used.values())
    assert cluster.used["one"] / whole == pytest.approx(0.5, rel=0.05)
    for i in range(9):
        assert cluster.used[f"many{i}"] / whole == pytest.approx(0.5 / 9, rel=0.15)


def test_works_of_different_length_share_time_and_not_turns() -> None:
    cluster = Cluster(4, lambda job: 100.0 if job == "long" else 1.0)
    for job in ("long", "short"):
        cluster.line.join(Claim(job, job))
        cluster.add(job, 8)
    cluster.run(50_000.0)
    assert cluster.used["long"] / sum(cluster.used.values()) == pytest.approx(0.5, rel=0.05)


def test_a_small_job_is_not_starved_by_a_large_one() -> None:
    """It begins when the next work ends, and is done after about as long as if evaluators had been split in two."""
    cluster = Cluster(4, lambda _job: 30.0)
    cluster.line.join(Claim("large", "p"))
    cluster.add("large", 1000)
    cluster.run(1000.0)
    came = cluster.now
    cluster.line.join(Claim("small", "p"))
    cluster.add("small", 10)
    left = 10
    while left:
        left -= cluster.step() == "small"
    begun = [time for time, job in cluster.begun if job == "small"]
    assert begun[0] <= came + 30.0
    assert cluster.now - came <= 10 * 30.0 / 2 + 2 * 30.0 + STAY_S


def test_a_new_job_of_any_project_has_the_next_evaluator() -> None:
    """However much less others have had: evaluators that stay with their jobs would keep it waiting."""
    cluster = Cluster(20, spread(30.0))
    for i in range(20):
        cluster.line.join(Claim(f"job{i}", f"project{i % 4}"))
        cluster.add(f"job{i}", 8)
    cluster.run(3000.0)
    for i in range(4):
        cluster.line.join(Claim(f"late{i}", f"project{i}"))
        cluster.add(f"late{i}", 1)
        before = len(cluster.begun)
        cluster.add(cluster.step())
        cluster.fill()
        assert cluster.begun[before][1] == f"late{i}"


def test_a_higher_priority_goes_first_inside_a_project_only() -> None:
    cluster = Cluster(2, lambda _job: 1.0)
    cluster.line.join(Claim("low", "p", priority=-1))
    cluster.line.join(Claim("high", "p", priority=7))
    cluster.line.join(Claim("other", "q", priority=-1000))
    for job in ("low", "high", "other"):
        cluster.add(job, 400)
    for _ in range(400):
        cluster.step()
    assert "low" not in cluster.used
    assert cluster.used["other"] == pytest.approx(200, abs=STAY_S * 2)
    cluster.line.join(Claim("low", "p", priority=8))
    assert [cluster.step() for _ in range(80)].count("low") >= 20, "a priority may change at any time"


def test_no_more_at_a_time_than_the_job_may_and_the_others_have_the_rest() -> None:
    cluster = Cluster(10, lambda _job: 1.0)
    cluster.line.join(Claim("few", "p", most=3))
    cluster.line.join(Claim("rest", "p", priority=-5))
    cluster.add("few", 20)
    cluster.add("rest", 20)
    assert cluster.line.ready == 23
    cluster.fill()
    assert sorted(job for _, job in cluster.begun) == ["few"] * 3 + ["rest"] * 7
    assert cluster.line.ready == 13


def test_who_was_away_has_no_credit() -> None:
    cluster = Cluster(1, lambda _job: 1.0)
    for job in ("here", "away"):
        cluster.line.join(Claim(job, job))
    cluster.add("away")
    cluster.add("here", 5)
    for _ in range(6):
        cluster.step()
    cluster.add("here", 2000)
    for _ in range(1000):
        assert cluster.step() == "here"
    cluster.add("away", 500)
    turns = [cluster.step() for _ in range(400)]
    assert abs(turns.count("away") - 200) <= 2 * STAY_S


def test_a_short_pause_costs_no_turn() -> None:
    """A job that thinks between two works gets what it has not used."""
    line: Line[str] = Line(1)
    for job in ("fills", "thinks"):
        line.join(Claim(job, job))
    line.add("fills", 0, "f0", 0.0)
    line.add("thinks", 0, "t0", 0.0)
    for at in (0.0, 10.0):
        taken = line.take(at)
        assert taken is not None
        line.ended("fills" if taken.startswith("f") else "thinks", at, at + 10.0)
    for index in (1, 2):
        line.add("fills", index, f"f{index}", 20.0)
    assert line.take(20.0) == "f1"
    line.ended("fills", 20.0, 20.0 + PAUSE_S - 1)
    now = 20.0 + PAUSE_S - 1
    for taken in ("t1", "t2"):
        line.add("thinks", 1, taken, now)
        assert line.take(now) == taken
        line.ended("thinks", now, now + 1.0)
        now += 1.0


def test_an_evaluator_stays_with_its_job_for_a_while() -> None:
    """Another job's network would have to be loaded: turns change rarely, shares stay."""
    cluster = Cluster(2, lambda _job: 2.0)
    for job in ("a", "b", "c"):
        cluster.line.join(Claim(job, "p"))
        cluster.add(job, 4)
    cluster.run(10_000.0)
    jobs = [job for _, job in cluster.begun]
    changes = sum(before != after for before, after in zip(jobs, jobs[2:], strict=False))
    assert changes <= len(jobs) / 8
    for job in ("a", "b", "c"):
        assert cluster.used[job] == pytest.approx(20_000 / 3, rel=0.05)


def test_works_of_a_job_go_in_proposal_order_and_leave_with_it() -> None:
    line: Line[str] = Line(1)
    line.join(Claim("a"))
    line.join(Claim("b"))
    for index in (3, 1, 2):
        line.add("a", index, f"a{index}", 0.0)
    line.add("b", 1, "b1", 0.0)
    assert len(line) == 4
    assert line.clear("b", 0.0) == ["b1"]
    assert [line.take(0.0), line.take(0.0)] == ["a1", "a2"]
    for _ in range(2):
        line.ended("a", 0.0, 1.0)
    line.leave("a")
    assert line.take(0.0) is None
    assert len(line) == 0
