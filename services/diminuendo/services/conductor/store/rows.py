"""Between rows and records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from diminuendo.v1 import job_pb2
from google.protobuf.message import Message
from sqlalchemy import BindParameter, Connection, RowMapping, bindparam, delete, insert, select, update

from diminuendo.services.common.errors import JobNotFoundError
from diminuendo.services.conductor.jobs import Draft
from diminuendo.services.conductor.records import Job, State
from diminuendo.services.conductor.store.tables import (
    attempts,
    events,
    job_artifacts,
    jobs,
    reports,
    requests,
    session_states,
    steps,
)

M = TypeVar("M", bound=Message)

_OF_JOBS = (events, steps, session_states, reports, attempts, requests, job_artifacts)

# Statements are built once: building one costs more than running it.
_BY_NAME = select(jobs).where(jobs.c.name == bindparam("name"))
_BY_NAME_FOR_UPDATE = _BY_NAME.with_for_update()
_BY_NAMES = select(jobs).where(jobs.c.name.in_(bindparam("names", expanding=True)))
_INSERT_JOB = insert(jobs)
_INSERT_JOBS = insert(jobs).returning(jobs.c.id, sort_by_parameter_order=True)
_UPDATE_JOB = update(jobs).where(jobs.c.id == bindparam("job"))
_INSERT_EVENT = insert(events)
_IDS: BindParameter[list[int]] = bindparam("ids", expanding=True)
_DELETE_JOBS = (
    *(delete(table).where(table.c.job_id.in_(_IDS)) for table in _OF_JOBS),
    delete(jobs).where(jobs.c.id.in_(_IDS)),
)


def to_job(row: RowMapping) -> Job:
    """The record of a row of `jobs`."""
    return Job(
        id=row["id"],
        name=row["name"],
        project=row["project"],
        state=State[row["state"]],
        spec=job_pb2.JobSpec.FromString(row["spec"]),
        labels=row["labels"],
        progress=_parsed(job_pb2.JobProgress, row["progress"]),
        result=_parsed(job_pb2.JobResult, row["result"]),
        failure=_parsed(job_pb2.JobFailure, row["failure"]),
        create_time=row["create_time"],
        update_time=row["update_time"],
        start_time=row["start_time"],
        end_time=row["end_time"],
        last_sequence=row["last_sequence"],
        epoch=row["epoch"],
        next_step=row["next_step"],
        coordinator=row["coordinator"],
        lease_request=row["lease_request"],
        lease_expire_time=row["lease_expire_time"],
        released=row["released"],
        priority=-row["nice"],
        retry_of=row["retry_of"],
        deadline=row["deadline"],
        fleet=row["fleet"],
        model=row["model"],
        trace_parent=row["trace_parent"],
    )


def _parsed(kind: type[M], body: bytes | None) -> M | None:
    return None if body is None else kind.FromString(body)


def _body(message: Message | None) -> bytes | None:
    return None if message is None else message.SerializeToString()


def _mutable(job: Job) -> dict[str, Any]:
    """The columns that change in a job's life."""
    return {
        "state": job.state.name,
        "progress": _body(job.progress),
        "result": _body(job.result),
        "failure": _body(job.failure),
        "update_time": job.update_time,
        "start_time": job.start_time,
        "end_time": job.end_time,
        "last_sequence": job.last_sequence,
        "epoch": job.epoch,
        "next_step": job.next_step,
        "coordinator": job.coordinator,
        "lease_request": job.lease_request,
        "lease_expire_time": job.lease_expire_time,
        "released": job.released,
        "labels": dict(job.labels),
        "nice": -job.priority,
        "deadline": job.deadline,
    }


def find(connection: Connection, name: str, *, for_update: bool = False) -> Job | None:
    """The job of a name, if there is one."""
    query = _BY_NAME_FOR_UPDATE if for_update else _BY_NAME
    row = connection.execute(query, {"name": name}).mappings().one_or_none()
    return None if row is None else to_job(row)


def load(connection: Connection, name: str, *, for_update: bool = False) -> Job:
    """The job of a name; JobNotFoundError otherwise."""
    job = find(connection, name, for_update=for_update)
    if job is None:
        raise _not_found(name)
    return job


def load_all(connection: Connection, names: Sequence[str]) -> dict[str, Job | Exception]:
    """The job, or JobNotFoundError, of every name."""
    found: dict[str, Job | Exception] = {name: _not_found(name) for name in names}
    for row in connection.execute(_BY_NAMES, {"names": names}).mappings():
        found[row["name"]] = to_job(row)
    return found


def _not_found(name: str) -> JobNotFoundError:
    return JobNotFoundError(f"there is no job {name!r}; see the names with `diminuendo list`", job=name)


def add(connection: Connection, job: Job) -> int:
    """Store a new job and return its id."""
    key = connection.execute(_INSERT_JOB, _columns(job)).inserted_primary_key
    return int(key[0]) if key else 0


def add_all(connection: Connection, jobs: Sequence[Job]) -> list[int]:
    """Store new jobs and return their ids, which rise in this order."""
    return list(connection.execute(_INSERT_JOBS, [_columns(job) for job in jobs]).scalars())


def _columns(job: Job) -> dict[str, Any]:
    fixed = {
        "name": job.name,
        "project": job.project,
        "spec": job.spec.SerializeToString(),
        "create_time": job.create_time,
        "retry_of": job.retry_of,
        "fleet": job.fleet,
        "model": job.model,
        "trace_parent": job.trace_parent,
    }
    return fixed | _mutable(job)


def save(connection: Connection, *jobs: Job) -> None:
    """Store changed jobs, one at least."""
    changed = [{"job": job.id, **_mutable(job)} for job in jobs]
    connection.execute(_UPDATE_JOB, changed if len(changed) > 1 else changed[0])


def append(connection: Connection, job_id: int, draft: Draft) -> None:
    """Store a draft's events."""
    append_all(connection, [(job_id, draft)])


def append_all(connection: Connection, drafts: Iterable[tuple[int, Draft]]) -> None:
    """Store the events of drafts, each with the id of its job."""
    rows = [
        {
            "job_id": job_id,
            "sequence": event.sequence,
            "kind": event.WhichOneof("kind"),
            "body": event.SerializeToString(),
        }
        for job_id, draft in drafts
        for event in draft.events
    ]
    if rows:
        connection.execute(_INSERT_EVENT, rows)


def remove(connection: Connection, job_ids: Sequence[int]) -> None:
    """Delete jobs with all that is kept of them alone."""
    for statement in _DELETE_JOBS:
        connection.execute(statement, {"ids": job_ids})
