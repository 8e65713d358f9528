"""What clients may ask of jobs: every field that is wrong, with its value and the remedy, in one answer."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diminuendo.v1 import job_pb2, job_service_pb2

from diminuendo.engine.search.check import problems as wrong_in
from diminuendo.engine.zoo import catalog
from diminuendo.services.common.errors import InvalidFieldError, Violation
from diminuendo.services.common.spec import ACCEPTS, EFFORTS, to_request, unknown_fields
from diminuendo.services.conductor.records import NewJob, RequestId, State

COMPONENT = re.compile(r"[a-z0-9-]{1,63}")
LABEL = re.compile(r"[a-z0-9_.-]{1,63}")
MAX_LABELS = 64
MAX_REQUEST_ID = 64
MAX_PAGE = 1000
DEFAULT_PAGE = 50
_ID_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
_STATES = {state.wire: state for state in State}
_COMPONENT_RULE = "1 to 63 characters of a-z, 0-9 and -"


class Problems:
    """Violations found so far."""

    def __init__(self) -> None:
        """None yet."""
        self.found: list[Violation] = []

    def add(self, field: str, description: str) -> None:
        """One more: what the value is, what is wrong with it, and what to do."""
        self.found.append(Violation(field, description))

    def check(self) -> None:
        """InvalidFieldError when there are any."""
        if self.found:
            raise InvalidFieldError(self.found)


@dataclass(frozen=True, slots=True)
class Listing:
    """What a ListJobs asks for; `project` None means all."""

    project: str | None
    states: frozenset[State]
    before_id: int | None
    page_size: int


def create_job(request: job_service_pb2.CreateJobRequest) -> tuple[NewJob, RequestId | None]:
    """The job to be created. Chooses its id when the client left that to the server."""
    problems = Problems()
    project = _project(problems, request.parent)
    if request.job_id and not COMPONENT.fullmatch(request.job_id):
        problems.add("job_id", f"{request.job_id!r} is no job id; give {_COMPONENT_RULE}, or leave it empty")
    request_id(problems, request.request_id)
    _spec(problems, request.job.spec)
    _labels(problems, request.job.labels)
    problems.check()
    job_id = request.job_id or "".join(secrets.choice(_ID_ALPHABET) for _ in range(10))
    new = NewJob(
        name=f"projects/{project}/jobs/{job_id}",
        project=project,
        spec=request.job.spec,
        labels=dict(request.job.labels),
    )
    content = job_service_pb2.CreateJobRequest(
        parent=request.parent,
        job_id=request.job_id,
        job=job_pb2.Job(spec=request.job.spec, labels=request.job.labels),
    )
    return new, _request(project, request.request_id, b"CreateJob:" + content.SerializeToString(deterministic=True))


def cancel_job(request: job_service_pb2.CancelJobRequest) -> tuple[str, RequestId | None]:
    """The name of the job to be cancelled."""
    problems = Problems()
    job_name(problems, "name", request.name)
    request_id(problems, request.request_id)
    problems.check()
    project = request.name.split("/")[1]
    return request.name, _request(project, request.request_id, b"CancelJob:" + request.name.encode())


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
    problems = Problems()
    job_name(problems, "name", request.name)
    problems.check()
    return request.name


def list_jobs(request: job_service_pb2.ListJobsRequest) -> Listing:
    """What to list."""
    problems = Problems()
    project = None if request.parent == "projects/-" else _project(problems, request.parent, wildcard=True)
    if not 0 <= request.page_size <= MAX_PAGE:
        problems.add("page_size", f"{request.page_size} is no page size; give 1 to {MAX_PAGE}, or 0 for {DEFAULT_PAGE}")
    states = set()
    for number in request.states:
        if number in _STATES:
            states.add(_STATES[number])
        else:
            problems.add("states", f"{number} is no state of a job; name one of {', '.join(State.__members__)}")
    before_id = _read_token(problems, request)
    problems.check()
    return Listing(project, frozenset(states), before_id, request.page_size or DEFAULT_PAGE)


def page_token(request: job_service_pb2.ListJobsRequest, last_id: int) -> str:
    """A token that goes on after the job of this id, for the same question only."""
    return base64.urlsafe_b64encode(f"{last_id}:{_question(request)}".encode()).decode()


def _question(request: job_service_pb2.ListJobsRequest) -> str:
    text = f"{request.parent} {sorted(set(request.states))}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _read_token(problems: Problems, request: job_service_pb2.ListJobsRequest) -> int | None:
    if not request.page_token:
        return None
    remedy = "give the next_page_token of an answer to the same parent and states, or none"
    try:
        text = base64.b64decode(request.page_token, altchars=b"-_", validate=True).decode("ascii")
        number, _, question = text.partition(":")
        before_id = int(number)
    except (binascii.Error, ValueError):
        problems.add("page_token", f"{request.page_token!r} is no page token; {remedy}")
        return None
    if question != _question(request):
        problems.add("page_token", f"{request.page_token!r} belongs to another listing; {remedy}")
    return before_id


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


def _components(*parts: str) -> bool:
    return all(COMPONENT.fullmatch(part) for part in parts)


def _project(problems: Problems, parent: str, *, wildcard: bool = False) -> str:
    match parent.split("/"):
        case ["projects", project] if project != "-" and COMPONENT.fullmatch(project):
            return project
        case _:
            every = ", or projects/- for all" if wildcard else ""
            problems.add("parent", f"{parent!r} is no project; give projects/PROJECT, {_COMPONENT_RULE}{every}")
            return ""


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


def _spec(problems: Problems, spec: job_pb2.JobSpec) -> None:
    """Source and enums here; what is asked of the search by the engine's own rules."""
    unknown = unknown_fields(spec)
    if unknown:
        numbers = ", ".join(map(str, unknown))
        problems.add("job.spec", f"fields {numbers} are not known to this server; update it, or leave them out")
    _zoo(problems, spec.zoo)
    known = job_pb2.JobSpec()
    known.CopyFrom(spec)
    if spec.effort not in EFFORTS:
        _unknown(problems, "effort", spec.effort, job_pb2.Effort.keys())
        known.effort = job_pb2.EFFORT_UNSPECIFIED
    if spec.accept not in ACCEPTS:
        _unknown(problems, "accept", spec.accept, job_pb2.Accept.keys())
        known.accept = job_pb2.ACCEPT_UNSPECIFIED
    for problem in wrong_in(to_request(known)):
        problems.add(f"job.spec.{problem.field}", problem.text)


def _unknown(problems: Problems, field: str, number: int, names: Sequence[str]) -> None:
    problems.add(f"job.spec.{field}", f"{number} is not known here; give one of {', '.join(names)}")


def _labels(problems: Problems, labels: Mapping[str, str]) -> None:
    if len(labels) > MAX_LABELS:
        problems.add("job.labels", f"{len(labels)} labels are too many; give at most {MAX_LABELS}")
    for key, value in sorted(labels.items()):
        if not LABEL.fullmatch(key):
            problems.add("job.labels", f"{key!r} is no label key; give 1 to 63 characters of a-z, 0-9, _, . and -")
        if len(value) > 63:
            problems.add(f"job.labels[{key}]", f"{value!r} has {len(value)} characters; give at most 63")
