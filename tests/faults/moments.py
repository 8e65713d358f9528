"""The moments of a job that processes pass through, and the one at which all of them are to hold still.

Whoever comes to a moment, a call in the proxy or a work in an evaluator, tells it here and goes on when told to. So a
test stops a job exactly where it wants, for as long as it takes to kill somebody, without a sleep and without a hook
in what it tests.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Where = Literal["ready", "call", "answer", "start", "upload", "done"]
Verdict = Literal["go", "drop"]
_HELD_S = 60.0
"""A test that died must not hold a process for ever."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Where somebody is.

    Attributes:
        where: ``ready``: an evaluator's worker is made; ``call``, ``answer``: of a coordinator's RPC, before it gets
            to the conductor and before the answer gets to the coordinator; ``start``, ``upload``, ``done``: of a work
            on an evaluator, before weights are put into the store in the case of ``upload``.
        name: The RPC's method; the work's kind.
        stage: Of the search, as the newest committed step tells it; empty before the first.
        key: The work's.
        pid: The evaluator's process.
        message: The RPC's request.
        answer: The RPC's answer.
    """

    where: Where
    name: str
    stage: str = ""
    key: str = ""
    pid: int = 0
    message: Any = None
    answer: Any = None


Point = Callable[[Moment], bool]


@dataclass
class Hold:
    """The first moment of a kind; whoever comes to it waits there.

    Attributes:
        reached: Set when somebody has come to it.
    """

    point: Point
    skip: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    moment: Moment | None = None
    _over: threading.Event = field(default_factory=threading.Event)
    _verdict: Verdict = "go"

    def let_go(self, verdict: Verdict = "go") -> None:
        """Have whoever waits go on, or give up what it was about to do."""
        self._verdict = verdict
        self._over.set()

    def wait(self) -> Verdict:
        """Wait to be let go."""
        self._over.wait(_HELD_S)
        return self._verdict


class Moments:
    """Everything that is told, in the order in which it was. Safe to use from any thread."""

    def __init__(self, told: Callable[[Moment], None] = lambda _moment: None) -> None:
        """Nothing is held.

        Args:
            told: Called with each moment, one at a time.
        """
        self._lock = threading.Lock()
        self._told, self._hold = told, None
        self.stage = ""
        self.evaluators: list[int] = []

    _hold: Hold | None

    def hold(self, point: Point, *, skip: int = 0) -> Hold:
        """Hold at the first moment that is meant, after so many others of the kind. One at a time."""
        with self._lock:
            self._hold = Hold(point, skip)
            return self._hold

    def enter(self, stage: str) -> None:
        """The search is in a stage."""
        with self._lock:
            self.stage = stage

    def come_to(self, moment: Moment) -> Verdict:
        """Somebody is here; returns when it may go on."""
        with self._lock:
            if moment.where == "ready":
                self.evaluators.append(moment.pid)
            self._told(moment)
            held = self._held(moment)
        if held is None:
            return "go"
        held.reached.set()
        return held.wait()

    def _held(self, moment: Moment) -> Hold | None:
        hold = self._hold
        if hold is None or not hold.point(moment):
            return None
        if hold.skip:
            hold.skip -= 1
            return None
        self._hold, hold.moment = None, moment
        return hold
