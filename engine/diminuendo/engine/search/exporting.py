"""Exports of a search's result: what is asked for once the verdict is known, and what is told of them."""

from __future__ import annotations

from collections.abc import Iterator

from diminuendo.engine.exports.forms import Exported
from diminuendo.engine.search.state import Request, Trial
from diminuendo.engine.search.work import Export, ExportsMade, Failed, Prepared, Tuned

REASON = "EXPORT_FAILED"
"""Of the warning for each form that failed."""


def question(request: Request, prepared: Prepared, winner: Trial) -> Export:
    """What is asked for."""
    tuned = Tuned(winner.choices, winner.weights or "")
    return Export(request.source, prepared.task, tuned, request.exports, request.seed, request.threads)


def is_lost(answer: object) -> bool:
    """Whether exports cannot be had, whoever tries, while the result itself can.

    A result whose weights are gone from the store is none: that is the job's failure.
    """
    return isinstance(answer, Failed) and answer.reason != "ARTIFACT_MISSING"


def lost(request: Request, failed: Failed) -> ExportsMade:
    """Every form failed, for one reason."""
    told = f"{failed.message} ({failed.reason}); export it from the result's folder later: diminuendo export FOLDER"
    return ExportsMade(tuple((Exported(form, error=told), None) for form in request.exports), 0.0)


def complaints(answer: ExportsMade) -> Iterator[str]:
    """One for each form that failed."""
    return (f"{made.form}: {made.error}" for made, _ in answer.made if made.error)


def summary(answer: ExportsMade) -> str:
    """In one line."""
    files = ", ".join(made.file for made, _ in answer.made if made.file) or "no exports"
    failed = ", ".join(made.form for made, _ in answer.made if made.error)
    return f"{files}; failed: {failed}" if failed else files
