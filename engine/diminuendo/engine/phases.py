"""What the seconds of a work go to: phases, kept for whoever wants to know, of the work that is being done."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a work.

    Attributes:
        name: ``build``, ``train``, ``score``, ``upload``, ...
        start_s: Seconds from the work's beginning.
        seconds: How long it took.
    """

    name: str
    start_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class _Kept:
    begun: float
    phases: list[Phase]


_kept: ContextVar[_Kept | None] = ContextVar("phases", default=None)


@contextmanager
def kept() -> Iterator[list[Phase]]:
    """The phases of what is done inside, in the order of their ends. The work begins here."""
    phases = list[Phase]()
    token = _kept.set(_Kept(time.perf_counter(), phases))
    try:
        yield phases
    finally:
        _kept.reset(token)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """What is done inside is a phase; where nobody keeps phases, nothing more."""
    own = _kept.get()
    if own is None:
        yield
        return
    start = time.perf_counter()
    try:
        yield
    finally:
        own.phases.append(Phase(name, start - own.begun, time.perf_counter() - start))
