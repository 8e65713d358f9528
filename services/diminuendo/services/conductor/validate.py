"""What clients may ask of jobs: every field that is wrong, with its value and the remedy, in one answer."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence

from diminuendo.v1 import job_pb2, job_service_pb2

from diminuendo.engine.search.check import problems as wrong_in
from diminuendo.engine.store import is_sha256
from diminuendo.engine.zoo import catalog
from diminuendo.services.common import tracing
from diminuendo.services.common.errors import InvalidFieldError, UnknownFieldError, Violation
from diminuendo.services.common.names import COMPONENT
from diminuendo.services.common.spec import ACCEPTS, EFFORTS, to_request, unknown_fields
from diminuendo.services.conductor.records import UPDATED, NewJob, RequestId, Update

LABEL = re.compile(r"[a-z0-9_.-]{1,63}")
MAX_LABELS = 64
MAX_REQUEST_ID = 64
MAX_PRIORITY = 1000
MAX_PARALLEL = 10_000
LAST_SECOND = 253_402_300_799
"""The last one of the year 9999, where timestamps end."""

MAX_JOB_WAIT_S, DEFAULT_JOB_WAIT_S = 60, 30
_ID_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
"""32 characters, so that each stands for as many of a byte's values as any other."""
_COMPONENT_RULE = "1 to 63 characters of a-z, 0-9 and -"


class Problems:
    """Violations found so far."""

    def __init__(self) -> None:
        """None yet."""
        self.found: list[Violation] = []
        self.later_version = False

    def add(self, field: str, description: str) -> None:
        """One more: what the value is, what is wrong with it, and what to do."""
        self.found.append(Violation(field, description))

    def check(self) -> None:
        """InvalidFieldError when there are any; UnknownFieldError when some are of fields of a later version."""
        if self.found:
            raise (UnknownFieldError if self.later_version else InvalidFieldError)(self.found)


def create_job(request: job_service_pb2.CreateJobRequest) -> tuple[NewJob, RequestId | None]:
    """The job to be created. Chooses its id when the client left that to the server."""
    problems = Problems()
    project = parent_project(problems, request.parent)
    _job_id(problems, request.job_id)
    request_id(problems, request.request_id)
    new = new_job(problems, request.job, project, name=_new_name(project, request.job_id))
    problems.check()
    content = job_service_pb2.CreateJobRequest(
        parent=request.parent,
        job_id=request.job_id,
        job=job_pb2.Job(
            spec=request.job.spec,
            labels=request.job.labels,
            priority=request.job.priority,
            deadline=request.job.deadline if request.job.HasField("deadline") else None,
        ),
    )
    return new, _request(project, request.request_id, b"CreateJob:" + content.SerializeToString(deterministic=True))


def new_job(
    problems: Problems, job: job_pb2.Job, project: str, *, name: str, fleet: str = "", model: str = ""
) -> NewJob:
    """What a client asks for of a job, under ``job``; not to be used when there are problems."""
    _spec(problems, job.spec, project)
    check_labels(problems, job.labels)
    _priority(problems, job.priority)
    deadline = _deadline(problems, job)
    return NewJob(
        name=name,
        project=project,
        spec=job.spec,
        labels=dict(job.labels),
        priority=job.priority,
        deadline=deadline or None,
        fleet=fleet,
        model=model,
        trace_parent=tracing.trace_parent(),
    )


NamedRequest = job_service_pb2.CancelJobRequest | job_service_pb2.PauseJobRequest | job_service_pb2.ResumeJobRequest
"""What asks for one thing of one job."""


def named_job(request: NamedRequest) -> tuple[str, RequestId | None]:
    """The name of the job that something is asked of."""
    problems = Problems()
    job_name(problems, "name", request.name)
    request_id(problems, request.request_id)
    problems.check()
    method = type(request).__name__.removesuffix("Request")
    return request.name, _request(_project_of(request.name), request.request_id, f"{method}:{request.name}".encode())


def retry_job(request: job_service_pb2.RetryJobRequest) -> tuple[str, str, RequestId | None]:
    """The name of the job to be tried again, and the name of the new one."""
    problems = Problems()
    job_name(problems, "name", request.name)
    _job_id(problems, request.job_id)
    request_id(problems, request.request_id)
    problems.check()
    project = _project_of(request.name)
    content = f"RetryJob:{request.name}:{request.job_id}".encode()
    return request.name, _new_name(project, request.job_id), _request(project, request.request_id, content)


def update_job(request: job_service_pb2.UpdateJobRequest) -> tuple[str, Update, RequestId | None]:
    """The name of the job, and what is set."""
    problems = Problems()
    job, paths = request.job, set(request.update_mask.paths)
    job_name(problems, "job.name", job.name)
    request_id(problems, request.request_id)
    if not paths:
        problems.add("update_mask", f"is empty; name what is to be set: {', '.join(UPDATED)}")
    for path in sorted(paths - set(UPDATED)):
        problems.add("update_mask", f"{path!r} cannot be set; name {' or '.join(UPDATED)}")
    if "labels" in paths:
        check_labels(problems, job.labels)
    if "priority" in paths:
        _priority(problems, job.priority)
    deadline = _deadline(problems, job) if "deadline" in paths else None
    problems.check()
    wanted = Update(
        labels=dict(job.labels) if "labels" in paths else None,
        priority=job.priority if "priority" in paths else None,
        deadline=deadline,
        etag=job.etag,
    )
    content = b"UpdateJob:" + request.SerializeToString(deterministic=True)
    return job.name, wanted, _request(_project_of(job.name), request.request_id, content)


def delete_job(request: job_service_pb2.DeleteJobRequest) -> str:
    """The job's name."""
    return _name(request.name)


def wait_job(request: job_service_pb2.WaitJobRequest) -> tuple[str, int]:
    """The job's name, and for how many microseconds to wait."""
    problems = Problems()
    job_name(problems, "name", request.name)
    wait_us = request.timeout.ToMicroseconds()
    if not 0 <= wait_us <= MAX_JOB_WAIT_S * 1_000_000:
        problems.add("timeout", f"{wait_us / 1e6:g} s is no waiting time; give 0 to {MAX_JOB_WAIT_S} s")
    problems.check()
    return request.name, wait_us or DEFAULT_JOB_WAIT_S * 1_000_000


def watch_job(request: job_service_pb2.WatchJobRequest) -> tuple[str, int]:
    """Name of the job, and the last sequence number seen."""
    problems = Problems()
    job_name(problems, "name", request.name)
    if request.after_sequence < 0:
        problems.add("after_sequence", f"{request.after_sequence} is negative; give a number that was seen, or 0")
    problems.check()
    return request.name, request.after_sequence


def get_job(request: job_service_pb2.GetJobRequest) -> str:
    """The job's name."""
    return _name(request.name)


def job_name(problems: Problems, field: str, name: str) -> None:
    """``projects/{project}/jobs/{job}``."""
    match name.split("/"):
        case ["projects", project, "jobs", job] if project != "-" and _components(project, job):
            return
        case _:
            problems.add(field, f"{name!r} is no job name; give projects/PROJECT/jobs/JOB, each {_COMPONENT_RULE}")


def request_id(problems: Problems, value: str) -> None:
    """Any text of up to 64 characters."""
    if len(value) > MAX_REQUEST_ID:
        problems.add("request_id", f"{value!r} has {len(value)} characters; give at most {MAX_REQUEST_ID}")


def parent_project(problems: Problems, parent: str, *, wildcard: bool = False) -> str:
    """The project of a request's parent."""
    match parent.split("/"):
        case ["projects", project] if project != "-" and COMPONENT.fullmatch(project):
            return project
        case _:
            every = ", or projects/- for all" if wildcard else ""
            problems.add("parent", f"{parent!r} is no project; give projects/PROJECT, {_COMPONENT_RULE}{every}")
            return ""


def check_labels(problems: Problems, labels: Mapping[str, str], field: str = "job.labels") -> None:
    """Labels of a job, or those that jobs are asked to have."""
    if len(labels) > MAX_LABELS:
        problems.add(field, f"{len(labels)} labels are too many; give at most {MAX_LABELS}")
    for key, value in sorted(labels.items()):
        if not LABEL.fullmatch(key):
            problems.add(field, f"{key!r} is no label key; give 1 to 63 characters of a-z, 0-9, _, . and -")
        if len(value) > 63:
            problems.add(f"{field}[{key}]", f"{value!r} has {len(value)} characters; give at most 63")


def _name(name: str) -> str:
    problems = Problems()
    job_name(problems, "name", name)
    problems.check()
    return name


def _project_of(name: str) -> str:
    return name.split("/")[1]


def _new_name(project: str, job_id: str) -> str:
    """Of a new job; its id is chosen where the client left that to the server."""
    job_id = job_id or "".join(_ID_ALPHABET[byte % len(_ID_ALPHABET)] for byte in secrets.token_bytes(10))
    return f"projects/{project}/jobs/{job_id}"


def _job_id(problems: Problems, job_id: str) -> None:
    if job_id and not COMPONENT.fullmatch(job_id):
        problems.add("job_id", f"{job_id!r} is no job id; give {_COMPONENT_RULE}, or leave it empty")


def _priority(problems: Problems, priority: int) -> None:
    if abs(priority) > MAX_PRIORITY:
        problems.add("job.priority", f"{priority} is no priority; give -{MAX_PRIORITY} to {MAX_PRIORITY}")


def _deadline(problems: Problems, job: job_pb2.Job) -> int:
    """Microseconds since the epoch; 0 where there is none.

    One that is over is legal, for a request that comes again: the job then ends with the first model that it certifies.
    """
    if not job.HasField("deadline"):
        return 0
    seconds, nanos = job.deadline.seconds, job.deadline.nanos
    if not 0 < seconds <= LAST_SECOND or not 0 <= nanos < 10**9:
        problems.add("job.deadline", f"{seconds} s and {nanos} ns are no time; give one from 1970 to 9999, in UTC")
        return 0
    return job.deadline.ToMicroseconds()


def _components(*parts: str) -> bool:
    return all(COMPONENT.fullmatch(part) for part in parts)


def _request(project: str, value: str, content: bytes) -> RequestId | None:
    return RequestId(project, value, hashlib.sha256(content).hexdigest()) if value else None


def _zoo(problems: Problems, text: str) -> None:
    """A network of the zoo whose weights and data every evaluator has: those that come with the package."""
    bundled = ", ".join(entry.name for entry in catalog.CATALOG if entry.bundled)
    if not text:
        problems.add("job.spec.zoo", f"'' names no network; name one whose weights come with the package: {bundled}")
        return
    try:
        source = catalog.Source.parse(text)
    except catalog.UnknownNetworkError as error:
        problems.add("job.spec.zoo", str(error))
        return
    if not source.entry.bundled:
        here = f"compress it where its files are, without a server: diminuendo compress '{source}' "
        remedy = f"{here}--weights FILE --data DIR" if source.entry.data else "bring network and data as a bundle"
        problems.add(
            "job.spec.zoo", f"{text!r} has no weights and data that come with the package, as {bundled} has; {remedy}"
        )


def _bundle(problems: Problems, name: str, project: str) -> None:
    """``projects/{project}/bundles/{sha256}`` of the job's own project."""
    match name.split("/"):
        case ["projects", owner, "bundles", sha256] if is_sha256(sha256) and COMPONENT.fullmatch(owner):
            if project and owner != project:
                problems.add("job.spec.bundle", f"{name!r} is of another project than the job's, {project!r}; name its")
        case _:
            problems.add("job.spec.bundle", f"{name!r} is no bundle; give projects/PROJECT/bundles/SHA256")


def _spec(problems: Problems, spec: job_pb2.JobSpec, project: str) -> None:
    """Source and enums here; what is asked of the search by the engine's own rules."""
    unknown = unknown_fields(spec)
    if unknown:
        problems.later_version = True
        numbers = ", ".join(map(str, unknown))
        problems.add("job.spec", f"fields {numbers} are not known to this server; update it, or leave them out")
    if spec.WhichOneof("source") == "bundle":
        _bundle(problems, spec.bundle, project)
    else:
        _zoo(problems, spec.zoo)
    known = job_pb2.JobSpec()
    known.CopyFrom(spec)
    if spec.effort not in EFFORTS:
        _unknown(problems, "effort", spec.effort, job_pb2.Effort.keys())
        known.effort = job_pb2.EFFORT_UNSPECIFIED
    if spec.accept not in ACCEPTS:
        _unknown(problems, "accept", spec.accept, job_pb2.Accept.keys())
        known.accept = job_pb2.ACCEPT_UNSPECIFIED
    if spec.HasField("parallel") and not 1 <= spec.parallel <= MAX_PARALLEL:
        problems.add("job.spec.parallel", f"{spec.parallel} is out of range; give 1 to {MAX_PARALLEL}, or leave it out")
    for problem in wrong_in(to_request(known)):
        problems.add(f"job.spec.{problem.field}", problem.text)


def _unknown(problems: Problems, field: str, number: int, names: Sequence[str]) -> None:
    problems.add(f"job.spec.{field}", f"{number} is not known here; give one of {', '.join(names)}")
