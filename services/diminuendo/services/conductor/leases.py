"""The lease rules: who may hold a job, what its holder may write, and how it lets go. Pure.

A job is held by a coordinator under an epoch that rises with every lease. Whoever writes with another epoch than
the job's has lost it, however alive it is.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from diminuendo.v1 import coordinator_service_pb2, job_pb2

from diminuendo.services.common.errors import CancelNotRequestedError, StaleEpochError, StepOutOfOrderError
from diminuendo.services.conductor.jobs import Draft, part
from diminuendo.services.conductor.records import CommittedStep, Job, Outcome, State


def grant(job: Job, now: int, *, coordinator: str, request_id: str, lease_us: int) -> Draft:
    """Give the job to a coordinator under the next epoch. The caller has seen to it that the job is free."""
    draft = Draft(job, now)
    if job.state is State.QUEUED:
        draft.enter(State.RUNNING)
    draft.job = replace(
        draft.job,
        epoch=job.epoch + 1,
        coordinator=coordinator,
        lease_request=request_id,
        lease_expire_time=now + lease_us,
    )
    draft.note(job_pb2.JobEvent(leased=job_pb2.Leased(coordinator=coordinator, epoch=job.epoch + 1)))
    return draft


def extend(job: Job, now: int, *, lease_us: int) -> Job:
    """The same lease for longer. No event: nothing about the job has changed."""
    return replace(job, lease_expire_time=now + lease_us)


def fence(job: Job, epoch: int) -> None:
    """Let only the holder of the present lease pass.

    Raises:
        StaleEpochError: The lease is over.
    """
    if job.state.held and job.epoch == epoch:
        return
    now_is = f"is {job.state.name}" if job.state.final else f"is {job.state.name} under epoch {job.epoch}"
    raise StaleEpochError(
        f"epoch {epoch} of {job.name} is over: the job {now_is}; stop working on it and lease again",
        job=job.name,
        epoch=str(epoch),
        current_epoch=str(job.epoch),
        state=job.state.name,
    )


def lapse(job: Job, now: int) -> Draft:
    """Take a parting job from its coordinator, which is gone."""
    draft = Draft(job, now)
    part(draft)
    return draft


def commit(job: Job, now: int, step: CommittedStep) -> Draft:
    """Take the next step.

    Raises:
        StepOutOfOrderError: It is not the next one.
    """
    if step.step.step != job.next_step:
        raise out_of_order(job, step, "")
    draft = Draft(replace(job, next_step=job.next_step + 1, progress=step.step.progress), now)
    draft.note(job_pb2.JobEvent(step_committed=step.step))
    for warning in step.warnings:
        draft.note(job_pb2.JobEvent(warning=warning))
    return draft


def out_of_order(job: Job, step: CommittedStep, why: str) -> StepOutOfOrderError:
    """The refusal of a step, with the number that is wanted."""
    why = why or f"the next step is {job.next_step}"
    return StepOutOfOrderError(
        f"step {step.step.step} of {job.name} cannot be committed: {why}; lease again and go on from there",
        job=job.name,
        step=str(step.step.step),
        next_step=str(job.next_step),
    )


def release(job: Job, now: int, *, epoch: int, outcome: Outcome | None, reason: str = "") -> Draft:
    """The holder lets go, with an outcome or without. The same release again changes nothing.

    A result that comes although cancellation was asked for stands: it is complete, and throwing it away would help
    nobody. A failure then is the cancellation that was asked for.

    Raises:
        StaleEpochError: The lease is over.
        CancelNotRequestedError: Released as cancelled, which nobody asked for.
    """
    digest = release_digest(epoch, outcome)
    draft = Draft(job, now)
    if job.released == digest:
        return draft
    fence(job, epoch)
    holder, cancelling = job.coordinator, job.state is State.CANCELLING
    draft.job = replace(job, released=digest)
    if isinstance(outcome, job_pb2.JobResult):
        draft.enter(State.SUCCEEDED, result=outcome)
    elif cancelling:
        why = f", after {outcome.reason}" if isinstance(outcome, job_pb2.JobFailure) else ""
        draft.enter(State.CANCELLED, f"cancelled on request{why}")
    elif isinstance(outcome, job_pb2.JobFailure):
        draft.enter(State.FAILED, outcome.message, failure=outcome)
    elif outcome is None and job.state is State.PAUSING:
        draft.enter(State.PAUSED, "paused on request")
    elif outcome is None:
        draft.enter(State.QUEUED, f"coordinator {holder} let go of it" + (f": {reason}" if reason else ""))
    else:
        raise CancelNotRequestedError(
            f"{job.name} is {job.state.name} and nobody asked to cancel it; release it without an outcome to let go",
            job=job.name,
        )
    return draft


def release_digest(epoch: int, outcome: Outcome | None) -> str:
    """What tells a release from another one."""
    kind = "none"
    if isinstance(outcome, coordinator_service_pb2.Cancelled):
        kind = "cancelled"
    elif outcome is not None:
        content = outcome.SerializeToString(deterministic=True)
        kind = f"{type(outcome).__name__}:{hashlib.sha256(content).hexdigest()}"
    return f"{epoch}:{kind}"
