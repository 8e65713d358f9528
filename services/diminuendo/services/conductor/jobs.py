"""The job's state machine. Pure: a `Draft` is a job being changed, with the events that say how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from diminuendo.v1 import job_pb2
from google.protobuf import timestamp_pb2

from diminuendo.services.common.errors import (
    EtagMismatchError,
    JobActiveError,
    JobCancellingError,
    JobEndedError,
    JobNotRetriedError,
)
from diminuendo.services.conductor.records import Job, NewJob, State, Update

LEGAL: Mapping[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.PAUSED, State.CANCELLED}),
    State.RUNNING: frozenset({State.QUEUED, State.PAUSING, State.CANCELLING, State.SUCCEEDED, State.FAILED}),
    State.PAUSING: frozenset({State.PAUSED, State.RUNNING, State.CANCELLING, State.SUCCEEDED, State.FAILED}),
    State.PAUSED: frozenset({State.QUEUED, State.CANCELLED}),
    State.CANCELLING: frozenset({State.CANCELLED, State.SUCCEEDED}),
    State.CANCELLED: frozenset(),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
}
"""Where a job may go from each state. The final ones lead nowhere: a job ends exactly once."""


class Draft:
    """A job within one transaction: what it becomes, and the events that are to be stored with it.

    Attributes:
        job: As it is now; the events so far are counted in.
        events: New events, numbered.
    """

    def __init__(self, job: Job, now: int) -> None:
        """Start from a stored job. Time does not run backwards within a job."""
        self.job = job
        self.now = max(now, job.update_time)
        self.events: list[job_pb2.JobEvent] = []

    def note(self, event: job_pb2.JobEvent) -> None:
        """Append an event; its number and time are set here."""
        self.job = replace(self.job, last_sequence=self.job.last_sequence + 1, update_time=self.now)
        event.sequence = self.job.last_sequence
        event.time.CopyFrom(timestamp(self.now))
        self.events.append(event)

    def enter(
        self,
        state: State,
        reason: str = "",
        *,
        result: job_pb2.JobResult | None = None,
        failure: job_pb2.JobFailure | None = None,
    ) -> None:
        """Change the state: the only place where that happens.

        Args:
            state: The new state; must be legal after the present one.
            reason: Why, for a person.
            result: With SUCCEEDED.
            failure: With FAILED.

        Raises:
            JobEndedError: The job has ended.
        """
        job = self.job
        if job.state.final:
            raise ended(job)
        if state not in LEGAL[job.state]:
            raise ValueError(f"{job.name} cannot go from {job.state.name} to {state.name}")
        if (state is State.SUCCEEDED) != (result is not None) or (state is State.FAILED) != (failure is not None):
            raise ValueError(f"{job.name} cannot be {state.name} with this outcome")
        job = replace(job, state=state, result=result, failure=failure)
        if state is State.RUNNING and job.start_time is None:
            job = replace(job, start_time=self.now)
        if not state.held:
            job = replace(job, coordinator="", lease_request="", lease_expire_time=None)
        if state.final:
            job = replace(job, end_time=self.now)
        self.job = job
        self.note(job_pb2.JobEvent(state_changed=job_pb2.StateChanged(state=state.wire, reason=reason)))


def create(new: NewJob, now: int) -> Draft:
    """A new job, queued."""
    job = Job(
        name=new.name,
        project=new.project,
        spec=new.spec,
        labels=new.labels,
        create_time=now,
        update_time=now,
        priority=new.priority,
        deadline=new.deadline,
        retry_of=new.retry_of,
        fleet=new.fleet,
        model=new.model,
        trace_parent=new.trace_parent,
    )
    draft = Draft(job, now)
    draft.note(job_pb2.JobEvent(state_changed=job_pb2.StateChanged(state=State.QUEUED.wire)))
    return draft


def cancel(job: Job, now: int) -> Draft:
    """The job as its owner asks to cancel it; unchanged when that was asked before.

    Raises:
        JobEndedError: It succeeded or failed.
    """
    draft = Draft(job, now)
    if job.state in (State.CANCELLING, State.CANCELLED):
        return draft
    if job.state is State.QUEUED:
        draft.enter(State.CANCELLED, "cancelled on request, before it ran")
        return draft
    if job.state is State.PAUSED:
        draft.enter(State.CANCELLED, "cancelled on request, while it was paused")
        return draft
    draft.enter(State.CANCELLING, "cancellation was asked for")
    part_if_lost(draft)
    return draft


def pause(job: Job, now: int) -> Draft:
    """The job as its owner asks to pause it; unchanged when that was asked before.

    Raises:
        JobCancellingError: It is being cancelled.
        JobEndedError: It has ended.
    """
    draft = Draft(job, now)
    if job.state in (State.PAUSING, State.PAUSED):
        return draft
    if job.state is State.CANCELLING:
        raise _cancelling(job)
    draft.enter(State.PAUSED if job.state is State.QUEUED else State.PAUSING, "a pause was asked for")
    part_if_lost(draft)
    return draft


def resume(job: Job, now: int) -> Draft:
    """The job as its owner asks to go on with it; unchanged when it is not paused.

    A coordinator that has yet to let go keeps it; whether it has begun to, nobody knows, so it may still do so.

    Raises:
        JobCancellingError: It is being cancelled.
        JobEndedError: It has ended.
    """
    draft = Draft(job, now)
    if job.state.final:
        raise ended(job)
    if job.state is State.CANCELLING:
        raise _cancelling(job)
    part_if_lost(draft)
    if draft.job.state is State.PAUSING:
        draft.enter(State.RUNNING, "resumed before its coordinator had let go")
    elif draft.job.state is State.PAUSED:
        draft.enter(State.QUEUED, "resumed")
    return draft


def part_if_lost(draft: Draft) -> None:
    """End a parting job's lease where its coordinator is gone."""
    if draft.job.state.parting and draft.job.lease_ended(draft.now):
        part(draft)


def part(draft: Draft) -> None:
    """Bring a parting job to where it was to go, without its coordinator."""
    state = State.CANCELLED if draft.job.state is State.CANCELLING else State.PAUSED
    draft.enter(state, f"coordinator {draft.job.coordinator} is gone")


def update(job: Job, now: int, wanted: Update) -> Draft:
    """The job with what its owner sets.

    Raises:
        EtagMismatchError: It has changed since the owner looked.
        JobEndedError: It has ended, and its priority or deadline was to be set.
    """
    same_etag(job, wanted.etag)
    void = [field for field in wanted.fields if field != "labels"]
    if job.state.final and void:
        means = f"its {' and '.join(void)} {'means' if len(void) == 1 else 'mean'} nothing"
        raise JobEndedError(f"{job.name} is {job.state.name}: {means}; set labels", job=job.name)
    labels = job.labels if wanted.labels is None else wanted.labels
    priority = job.priority if wanted.priority is None else wanted.priority
    deadline = job.deadline if wanted.deadline is None else wanted.deadline or None
    draft = Draft(replace(job, labels=labels, priority=priority, deadline=deadline), now)
    event = job_pb2.Updated(
        fields=wanted.fields,
        labels=labels,
        priority=priority,
        deadline=timestamp_or_none(deadline),
    )
    draft.note(job_pb2.JobEvent(updated=event))
    return draft


def retry(job: Job, name: str) -> NewJob:
    """Another try of a job that failed or was cancelled. It has no deadline: that may be what ended it.

    Raises:
        JobNotRetriedError: It did neither.
    """
    if job.state not in (State.FAILED, State.CANCELLED):
        remedy = "submit a job with other settings" if job.state.final else "wait for its end, or cancel it first"
        raise JobNotRetriedError(
            f"{job.name} is {job.state.name}; only a job that FAILED or was CANCELLED is tried again: {remedy}",
            job=job.name,
            state=job.state.name,
        )
    return NewJob(
        name=name,
        project=job.project,
        spec=job.spec,
        labels=job.labels,
        priority=job.priority,
        retry_of=job.name,
        fleet=job.fleet,
        model=job.model,
    )


def deletable(job: Job, etag: str) -> None:
    """Let only a job pass that may be forgotten.

    Raises:
        EtagMismatchError: It has changed since its owner looked.
        JobActiveError: It has not ended.
    """
    same_etag(job, etag)
    if not job.state.final:
        raise JobActiveError(
            f"{job.name} is {job.state.name}; only a job that has ended is deleted: cancel it first",
            job=job.name,
            state=job.state.name,
        )


def same_etag(job: Job, etag: str) -> None:
    """EtagMismatchError when an etag is given that is not the job's."""
    if etag and etag != job.etag:
        raise EtagMismatchError(
            f"etag {etag!r} is not {job.name}'s any more, which is {job.etag!r}; get the job, and decide again",
            job=job.name,
            etag=job.etag,
        )


def ended(job: Job) -> JobEndedError:
    """The refusal of what would change how a job ended."""
    return JobEndedError(
        f"{job.name} is {job.state.name} and stays so; create another job to run it again", job=job.name
    )


def _cancelling(job: Job) -> JobCancellingError:
    return JobCancellingError(
        f"{job.name} is CANCELLING, which cannot be taken back; wait for its end, then retry it", job=job.name
    )


def timestamp_or_none(micros: int | None) -> timestamp_pb2.Timestamp | None:
    """What `timestamp` makes of a time; None, which leaves a field unset, where there is none."""
    return None if micros is None else timestamp(micros)


def timestamp(micros: int) -> timestamp_pb2.Timestamp:
    """Microseconds since the epoch as the wire's timestamp."""
    return timestamp_pb2.Timestamp(seconds=micros // 1_000_000, nanos=micros % 1_000_000 * 1_000)
