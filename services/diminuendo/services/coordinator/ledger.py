"""Accounts of the evaluators' time: busy seconds, and the coordinator's own overhead. Pure; the clock is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stats:
    """What an executor's evaluators have done since it started.

    Attributes:
        busy_seconds: (evaluator, wall-clock seconds from a work's dispatch to its end), in the evaluators' order.
        idle_ready_seconds: Seconds in which at least one evaluator was ready and idle although a work was waiting
            for it, or was about to be asked for by the search: the coordinator's own overhead.
        works_done: Works that came to an answer.
        attempts_lost: Attempts that ended without one.
    """

    busy_seconds: tuple[tuple[str, float], ...]
    idle_ready_seconds: float
    works_done: int
    attempts_lost: int


class Ledger:
    """Keeps the accounts, told of every change in the order in which they happen. Not thread-safe.

    An idle evaluator counts against the coordinator while works stand in line, and also while a job's search is
    thinking: from the moment an outcome was handed to it until it submits. Only if it does submit before it waits
    again, though: otherwise there was nothing that it could have asked for. Where several think at a time, what one
    of them had to be waited for is counted once.
    """

    def __init__(self, evaluators: tuple[str, ...], clock: Callable[[], float]) -> None:
        """All evaluators are away (starting) at first.

        Args:
            evaluators: Their names.
            clock: Seconds, monotonic.
        """
        self._clock = clock
        self._busy: dict[str, float] = dict.fromkeys(evaluators, 0.0)
        self._since: dict[str, float] = {}
        self._idle: set[str] = set()
        self._line = 0
        self._thoughts: dict[str, float] = {}
        self._idle_ready = 0.0
        self._last = clock()
        self.works_done = 0
        self.attempts_lost = 0

    def idle(self, evaluator: str) -> None:
        """The evaluator is ready for a work."""
        self._advance()
        self._stop(evaluator)
        self._idle.add(evaluator)

    def busy(self, evaluator: str) -> None:
        """The evaluator was given a work."""
        self._advance()
        self._idle.discard(evaluator)
        self._since[evaluator] = self._last

    def away(self, evaluator: str) -> None:
        """The evaluator is gone or starting."""
        self._advance()
        self._stop(evaluator)
        self._idle.discard(evaluator)

    def line(self, length: int) -> None:
        """So many works could be done now by evaluators that are not there."""
        self._advance()
        self._line = length

    def thinking(self, job: str) -> None:
        """An outcome was handed to a job's search."""
        self._advance()
        self._thoughts[job] = 0.0

    def asked(self, job: str) -> None:
        """The search submitted a work: what it was thinking about was ready."""
        self._advance()
        waited = self._thoughts.get(job, 0.0)
        self._idle_ready += waited
        self._thoughts = {other: max(0.0, seconds - waited) for other, seconds in self._thoughts.items()}

    def waiting(self, job: str) -> None:
        """The search has asked for all that it wants and waits."""
        self._advance()
        self._thoughts.pop(job, None)

    def stats(self) -> Stats:
        """The accounts up to now."""
        self._advance()
        now = {name: self._last - since for name, since in self._since.items()}
        busy = tuple((name, seconds + now.get(name, 0.0)) for name, seconds in self._busy.items())
        return Stats(busy, self._idle_ready, self.works_done, self.attempts_lost)

    def _advance(self) -> None:
        """Book the time since the last change under what held during it."""
        now = self._clock()
        passed, self._last = now - self._last, now
        if not self._idle:
            return
        if self._line:
            self._idle_ready += passed
        else:
            self._thoughts = {job: seconds + passed for job, seconds in self._thoughts.items()}

    def _stop(self, evaluator: str) -> None:
        since = self._since.pop(evaluator, None)
        if since is not None:
            self._busy[evaluator] += self._last - since
