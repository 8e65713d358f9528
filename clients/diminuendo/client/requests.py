"""What clients ask for, as messages: checked before anything is sent, the same for `Client` and `AsyncClient`."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import fields
from datetime import datetime

from diminuendo.v1 import artifact_service_pb2, job_pb2, job_service_pb2
from google.protobuf.field_mask_pb2 import FieldMask

from diminuendo.client import convert
from diminuendo.client.bundle import Packed
from diminuendo.client.errors import FailedPreconditionError, InvalidArgumentError
from diminuendo.client.types import Bundle, Garbage, JobInfo, JobState, ResultFile, check_whole

_JOB_NAME = re.compile(r"projects/[^/\s]+/jobs/[^/\s]+")
_LATER = "bundle:" + "0" * 64
"""Stands for a bundle that is uploaded once everything else has been checked."""


def new_id() -> str:
    """A request id that nobody had before."""
    return uuid.uuid4().hex


def job_name(project: str, name_or_id: str) -> str:
    """``projects/{project}/jobs/{job}`` of a job that is called by it or by its id.

    Raises:
        InvalidArgumentError: It is neither.
    """
    if _JOB_NAME.fullmatch(name_or_id):
        return name_or_id
    if not name_or_id or re.search(r"[/\s]", name_or_id):
        raise InvalidArgumentError.of("name", f"{name_or_id!r} is neither a job's id nor projects/PROJECT/jobs/JOB")
    return f"projects/{project}/jobs/{name_or_id}"


def source_of(source: str, *, has_bundle: bool) -> str:
    """The source of a job's spec; a stand-in where a bundle is to be uploaded, whose name is set afterwards.

    Raises:
        InvalidArgumentError: There are both.
    """
    if has_bundle and source:
        raise InvalidArgumentError.of("source", f"{source!r} is given beside a bundle; give one of them")
    return _LATER if has_bundle else source or "zoo:digits"


def create_job(
    spec: job_pb2.JobSpec,
    *,
    project: str,
    job_id: str | None,
    labels: Mapping[str, str] | None,
    priority: int,
    deadline: datetime | None,
    request_id: str | None,
) -> job_service_pb2.CreateJobRequest:
    """Asks for a job; InvalidArgumentError for a priority or deadline that is none."""
    return job_service_pb2.CreateJobRequest(
        parent=f"projects/{project}",
        job_id=job_id or "",
        job=job_pb2.Job(
            spec=spec,
            labels=labels or {},
            priority=check_whole("priority", priority),
            deadline=None if deadline is None else convert.timestamp("deadline", deadline),
        ),
        request_id=request_id or new_id(),
    )


def list_jobs(
    project: str, *, page_size: int, states: Iterable[JobState], labels: Mapping[str, str] | None, order_by: str
) -> job_service_pb2.ListJobsRequest:
    """Asks for the first page of jobs; ValueError for a state that jobs cannot be listed by."""
    return job_service_pb2.ListJobsRequest(
        parent=f"projects/{project}",
        page_size=page_size,
        states=[convert.state_number(state) for state in states],
        labels=labels or {},
        order_by=order_by,
    )


def update_job(
    name: str,
    *,
    labels: Mapping[str, str] | None,
    priority: int | None,
    deadline: datetime | None,
    no_deadline: bool,
    etag: str,
    request_id: str | None,
) -> job_service_pb2.UpdateJobRequest:
    """Asks for what is not None to be set; InvalidArgumentError for a wrong value, or a deadline beside none."""
    if deadline is not None and no_deadline:
        raise InvalidArgumentError.of("deadline", f"{deadline} is beside no_deadline; give one of them")
    wanted = {"labels": labels, "priority": priority, "deadline": deadline or no_deadline or None}
    job = job_pb2.Job(
        name=name,
        labels=labels or {},
        priority=0 if priority is None else check_whole("priority", priority),
        deadline=None if deadline is None else convert.timestamp("deadline", deadline),
        etag=etag,
    )
    return job_service_pb2.UpdateJobRequest(
        job=job,
        update_mask=FieldMask(paths=[name for name, value in wanted.items() if value is not None]),
        request_id=request_id or new_id(),
    )


def bundle_of(project: str, packed: Packed) -> Bundle:
    """The bundle that a packed one is once it is in a project's store."""
    name = f"projects/{project}/bundles/{packed.sha256}"
    return Bundle(name, packed.sha256, packed.size_bytes, packed.files, packed.ignored)


def garbage_of(answer: artifact_service_pb2.CollectGarbageResponse) -> Garbage:
    """What was removed, as a dataclass."""
    return Garbage(**{field.name: getattr(answer, field.name) for field in fields(Garbage)})


def files_of(info: JobInfo) -> tuple[ResultFile, ...]:
    """The files of a job's result; FailedPreconditionError, which says what to do, where it has none."""
    if info.result is None:
        raise FailedPreconditionError(f"{info.name} is {info.state.value} and has no result; {_remedy(info)}")
    return info.result.files


def _remedy(info: JobInfo) -> str:
    if info.state is JobState.FAILED and info.failure is not None:
        return f"it failed: {info.failure.message}"
    if info.state is JobState.CANCELLED:
        return "submit it again"
    return f"wait for it with `diminuendo watch {info.job_id}`"
