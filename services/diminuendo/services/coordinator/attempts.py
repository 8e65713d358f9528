"""Attempts at works that came to nothing, and why. Imports no ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Cause = Literal["OUT_OF_MEMORY", "GPU_OUT_OF_MEMORY", "EVALUATOR_LOST", "TIMEOUT"]


@dataclass(frozen=True, slots=True)
class Loss:
    """One attempt that came to nothing.

    Attributes:
        detail: One line for people.
    """

    cause: Cause
    detail: str
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class AttemptLost:
    """An attempt at a work that came to nothing, as the job's log tells it.

    Attributes:
        index: Of the work.
        subject: What it was about, for a person.
        evaluator: Which one had it.
        attempt: From 1.
        detail: One line for people.
    """

    index: int
    subject: str
    evaluator: str
    attempt: int
    cause: Cause
    detail: str
