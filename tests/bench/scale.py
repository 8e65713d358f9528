"""Benchmark: one coordinator's scheduler on a large cluster, in virtual time.

    python -m tests.bench.scale [--only plenty|scarce] [--evaluators N] [--scarce N] [--jobs N] [--seed N]

The sessions, the dispatcher and its line are the real ones; evaluators are made up: each evaluation takes a time of a
heavy-tailed (lognormal) distribution, and one in a hundred is lost with its evaluator, which takes a while to start
again. Told are the share of evaluators that are busy while works wait in line, how far each project's evaluator-seconds
are from its fair share, how soon jobs that come late begin, and what a decision costs in real time: of the dispatcher
at the begin and at the end, of a search by how many outcomes it has been told.

A project's fair share at a moment: what those with works in line have together, by their weights (weighted max-min
fairness: who has nothing in line has all it wants). A search waits for its own outcomes, so that 500 jobs do not want
1,000 evaluators all the time: a second run is on fewer, for which all projects stand in line for long.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.results import command_line, record
from tests.engine.search.world import World

from diminuendo.services.coordinator.environment import isolate

isolate()  # before anything here imports ray

from diminuendo.engine.search.drive import Done  # noqa: E402
from diminuendo.engine.search.session import Request, Session  # noqa: E402
from diminuendo.engine.search.settings import EffortName  # noqa: E402
from diminuendo.engine.search.work import Evaluate, Work, answer_to_bytes  # noqa: E402
from diminuendo.services.common import logs  # noqa: E402
from diminuendo.services.coordinator.bundles import Environment  # noqa: E402
from diminuendo.services.coordinator.dispatcher import Dispatcher, Limits  # noqa: E402
from diminuendo.services.coordinator.line import Claim  # noqa: E402
from diminuendo.services.coordinator.post import Post  # noqa: E402
from diminuendo.services.evaluator.actor import Hello, Report  # noqa: E402

WEIGHTS = {"a": 1.0, "b": 1.5, "c": 2.0, "d": 2.5, "e": 3.0}
MEAN_S, SPREAD = 60.0, 1.0
"""Of an evaluation; its logarithm's standard deviation: one in a hundred takes more than six times the mean."""

OTHER_S = 2.0
"""Mean of any other work."""

LOST = 0.01
START_S = 10.0
EVALUATIONS = 40
"""The most of a job."""

LATE_SHARE = 0.02
"""Jobs that come when the others are in the middle of it."""


class Events:
    """What happens, in virtual time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()

    def at(self, when: float, what: Callable[[], None]) -> None:
        """Have something happen."""
        heapq.heappush(self._heap, (when, next(self._count), what))

    def next(self) -> bool:
        """Let the next thing happen; False when there is none."""
        if not self._heap:
            return False
        self.now, _, what = heapq.heappop(self._heap)
        what()
        return True


@dataclass
class MadeUp:
    """An evaluator that answers at once and hands it over when its time is over."""

    events: Events
    rng: random.Random
    world: World
    name: str
    dead: bool = False

    def ping(self) -> Future[Hello]:
        """Ready after a while."""
        future: Future[Hello] = Future()
        self.events.at(self.events.now + START_S, lambda: self._end(future, Hello(self.name, 1)))
        return future

    def run(self, work: Work) -> Future[Report]:
        """Done, or lost, after a random time."""
        future: Future[Report] = Future()
        mean = MEAN_S if isinstance(work.question, Evaluate) else OTHER_S
        seconds = mean * self.rng.lognormvariate(-0.5 * SPREAD**2, SPREAD)
        lost = self.rng.random() < LOST
        answer = Report(self.name, b"" if lost else answer_to_bytes(self.world.run(work)), seconds)
        self.events.at(
            self.events.now + (self.rng.random() * seconds if lost else seconds),
            lambda: self._end(future, ConnectionError("the evaluator's process was lost") if lost else answer),
        )
        return future

    def kill(self) -> None:
        """It answers no more."""
        self.dead = True

    def _end(self, future: Future[Any], answer: object) -> None:
        if self.dead:
            return
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(answer)


@dataclass
class Job:
    """A job as `drive` runs it, one turn at a time."""

    claim: Claim
    session: Session
    came: float
    post: Post = field(default_factory=Post)
    running: set[int] = field(default_factory=set)
    held: dict[int, Done] = field(default_factory=dict)
    begun: float | None = None


@dataclass
class Figures:
    """What was seen, in virtual seconds.

    Attributes:
        shared_s: In which every project had works in line.
        used_s: Evaluator-seconds of each project then.
        had_s: Of each project while it and another one had works in line.
        fair_s: What would have been its fair share then.
        decision_us: Real time of the dispatcher's decisions.
        search_us: (outcomes told before, real time of telling one more and asking).
    """

    busy_s: float = 0.0
    ready_s: float = 0.0
    shared_s: float = 0.0
    used_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(WEIGHTS, 0.0))
    had_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(WEIGHTS, 0.0))
    fair_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(WEIGHTS, 0.0))
    decision_us: list[float] = field(default_factory=list)
    search_us: list[tuple[int, float]] = field(default_factory=list)


class Simulation:
    """A coordinator with its jobs and evaluators."""

    def __init__(self, evaluators: int, jobs: int, seed: int, effort: EffortName) -> None:
        self.events, self.rng, self.world = Events(), random.Random(seed), World()
        self.evaluators, self.effort = evaluators, effort
        self.figures = Figures()
        names = [f"evaluator-{i}" for i in range(evaluators)]
        limits = Limits(work_s=1e9, start_s=1e9)
        self.dispatcher = Dispatcher(names, self._spawn, limits, clock=lambda: self.events.now)
        self.jobs: dict[str, Job] = {}
        self.late: list[Job] = []
        self._before = 0.0
        late = max(1, round(LATE_SHARE * jobs))
        for i in range(jobs - late):
            self._come(i, seed)
        for i in range(jobs - late, jobs):
            self.events.at(20 * MEAN_S + i, lambda i=i: self.late.append(self._come(i, seed)))  # type: ignore[misc]

    def run(self) -> Figures:
        """Until every job has ended."""
        self.dispatcher.post(self.dispatcher.revive)
        self._settle()
        while self.jobs or len(self.late) == 0:
            if not self.events.next():
                raise RuntimeError("nothing happens any more, and jobs have not ended")
            self._settle()
        return self.figures

    def _spawn(self, name: str, environment: Environment) -> MadeUp:
        return MadeUp(self.events, self.rng, self.world, name)

    def _come(self, number: int, seed: int) -> Job:
        project = list(WEIGHTS)[number % len(WEIGHTS)]
        request = Request(
            "zoo:made-up", 1.0, seed=1000 * seed + number, effort=self.effort, budget=(("evaluations", EVALUATIONS),)
        )
        job = Job(Claim(f"job{number}", project, WEIGHTS[project]), Session(request), self.events.now)
        self.jobs[job.claim.job] = job
        self.dispatcher.post(lambda: self.dispatcher.enter(job.claim, job.post))
        self._turn(job)
        return job

    def _turn(self, job: Job) -> None:
        """What `drive` does between two waits."""
        while not job.post.outbox.empty():
            done = job.post.outbox.get_nowait()
            job.running.discard(done.work.index)
            job.held[done.work.index] = done
        start = time.perf_counter()
        told = 0
        while job.session.outcome is None and job.session.next_index in job.held:
            job.session.tell(job.held.pop(job.session.next_index).answer)
            told += 1
        asked = job.session.ask()
        if told:
            before = job.session.next_index - told
            self.figures.search_us.append((before, 1e6 * (time.perf_counter() - start) / told))
        for work in asked:
            if work.index not in job.running and work.index not in job.held:
                job.running.add(work.index)
                self.dispatcher.post(lambda work=work: self.dispatcher.submit(job.claim.job, work))  # type: ignore[misc]
        if job.session.outcome is not None and job.claim.job in self.jobs:
            del self.jobs[job.claim.job]
            self.dispatcher.post(lambda: self.dispatcher.leave(job.claim.job))

    def _settle(self) -> None:
        """Let the dispatcher and the searches do what is due now, and book the time that has passed."""
        self._book()
        inbox = self.dispatcher._inbox
        while True:
            count, start = 0, time.perf_counter()
            while not inbox.empty():
                inbox.get_nowait()()
                count += 1
            if count:
                self.figures.decision_us.append(1e6 * (time.perf_counter() - start) / count)
            waiting = [job for job in self.jobs.values() if not job.post.outbox.empty()]
            if not waiting and inbox.empty():
                break
            for job in waiting:
                self._turn(job)
        self._note()

    def _book(self) -> None:
        """The time since the last event, under what held during it."""
        passed, self._before = self.events.now - self._before, self.events.now
        if self._ready and self._before - passed >= START_S:
            self.figures.ready_s += passed * self.evaluators
            self.figures.busy_s += passed * self._busy
        if len(self._waiting) == len(WEIGHTS):
            self.figures.shared_s += passed
            for project, count in self._running.items():
                self.figures.used_s[project] += passed * count
        if len(self._waiting) > 1:
            theirs = sum(self._running[project] for project in self._waiting)
            weights = sum(WEIGHTS[project] for project in self._waiting)
            for project in self._waiting:
                self.figures.had_s[project] += passed * self._running[project]
                self.figures.fair_s[project] += passed * theirs * WEIGHTS[project] / weights

    _ready, _busy = 0, 0
    _waiting: frozenset[str] = frozenset()
    _running: dict[str, int] = {}  # noqa: RUF012 - replaced, never changed

    def _note(self) -> None:
        line, slots = self.dispatcher._line, self.dispatcher._slots
        self._ready = line.ready
        self._running = dict.fromkeys(WEIGHTS, 0)
        for slot in slots:
            if slot.attempts is not None:
                job = line._jobs[slot.attempts.job]
                self._running[job.claim.project] += 1
        self._busy = sum(self._running.values())
        self._waiting = frozenset(job.claim.project for job in line._jobs.values() if job.ready)
        for own in line._jobs.values():
            mine = self.jobs.get(own.claim.job)
            if own.served and mine is not None and mine.begun is None:
                mine.begun = self.events.now


def simulate(evaluators: int, jobs: int, seed: int, effort: EffortName) -> dict[str, Any]:
    """The figures of one run; the deeper the effort, the wider the jobs' rounds."""
    simulation = Simulation(evaluators, jobs, seed, effort)
    start = time.perf_counter()
    figures = simulation.run()
    stats = simulation.dispatcher.ledger
    whole, weights = sum(figures.used_s.values()), sum(WEIGHTS.values())
    shares = {
        project: {
            "share": used / whole,
            "fair": WEIGHTS[project] / weights,
            "off": used / whole * weights / WEIGHTS[project] - 1,
        }
        for project, used in figures.used_s.items()
    }
    while_in_line = {
        project: had / figures.fair_s[project] - 1 for project, had in figures.had_s.items() if figures.fair_s[project]
    }
    tenth = max(1, len(figures.decision_us) // 10)
    begins = [job.begun - job.came for job in simulation.late if job.begun is not None]
    return {
        "evaluators": evaluators,
        "jobs": jobs,
        "works": stats.works_done,
        "hours_with_works_of_every_project": figures.shared_s / 3600,
        "attempts_lost": stats.attempts_lost,
        "virtual_hours": simulation.events.now / 3600,
        "busy_while_queued": figures.busy_s / figures.ready_s if figures.ready_s else math.nan,
        "shares": shares,
        "worst_share_off": max(abs(share["off"]) for share in shares.values()),
        "off_while_in_line": while_in_line,
        "worst_off_while_in_line": max(map(abs, while_in_line.values())),
        "late_jobs_begin_s": {"median": statistics.median(begins), "worst": max(begins)},
        "decision_us_first_tenth": statistics.median(figures.decision_us[:tenth]),
        "decision_us_last_tenth": statistics.median(figures.decision_us[-tenth:]),
        "search_us_by_outcomes_told": _by_tens(figures.search_us),
        "seconds": time.perf_counter() - start,
    }


def _by_tens(taken: Sequence[tuple[int, float]]) -> dict[str, float]:
    """Medians of what was taken after 0 to 9, 10 to 19, ... outcomes."""
    tens: dict[int, list[float]] = {}
    for told, microseconds in taken:
        tens.setdefault(told // 10, []).append(microseconds)
    return {f"{10 * ten} to {10 * ten + 9}": statistics.median(tens[ten]) for ten in sorted(tens)}


def main() -> None:
    """Run it and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluators", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--scarce", type=int, default=250, help="evaluators of the run in which all jobs want more")
    parser.add_argument("--only", choices=("plenty", "scarce"), help="one of the two runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder of the record; default: the results")
    arguments = parser.parse_args()
    logs.configure(service="bench", level="error", style="json")
    folder = {"folder": arguments.out} if arguments.out else {}
    runs: tuple[tuple[str, int, EffortName], ...] = (
        ("plenty", arguments.evaluators, "deep"),
        ("scarce", arguments.scarce, "quick"),
    )
    for name, evaluators, effort in runs:
        if arguments.only in (None, name):
            figures = simulate(evaluators, arguments.jobs, arguments.seed, effort)
            print(f"{name}:")
            for figure, value in figures.items():
                print(f"  {figure}: {value}")
            command = command_line(
                "tests.bench.scale", sys.argv[1:] if arguments.only else [*sys.argv[1:], "--only", name]
            )
            path = record(f"scale-{name}", figures, command=command, seed=arguments.seed, **folder)
            print(f"record: {path}", flush=True)


if __name__ == "__main__":
    main()
