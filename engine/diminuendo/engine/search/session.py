"""The search session: ask for works, tell outcomes, dump and load at any step.

WORK IN PROGRESS: interface only; see below for what others may rely on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diminuendo.engine.search.work import Evaluated, Failed, Judged, Prepared, Surveyed, Work

StageName = Literal["prepare", "survey", "explore", "anneal", "certify", "done"]


@dataclass(frozen=True, slots=True)
class Best:
    """The best candidate so far."""

    params_ratio: float
    macs_ratio: float
    drop: float


@dataclass(frozen=True, slots=True)
class Step:
    """What one outcome changed. `index` counts from 0 and equals the index of the work whose outcome it was.

    Attributes:
        key: Key of the work.
        candidate: Figures of the candidate that was told, for an evaluation that did not diverge.
        warnings: (reason in UPPER_SNAKE_CASE, message).
    """

    index: int
    key: str
    stage: StageName
    summary: str
    works_done: int
    works_expected: int
    best: Best | None
    candidate: Best | None
    warnings: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ResultFileContent:
    """A file of the result folder: either its bytes, or the sha256 of content that the store already has."""

    name: str
    content: bytes | None
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a session that found a model."""

    inside_delta: bool
    drop: float
    params_ratio: float
    macs_ratio: float
    files: tuple[ResultFileContent, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a session."""

    source: str
    delta: float
    seed: int = 0
    effort: Literal["quick", "normal", "deep"] = "normal"
    accept: Literal["estimate", "strict"] = "estimate"
    threads: int = 1


class StateError(ValueError):
    """A dumped state that this version cannot go on from; discard it and start again."""


class Session:
    """One search, from the original network to the certified result."""

    outcome: Finished | Failed | None
    next_index: int

    def __init__(self, request: Request) -> None:
        """Start a search."""

    def ask(self) -> list[Work]:
        """Every work that is wanted now and whose outcome has not been told, in proposal order."""
        raise NotImplementedError

    def tell(self, answer: Prepared | Surveyed | Evaluated | Judged | Failed) -> Step:
        """Apply the outcome of work number `next_index`."""
        raise NotImplementedError

    def dump(self) -> bytes:
        """The whole state; `load` goes on from it with the same decisions."""
        raise NotImplementedError

    @classmethod
    def load(cls, data: bytes) -> Session:
        """A session that goes on from a dumped state; StateError when it cannot."""
        raise NotImplementedError
