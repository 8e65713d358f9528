"""What a lost attempt means: why it was lost, and what becomes of the work when every attempt was."""

from __future__ import annotations

import ray.exceptions

from diminuendo.engine.cost import Cost
from diminuendo.engine.search.drive import AnyAnswer
from diminuendo.engine.search.work import Evaluate, Evaluated, Failed, Work
from diminuendo.services.coordinator.attempts import Loss
from diminuendo.services.coordinator.install import last_line, refused

MAX_ATTEMPTS = 3


def loss_of(error: BaseException) -> Loss:
    """Why Ray lost an attempt, or could not start an evaluator."""
    if isinstance(error, ray.exceptions.RuntimeEnvSetupError):
        return Loss("EVALUATOR_LOST", refused(str(error)), str(error))
    if isinstance(error, ray.exceptions.RayActorError) and error.actor_init_failed:
        return Loss("EVALUATOR_LOST", f"the evaluator cannot start: {last_line(error)[:500]}", str(error))
    detail = " ".join(str(error).split())
    if isinstance(error, ray.exceptions.OutOfMemoryError) or "memory usage threshold" in detail:
        return Loss("OUT_OF_MEMORY", f"Ray ended the evaluator, because the node ran out of memory: {detail[:500]}")
    exit_detail = detail.partition("Worker exit type:")[2].strip()
    return Loss("EVALUATOR_LOST", f"the evaluator's process was lost: {(exit_detail or detail)[:500]}")


def give_up(work: Work, loss: Loss, *, attempts: int) -> AnyAnswer:
    """What stands for the outcome of a work whose every attempt was lost.

    A candidate that ended its evaluators each time, freshly started ones among them, is infeasible, and the search
    goes on without it. Any other work is one that the search cannot do without, so it ends the job.
    """
    if isinstance(work.question, Evaluate):
        # Nobody got so far as to count its cost; the search leaves candidates without a score out of account.
        return Evaluated(score=None, divergence=None, weights=None, cost=Cost(0, 0), samples=0, seconds=0.0)
    return Failed(loss.cause, f"{work.subject}: gave up after {attempts} attempts; {loss.detail}", loss.traceback)
