"""The job's state machine. Pure: a `Draft` is a job being changed, with the events that say how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from diminuendo.v1 import job_pb2
from google.protobuf import timestamp_pb2

from diminuendo.services.common.errors import JobEndedError
from diminuendo.services.conductor.records import Job, NewJob, State

LEGAL: Mapping[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.CANCELLED}),
    State.RUNNING: frozenset({State.QUEUED, State.CANCELLING, State.SUCCEEDED, State.FAILED}),
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
            raise JobEndedError(
                f"{job.name} is {job.state.name} and stays so; create another job to run it again", job=job.name
            )
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
    draft.enter(State.CANCELLING, "cancellation was asked for")
    if draft.job.lease_ended(now):
        draft.enter(State.CANCELLED, f"coordinator {job.coordinator} is gone")
    return draft


def timestamp(micros: int) -> timestamp_pb2.Timestamp:
    """Microseconds since the epoch as the wire's timestamp."""
    return timestamp_pb2.Timestamp(seconds=micros // 1_000_000, nanos=micros % 1_000_000 * 1_000)
