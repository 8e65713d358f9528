"""What a job's coordinator changes, as operations on the SQL store's transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from diminuendo.v1 import job_pb2
from sqlalchemy import ColumnElement, and_, bindparam, delete, func, insert, or_, select, text

from diminuendo.services.conductor import leases as rules
from diminuendo.services.conductor.jobs import Draft
from diminuendo.services.conductor.records import CommittedStep, Job, Lease, Outcome, Report, State
from diminuendo.services.conductor.store import artifacts, rows
from diminuendo.services.conductor.store.base import HELD, PARTING
from diminuendo.services.conductor.store.connect import is_postgres
from diminuendo.services.conductor.store.owned import store_draft, store_row
from diminuendo.services.conductor.store.tables import attempts, evaluations, jobs, reports, session_states, steps
from diminuendo.services.conductor.store.writer import Transaction

_HELD = tuple(state.name for state in HELD)
_PARTING = tuple(state.name for state in PARTING)

# Statements are built once: building one costs more than running it.
_OUTCOME_KNOWN = select(evaluations.c.key).where(evaluations.c.key == bindparam("key"))
_KEEP_OUTCOME = insert(evaluations)
_NOTED = select(reports.c.key).where(
    reports.c.job_id == bindparam("job_id"),
    reports.c.work_index == bindparam("work_index"),
    reports.c.key == bindparam("key"),
)
_NOTE = insert(reports)
_ATTEMPTED = select(attempts.c.attempt).where(
    attempts.c.job_id == bindparam("job_id"),
    attempts.c.epoch == bindparam("epoch"),
    attempts.c.work_index == bindparam("work_index"),
    attempts.c.attempt == bindparam("attempt"),
)
_NOTE_ATTEMPT = insert(attempts)
_STEP = select(steps.c.body).where(steps.c.job_id == bindparam("job"), steps.c.step == bindparam("step"))
_ADD_STEP = insert(steps)
_STATE = select(session_states.c.body).where(session_states.c.job_id == bindparam("job"))
_ONE_AT_A_TIME = text("SELECT pg_advisory_xact_lock(1, hashtext(:coordinator))")
_DROP_STATE = delete(session_states).where(session_states.c.job_id == bindparam("job"))
_ADD_STATE = insert(session_states)
_WAITING = (
    select(jobs.c.project, func.min(jobs.c.id).label("first"))
    .where(jobs.c.state == State.QUEUED.name)
    .group_by(jobs.c.project)
)
_WORKED_ON = select(jobs.c.project, func.count().label("jobs")).where(jobs.c.state.in_(_HELD)).group_by(jobs.c.project)


def lease(
    tx: Transaction,
    *,
    coordinator: str,
    request_id: str,
    lease_us: int,
    holding: Collection[str] = (),
    weights: Mapping[str, float] | None = None,
    project: str = "",
) -> Lease | None:
    """Give the next job to a coordinator."""
    _alone(tx, coordinator)
    same = and_(jobs.c.coordinator == coordinator, jobs.c.lease_request == request_id, jobs.c.state.in_(_HELD))
    again = _first(tx, same, wait=True) if request_id else None
    if again is not None:
        job = rules.extend(again, tx.now, lease_us=lease_us)
        store_row(tx, job)
        return _lease(tx, job)
    theirs = jobs.c.name.not_in(holding)
    forgotten = and_(jobs.c.coordinator == coordinator, theirs)
    expired = and_(jobs.c.lease_expire_time <= tx.now, theirs)
    if project:
        expired = and_(expired, jobs.c.project == project)
    _lapse(tx, or_(expired, forgotten))
    job_free = _first(tx, and_(jobs.c.state == State.RUNNING.name, forgotten), wait=True)
    job_free = job_free or _first(tx, and_(jobs.c.state == State.RUNNING.name, expired))
    job_free = job_free or _next_queued(tx, weights or {}, project)
    if job_free is None:
        return None
    draft = rules.grant(job_free, tx.now, coordinator=coordinator, request_id=request_id, lease_us=lease_us)
    store_draft(tx, draft)
    return _lease(tx, draft.job)


def _next_queued(tx: Transaction, weights: Mapping[str, float], only: str) -> Job | None:
    """The first job in the queue of the project that has least for its weight, or of the only one, if it has any."""
    waiting = tx.connection.execute(_WAITING)
    oldest = {row.project: row.first for row in waiting if not only or row.project == only}
    worked_on = {row.project: row.jobs for row in tx.connection.execute(_WORKED_ON)}
    order = sorted(oldest, key=lambda name: (worked_on.get(name, 0) / weights.get(name, 1.0), oldest[name]))
    queued = jobs.c.state == State.QUEUED.name
    found = (_first(tx, and_(queued, jobs.c.project == project), by_priority=True) for project in order)
    return next((job for job in found if job is not None), None)


def _alone(tx: Transaction, coordinator: str) -> None:
    """Let one coordinator ask one conductor at a time: the same request at two of them must not get two jobs."""
    if is_postgres(tx.connection):
        tx.connection.execute(_ONE_AT_A_TIME, {"coordinator": coordinator})


def _first(
    tx: Transaction, condition: ColumnElement[bool], *, wait: bool = False, by_priority: bool = False
) -> Job | None:
    """The oldest job of a kind. One that another transaction has at the moment is passed over, or waited for."""
    order = (jobs.c.nice, jobs.c.id) if by_priority else (jobs.c.id,)
    query = select(jobs).where(condition).order_by(*order).limit(1).with_for_update(skip_locked=not wait)
    row = tx.connection.execute(query).mappings().one_or_none()
    return None if row is None else rows.to_job(row)


def _lease(tx: Transaction, job: Job) -> Lease:
    return Lease(job, tx.connection.execute(_STATE, {"job": job.id}).scalar_one_or_none() or b"")


def _lapse(tx: Transaction, lost: ColumnElement[bool]) -> int:
    query = select(jobs).where(jobs.c.state.in_(_PARTING), lost).with_for_update(skip_locked=True)
    gone = [rows.to_job(row) for row in tx.connection.execute(query).mappings()]
    for job in gone:
        store_draft(tx, rules.lapse(job, tx.now))
    return len(gone)


def end_lapsed(tx: Transaction) -> int:
    """Take parting jobs from coordinators whose lease has ended."""
    return _lapse(tx, jobs.c.lease_expire_time <= tx.now)


def heartbeat(tx: Transaction, name: str, *, epoch: int, lease_us: int) -> Job:
    """Extend the lease."""
    job = _fenced(tx, name, epoch)
    job = rules.extend(job, tx.now, lease_us=lease_us)
    store_row(tx, job)
    return job


def _fenced(tx: Transaction, name: str, epoch: int) -> Job:
    job = rows.load(tx.connection, name, for_update=True)
    rules.fence(job, epoch)
    return job


def report(tx: Transaction, name: str, *, epoch: int, report: Report) -> bool:
    """Store an outcome, and note the evaluation unless the log has it."""
    job = _fenced(tx, name, epoch)
    key = report.evaluation.key
    if report.outcome and tx.connection.execute(_OUTCOME_KNOWN, {"key": key}).first() is None:
        tx.connection.execute(_KEEP_OUTCOME, {"key": key, "outcome": report.outcome, "time": tx.now})
    artifacts.hold_by_evaluation(tx, key, report.artifacts)
    noted = {"job_id": job.id, "work_index": report.evaluation.index, "key": key}
    if tx.connection.execute(_NOTED, noted).first() is not None:
        return False
    tx.connection.execute(_NOTE, noted)
    draft = Draft(job, tx.now)
    draft.note(job_pb2.JobEvent(evaluation_finished=report.evaluation))
    store_draft(tx, draft)
    return True


def report_attempt(tx: Transaction, name: str, *, epoch: int, attempt: job_pb2.AttemptLost) -> bool:
    """Note an attempt unless the log has it."""
    job = _fenced(tx, name, epoch)
    key = {"job_id": job.id, "epoch": epoch, "work_index": attempt.index, "attempt": attempt.attempt}
    if tx.connection.execute(_ATTEMPTED, key).first() is not None:
        return False
    tx.connection.execute(_NOTE_ATTEMPT, {**key, "cause": attempt.cause, "time": tx.now})
    draft = Draft(job, tx.now)
    draft.note(job_pb2.JobEvent(attempt_lost=attempt))
    store_draft(tx, draft)
    return True


def commit(tx: Transaction, name: str, *, epoch: int, step: CommittedStep) -> bool:
    """Store a step, unless it is the last one again."""
    job = _fenced(tx, name, epoch)
    number, body = step.step.step, step.step.SerializeToString(deterministic=True)
    if number == job.next_step - 1:
        if tx.connection.execute(_STEP, {"job": job.id, "step": number}).scalar_one() != body:
            raise rules.out_of_order(job, step, "it was committed with another content")
        return False
    draft = rules.commit(job, tx.now, step)
    store_draft(tx, draft)
    row = {"job_id": job.id, "step": number, "body": body}
    tx.connection.execute(_ADD_STEP, {**row, "epoch": epoch, "time": tx.now})
    if step.session_state:
        tx.connection.execute(_DROP_STATE, {"job": job.id})
        tx.connection.execute(_ADD_STATE, {**row, "body": step.session_state})
    return True


def release(tx: Transaction, name: str, *, epoch: int, outcome: Outcome | None, reason: str = "") -> Job:
    """End the lease, and with an outcome the job."""
    job = rows.load(tx.connection, name, for_update=True)
    draft = rules.release(job, tx.now, epoch=epoch, outcome=outcome, reason=reason)
    store_draft(tx, draft)
    if isinstance(outcome, job_pb2.JobResult):
        artifacts.hold_by_job(tx, job.id, {file.sha256 for file in outcome.files})
    tx.queue |= draft.job.state is State.QUEUED
    return draft.job
