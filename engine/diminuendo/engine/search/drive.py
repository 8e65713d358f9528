"""Drives a session with any executor and any journal: the loop that inline runs and Ray clusters share."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from diminuendo.engine.search.session import Finished, Session, Step
from diminuendo.engine.search.work import AnyAnswer, Failed, Work

__all__ = ["AnyAnswer", "Done", "Executor", "Journal", "Stopped", "drive"]


@dataclass(frozen=True, slots=True)
class Done:
    """A work that came back.

    Attributes:
        evaluator: Who did it; empty when remembered.
        seconds: Wall-clock seconds on the evaluator.
        remembered: Known from an earlier work with the same key.
    """

    work: Work
    answer: AnyAnswer
    evaluator: str
    seconds: float
    remembered: bool = False


class Executor(Protocol):
    """Runs works, some at a time. Retries of lost evaluators are its own affair."""

    @property
    def slots(self) -> int:
        """How many works it wants to hold at once (running and next in line)."""
        ...

    def submit(self, work: Work) -> None:
        """Start the work, or put it in line."""
        ...

    def wait(self, timeout_s: float) -> list[Done]:
        """Block until at least one work is done, or the time is over (then an empty list)."""
        ...

    def cancel(self) -> None:
        """Give up every work that is not done; its outcome never comes."""
        ...


class Journal(Protocol):
    """What must outlive this process, and what its owner wants of it."""

    def recall(self, keys: Sequence[str]) -> dict[str, AnyAnswer]:
        """Outcomes known by key."""
        ...

    def record(self, done: Done) -> None:
        """Store an outcome durably before the search uses it."""
        ...

    def commit(self, step: Step, session: Session) -> None:
        """Store a step and the session's state durably."""
        ...

    def stopped(self) -> bool:
        """True when the job is to stop: cancelled, its lease lost, or the process ending."""
        ...


DRIFT_S = 1.0
"""A deadline that moves by less has not been moved."""


class Stopped(Exception):  # noqa: N818 - not an error
    """Raised by `drive` when the journal says stop."""


def drive(
    session: Session,
    executor: Executor,
    journal: Journal,
    *,
    poll_s: float = 0.5,
    clock: Callable[[], float] = time.monotonic,
    left: Callable[[], float | None] | None = None,
) -> Finished | Failed:
    """Run the session to its end.

    Outcomes are recorded when they arrive and applied in proposal order; a step is committed for every outcome
    applied. Works whose key is known are not run.

    Args:
        session: Not ended.
        executor: Runs the works.
        journal: Keeps what must outlive this process.
        poll_s: Longest wait for an outcome.
        clock: Seconds since any moment; asked only when the job has a budget of minutes or may have a deadline. The
            time between two drives of one session is no part of a budget.
        left: Seconds until the job's deadline, None while it has none; it may be set and moved while the job runs.
            Left out: it never has one.

    Raises:
        Stopped: The journal asked to stop; everything committed so far stands.
    """
    held: dict[int, Done] = {}
    running: dict[int, str] = {}
    timed = session.timed or left is not None
    before, start = session.elapsed_s, clock() if timed else 0.0

    def elapsed() -> float:
        return before + clock() - start

    while session.outcome is None:
        if journal.stopped():
            executor.cancel()
            raise Stopped
        if left is not None:
            _set_deadline(session, elapsed(), left())
        if session.timed and session.elapse(elapsed()):
            executor.cancel()
            running.clear()
            held.clear()
        fresh = [work for work in session.ask() if work.index not in running and work.index not in held]
        fresh = fresh[: max(0, executor.slots - len(running))]
        known = journal.recall([work.key for work in fresh]) if fresh else {}
        arrived: list[Done] = []
        for work in fresh:
            if work.key in known:
                arrived.append(Done(work, known[work.key], evaluator="", seconds=0.0, remembered=True))
            else:
                executor.submit(work)
                running[work.index] = work.key
        if not arrived:
            arrived = executor.wait(poll_s)
        for done in arrived:
            journal.record(done)
            if not done.remembered and running.get(done.work.index) != done.work.key:
                continue  # given up before it came
            running.pop(done.work.index, None)
            held[done.work.index] = done
        while session.outcome is None and session.next_index in held:
            step = session.tell(held.pop(session.next_index).answer, elapsed_s=elapsed() if session.timed else 0.0)
            journal.commit(step, session)
    executor.cancel()
    return session.outcome


def _set_deadline(session: Session, elapsed_s: float, left_s: float | None) -> None:
    """Tell the session when the job is to end, where that has changed by more than two clocks drift apart."""
    end_s = None if left_s is None else elapsed_s + left_s
    if end_s is None or session.end_s is None or abs(end_s - session.end_s) > DRIFT_S:
        session.end_by(end_s)
