"""What a job's owner changes, as operations on the SQL store's transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from sqlalchemy import bindparam, insert, select

from diminuendo.services.common.errors import JobExistsError, JobNotFoundError, RequestReusedError
from diminuendo.services.common.spec import bundle_of
from diminuendo.services.conductor import jobs as rules
from diminuendo.services.conductor.bundles import missing
from diminuendo.services.conductor.records import Job, NewJob, RequestId, State, Update
from diminuendo.services.conductor.store import artifacts, rows
from diminuendo.services.conductor.store.tables import jobs, requests
from diminuendo.services.conductor.store.writer import Transaction

_ANSWERED = (
    select(requests.c.digest, jobs)
    .join(jobs, jobs.c.id == requests.c.job_id)
    .where(requests.c.scope == bindparam("scope"), requests.c.id == bindparam("request"))
)
_REMEMBER = insert(requests)


def create(tx: Transaction, new: NewJob, request: RequestId | None) -> Job:
    """Store a new job, or find the one that the same request made."""
    return _answered(tx, request) or _create(tx, new, request)


def _create(tx: Transaction, new: NewJob, request: RequestId | None) -> Job:
    if rows.find(tx.connection, new.name) is not None:
        raise JobExistsError(
            f"job_id {new.name.rpartition('/')[2]!r} is taken: {new.name} exists; choose another job_id, or leave "
            "it empty",
            job=new.name,
        )
    bundle = bundle_of(new.spec)
    if bundle is not None and not artifacts.want(tx, bundle):
        raise missing(new.spec.bundle)
    draft = rules.create(new, tx.now)
    job = _stored(tx, draft, rows.add(tx.connection, draft.job))
    rows.append(tx.connection, job.id, draft)
    if bundle is not None:
        artifacts.hold_by_new_jobs(tx, {job.id: bundle})
    _remember(tx, request, job.id)
    return job


def store_new(tx: Transaction, new: Sequence[NewJob]) -> list[Job]:
    """Store new jobs, whose names are free and whose bundles are wanted."""
    if not new:
        return []
    drafts = [rules.create(one, tx.now) for one in new]
    made = [
        _stored(tx, draft, key)
        for draft, key in zip(drafts, rows.add_all(tx.connection, [draft.job for draft in drafts]), strict=True)
    ]
    rows.append_all(tx.connection, zip((job.id for job in made), drafts, strict=True))
    bundles = {job.id: bundle for job in made if (bundle := bundle_of(job.spec)) is not None}
    artifacts.hold_by_new_jobs(tx, bundles)
    return made


def _stored(tx: Transaction, draft: rules.Draft, key: int) -> Job:
    """A new job as it is stored, which others are to be told of."""
    tx.written.add(draft.job.name)
    tx.tell(draft.job, draft.events)
    tx.queue = True
    return replace(draft.job, id=key)


def cancel(tx: Transaction, name: str, request: RequestId | None) -> Job:
    """Ask for a job's end."""
    return _change(tx, name, request, rules.cancel)


def pause(tx: Transaction, name: str, request: RequestId | None) -> Job:
    """Ask that nobody works on the job for a while."""
    return _change(tx, name, request, rules.pause)


def resume(tx: Transaction, name: str, request: RequestId | None) -> Job:
    """Ask to go on with it."""
    return _change(tx, name, request, rules.resume)


def update(tx: Transaction, name: str, wanted: Update, request: RequestId | None) -> Job:
    """Set what its owner sets."""
    return _change(tx, name, request, lambda job, now: rules.update(job, now, wanted))


def _change(tx: Transaction, name: str, request: RequestId | None, rule: Callable[[Job, int], rules.Draft]) -> Job:
    before = _answered(tx, request)
    if before is not None:
        return before
    job = rows.load(tx.connection, name, for_update=True)
    draft = rule(job, tx.now)
    store_draft(tx, draft)
    _remember(tx, request, job.id)
    tx.parting |= draft.job.state.parting
    tx.queue |= draft.job.state is State.QUEUED and job.state is not State.QUEUED
    return draft.job


def retry(tx: Transaction, name: str, new_name: str, request: RequestId | None) -> Job:
    """Store another try of a job that has failed or was cancelled."""
    before = _answered(tx, request)
    if before is not None:
        return before
    job = rows.load(tx.connection, name, for_update=True)
    return _create(tx, rules.retry(job, new_name), request)


def delete(tx: Transaction, name: str, etag: str, *, allow_missing: bool) -> None:
    """Forget a job that has ended."""
    try:
        job = rows.load(tx.connection, name, for_update=True)
    except JobNotFoundError:
        if allow_missing:
            return
        raise
    rules.deletable(job, etag)
    rows.remove(tx.connection, [job.id])
    tx.written.add(name)
    tx.tell(job)


def store_row(tx: Transaction, job: Job) -> None:
    """Store a changed job of which there is nothing to tell."""
    rows.save(tx.connection, job)
    tx.written.add(job.name)


def store_draft(tx: Transaction, *drafts: rules.Draft) -> None:
    """Store changed jobs with their events, if they have any."""
    if not drafts:
        return
    rows.save(tx.connection, *(draft.job for draft in drafts))
    rows.append_all(tx.connection, [(draft.job.id, draft) for draft in drafts])
    for draft in drafts:
        tx.written.add(draft.job.name)
        if draft.events:
            tx.tell(draft.job, draft.events)


def _answered(tx: Transaction, request: RequestId | None) -> Job | None:
    """The job that this request was about, when it comes again."""
    if request is None:
        return None
    values = {"scope": request.scope, "request": request.id}
    row = tx.connection.execute(_ANSWERED, values).mappings().one_or_none()
    if row is None:
        return None
    job = rows.to_job(row)
    if row["digest"] != request.digest:
        raise RequestReusedError(
            f"request_id {request.id!r} came before, with another content, for {job.name}; use a new request_id "
            "for every new request",
            request_id=request.id,
            job=job.name,
        )
    return job


def _remember(tx: Transaction, request: RequestId | None, job_id: int) -> None:
    if request is not None:
        values = {"scope": request.scope, "id": request.id, "digest": request.digest}
        tx.connection.execute(_REMEMBER, {**values, "job_id": job_id, "time": tx.now})
