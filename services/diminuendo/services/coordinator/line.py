"""The works that wait for an evaluator, and whose turn it is: fair shares of evaluator-seconds, over several jobs.

Projects share by weight; inside a project jobs of a higher priority go first, and jobs of the same one share evenly;
the works of a job go in proposal order. Who is given a work is the one that has had least for its weight: the seconds
that it has used, those that its works have run so far, and for each of these as much again as its works usually take,
which is what is to be expected of times with a heavy tail. (Start-time fair queueing, Goyal, Vin and Cheng 1996, with
a guess in place of the length that is not known beforehand.)

Nobody saves up: who comes, or comes back, starts where the others are. An evaluator stays with its job for a while
though it is another's turn, because another job's network and data would have to be loaded. The first work of each job
goes before all others', so that it begins when the next evaluator is free; it counts like any other. Pure; the clock is
given.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

STAY_S = 60.0
"""How far ahead of its fair share, in seconds of everybody's work, a job may come because evaluators stay with it."""

PAUSE_S = 5.0
"""Who has nothing to do for no longer than this, as while a search decides what to try, does not lose its turn."""

TYPICAL_S = 1.0
"""Seconds of a work, as long as none was seen."""

MEMORY = 8
"""Works over which the usual time is averaged, about."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a job may have of the evaluators.

    Attributes:
        job: Unlike that of any other job here.
        project: Whose share it uses.
        weight: Of the project, relative to others'; of several that its jobs say, the newest counts.
        priority: Higher ones go first inside the project.
        most: Most works at a time; None: as many as there are evaluators.
    """

    job: str
    project: str = ""
    weight: float = 1.0
    priority: int = 0
    most: int | None = None


@dataclass(slots=True)
class _Account:
    """Evaluator-seconds of a project or of a job."""

    weight: float = 1.0
    done: float = 0.0
    running: int = 0
    starts: float = 0.0
    typical: float | None = None
    quiet_since: float | None = -math.inf

    def used(self, now: float) -> float:
        """Seconds per weight, with what is to be expected of the works that run."""
        typical = TYPICAL_S if self.typical is None else self.typical
        return (self.done + self.running * (now + typical) - self.starts) / self.weight

    def begin(self, now: float) -> None:
        self.running += 1
        self.starts += now

    def end(self, begun: float, now: float) -> None:
        seconds = now - begun
        self.running -= 1
        self.starts -= begun
        self.done += seconds
        self.typical = seconds if self.typical is None else self.typical + (seconds - self.typical) / MEMORY

    def catch_up(self, least: float, now: float) -> None:
        """Start where the others are, not where it was left."""
        self.done += max(0.0, least - self.used(now)) * self.weight


Item = TypeVar("Item")


@dataclass(slots=True)
class _Job(Generic[Item]):
    claim: Claim
    account: _Account = field(default_factory=_Account)
    waiting: list[tuple[int, Item]] = field(default_factory=list)
    served: bool = False

    @property
    def ready(self) -> int:
        """Works of it that may start."""
        most = self.claim.most
        return len(self.waiting) if most is None else min(len(self.waiting), max(0, most - self.account.running))


class Line(Generic[Item]):
    """Works in line. Not thread-safe. Times are seconds of any one clock that does not go back."""

    def __init__(self, evaluators: int) -> None:
        """Nobody is in line.

        Args:
            evaluators: How many there are.
        """
        self._evaluators = evaluators
        self._jobs: dict[str, _Job[Item]] = {}
        self._projects: dict[str, _Account] = {}

    def __len__(self) -> int:
        """Works that wait."""
        return sum(len(job.waiting) for job in self._jobs.values())

    @property
    def ready(self) -> int:
        """Works that could start now if there were evaluators enough."""
        return sum(job.ready for job in self._jobs.values())

    def join(self, claim: Claim) -> None:
        """Let a job take part, or change its claim."""
        job = self._jobs.get(claim.job)
        if job is None:
            self._jobs[claim.job] = _Job(claim)
        else:
            job.claim = claim
        self._projects.setdefault(claim.project, _Account()).weight = claim.weight

    def leave(self, job: str) -> None:
        """Forget a job, and its project with the last one. What of it still runs is to be ended before."""
        gone = self._jobs.pop(job)
        if next(self._beside(gone), None) is None:
            del self._projects[gone.claim.project]

    def add(self, job: str, index: int, item: Item, now: float) -> None:
        """Put a work in line.

        Args:
            job: Has joined.
            index: Of its proposal.
            item: The work.
            now: What time it is.
        """
        own = self._jobs[job]
        project = self._projects[own.claim.project]
        if not _active(project, now):
            others = (a for a in self._projects.values() if a is not project and _active(a, now))
            project.catch_up(min((a.used(now) for a in others), default=0.0), now)
        if not _active(own.account, now):
            beside = (j.account for j in self._beside(own) if _active(j.account, now))
            own.account.catch_up(min((a.used(now) for a in beside), default=0.0), now)
        project.quiet_since = own.account.quiet_since = None
        bisect.insort(own.waiting, (index, item), key=lambda entry: entry[0])

    def take(self, now: float, last: str = "") -> Item | None:
        """The work whose turn it is; it counts as running from now on.

        Args:
            now: What time it is.
            last: The job that the evaluator has worked on, whose network and data it has at hand.

        Returns:
            None when no work may start.
        """
        job = self._next(now, last)
        if job is None:
            return None
        _, item = job.waiting.pop(0)
        job.served = True
        job.account.begin(now)
        self._projects[job.claim.project].begin(now)
        return item

    def ended(self, job: str, begun: float, now: float) -> None:
        """A work no longer runs, however it ended.

        Args:
            job: Whose it was.
            begun: When it was taken.
            now: What time it is.
        """
        own = self._jobs[job]
        for account in (self._projects[own.claim.project], own.account):
            account.end(begun, now)
        self._rest(own, now)

    def clear(self, job: str, now: float) -> list[Item]:
        """Forget what a job has in line."""
        own = self._jobs[job]
        items = [item for _, item in own.waiting]
        own.waiting.clear()
        self._rest(own, now)
        return items

    # --- whose turn it is -----------------------------------------------------------------------------------

    def _next(self, now: float, last: str) -> _Job[Item] | None:
        first: dict[str, _Job[Item]] = {}
        key: dict[str, tuple[int, bool, float]] = {}
        for job in self._jobs.values():
            if job.ready:
                project, rank = job.claim.project, (-job.claim.priority, job.served, job.account.used(now))
                if project not in key or rank < key[project]:
                    first[project], key[project] = job, rank
        if not first:
            return None
        used = {name: self._projects[name].used(now) for name in first}
        behind = min(first, key=lambda name: used[name])
        most = used[behind] + STAY_S * self._evaluators / sum(self._projects[name].weight for name in first)
        fresh = [name for name in first if not first[name].served]
        due, stays = first[min(fresh or first, key=lambda name: used[name])], self._jobs.get(last)
        if stays is None or stays is due or not stays.ready or not due.served:
            return due
        own = stays.claim.project
        if stays.claim.priority < first[own].claim.priority or used[own] > most:
            return due
        slack = STAY_S * self._evaluators / len(self._jobs)
        return stays if stays.account.used(now) <= first[own].account.used(now) + slack else due

    def _beside(self, job: _Job[Item]) -> Iterator[_Job[Item]]:
        """The other jobs of its project."""
        return (j for j in self._jobs.values() if j is not job and j.claim.project == job.claim.project)

    def _rest(self, job: _Job[Item], now: float) -> None:
        """Note who has nothing to do any more."""
        if not job.waiting and not job.account.running:
            job.account.quiet_since = now
        project = self._projects[job.claim.project]
        if not project.running and not job.waiting and not any(other.waiting for other in self._beside(job)):
            project.quiet_since = now


def _active(account: _Account, now: float) -> bool:
    return account.quiet_since is None or now - account.quiet_since <= PAUSE_S
