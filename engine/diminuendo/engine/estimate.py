"""What a job would cost: the survey and one candidate are done, the rest is counted."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from diminuendo.engine.compression import check_request
from diminuendo.engine.evaluate import Worker
from diminuendo.engine.inline import InlineExecutor
from diminuendo.engine.search import budget
from diminuendo.engine.search.session import Request, Session
from diminuendo.engine.search.settings import EFFORTS
from diminuendo.engine.search.work import Evaluate, Evaluated, Failed
from diminuendo.engine.store import DirectoryStore
from diminuendo.engine.task import Task
from diminuendo.engine.workbench import UserCodeError

TRIED_EPOCHS = 0.25
"""Tuning of the candidate that is tried, where the search would not tune it."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a job takes at most.

    Attributes:
        evaluations: Candidates that are tuned, the finalists and the dense control among them.
        epochs: Passes over the training data, of all of them.
        minutes: On one evaluator like this machine; a candidate of the compressed job may be quicker.
        survey_s: Seconds that preparing and the survey took.
        epoch_s: Seconds of an epoch of the candidate that was tried.
        beside_s: Seconds that it took beside its epochs: it was built, scored and stored.
    """

    evaluations: int
    epochs: float
    minutes: float
    survey_s: float
    epoch_s: float
    beside_s: float


def estimate(request: Request, *, task: Task | None = None, on_work: Callable[[str], None] | None = None) -> Estimate:
    """Survey the network, tune the first candidate, and say what the whole job would cost.

    Args:
        request: As for the job.
        task: Where the request's source is no name that the engine knows.
        on_work: Told what is about to be done.

    Raises:
        TaskError: The request or the task is not usable.
        UserCodeError: The task's own code raised, or the request's patterns and limits do not fit the network.
    """
    check_request(request)
    before = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="diminuendo-") as scratch:
        worker = Worker(DirectoryStore(scratch), tasks={} if task is None else {request.source: task})
        try:
            survey_s, epoch_s, beside_s = _sample(Session(request), InlineExecutor(worker), on_work)
        finally:
            torch.set_num_threads(before)
    whole = budget.forecast(request, EFFORTS[request.effort])
    minutes = (survey_s + whole.epochs * epoch_s + whole.evaluations * beside_s) / 60
    most = min(minutes, budget.of(request, "minutes"))
    return Estimate(whole.evaluations, whole.epochs, most, survey_s, epoch_s, beside_s)


def _sample(
    session: Session, executor: InlineExecutor, on_work: Callable[[str], None] | None
) -> tuple[float, float, float]:
    """Seconds of everything up to the first candidate, of an epoch of that, and of what it took beside."""
    survey_s = 0.0
    while session.outcome is None:
        work = session.ask()[0]
        epochs = 0.0
        if isinstance(work.question, Evaluate):
            epochs = work.question.epochs or TRIED_EPOCHS
            work = replace(work, question=replace(work.question, epochs=epochs))
        if on_work:
            on_work(work.subject)
        executor.submit(work)
        done = executor.wait(0.0)[0]
        if isinstance(done.answer, Evaluated):
            beside_s = done.answer.beside_s
            return survey_s, (done.seconds - beside_s) / epochs, beside_s
        session.tell(done.answer)
        survey_s += done.seconds
    failed = session.outcome
    message, trace = (
        (failed.message, failed.traceback) if isinstance(failed, Failed) else ("no candidate was asked", "")
    )
    raise UserCodeError(message, trace)
