"""What clients may ask of fleets. A field that is wrong of one model refuses that model, and no other."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence

from diminuendo.v1 import fleet_service_pb2

from diminuendo.services.common.errors import InvalidFieldError, Violation
from diminuendo.services.common.names import COMPONENT
from diminuendo.services.conductor.records import NewFleet, NewJob
from diminuendo.services.conductor.validate import Problems, check_labels, new_job, parent_project

FLEET = re.compile(r"[a-z0-9-]{1,40}")
MODEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
MAX_BATCH = 1000
MAX_PAGE, DEFAULT_PAGE = 1000, 50
MAX_TOLD = 10
"""Models that come twice, of which one answer tells: the details of an error have to fit into HTTP headers."""
_RULE = "projects/PROJECT/fleets/FLEET: of a-z, 0-9 and -, PROJECT 1 to 63 characters, FLEET 1 to 40"


def create_fleet(request: fleet_service_pb2.CreateFleetRequest) -> NewFleet:
    """The fleet to be created."""
    problems = Problems()
    project = parent_project(problems, request.parent)
    if not FLEET.fullmatch(request.fleet_id):
        problems.add("fleet_id", f"{request.fleet_id!r} is no fleet id; give 1 to 40 characters of a-z, 0-9 and -")
    check_labels(problems, request.fleet.labels, "fleet.labels")
    problems.check()
    return NewFleet(
        name=f"projects/{project}/fleets/{request.fleet_id}", project=project, labels=dict(request.fleet.labels)
    )


NamedRequest = (
    fleet_service_pb2.GetFleetRequest
    | fleet_service_pb2.DeleteFleetRequest
    | fleet_service_pb2.CancelFleetRequest
    | fleet_service_pb2.WatchFleetRequest
)
"""What asks for one thing of one fleet."""


def named_fleet(request: NamedRequest) -> str:
    """The fleet's name."""
    problems = Problems()
    fleet_name(problems, "name", request.name)
    problems.check()
    return request.name


def list_fleets(request: fleet_service_pb2.ListFleetsRequest) -> tuple[str | None, int | None, int]:
    """The project, or None for all; the id of the fleet that others are to be behind, if any; how many."""
    problems = Problems()
    everywhere = request.parent == "projects/-"
    project = None if everywhere else parent_project(problems, request.parent, wildcard=True)
    if not 0 <= request.page_size <= MAX_PAGE:
        problems.add("page_size", f"{request.page_size} is no page size; give 1 to {MAX_PAGE}, or 0 for {DEFAULT_PAGE}")
    after = _read_token(problems, request)
    problems.check()
    return project, after, request.page_size or DEFAULT_PAGE


def page_token(request: fleet_service_pb2.ListFleetsRequest, last: int) -> str:
    """A token that goes on after the fleet of this id, for the same parent only."""
    return base64.urlsafe_b64encode(f"{last}:{_question(request)}".encode()).decode()


def _question(request: fleet_service_pb2.ListFleetsRequest) -> str:
    return hashlib.sha256(f"fleets {request.parent}".encode()).hexdigest()[:12]


def _read_token(problems: Problems, request: fleet_service_pb2.ListFleetsRequest) -> int | None:
    if not request.page_token:
        return None
    remedy = "give the next_page_token of an answer to the same parent, or none"
    try:
        text = base64.b64decode(request.page_token, altchars=b"-_", validate=True).decode("ascii")
        number, question = text.split(":")
        last = int(number)
    except (binascii.Error, ValueError):
        problems.add("page_token", f"{request.page_token!r} is no page token; {remedy}")
        return None
    if question != _question(request):
        problems.add("page_token", f"{request.page_token!r} belongs to another listing; {remedy}")
    return last


def batch(request: fleet_service_pb2.BatchCreateJobsRequest) -> None:
    """Refuse a batch that is wrong as a whole."""
    problems = Problems()
    fleet_name(problems, "parent", request.parent)
    if len(request.models) > MAX_BATCH:
        problems.add("models", f"{len(request.models)} models are too many; give at most {MAX_BATCH} at a time")
    else:
        _once(problems, "models[{}].model", [one.model for one in request.models])
    problems.check()


def model(request: fleet_service_pb2.BatchCreateJobsRequest, index: int) -> NewJob:
    """The job that one model of a batch is to get; its name is yet to be chosen.

    Raises:
        InvalidFieldError: Fields of this model are wrong; each with its path within the request.
    """
    wanted, problems = request.models[index], Problems()
    project = request.parent.split("/")[1]
    if not MODEL.fullmatch(wanted.model):
        problems.add("model", _no_model(wanted))
    new = new_job(problems, wanted.job, project, name="", fleet=request.parent, model=wanted.model)
    if problems.found:
        raise InvalidFieldError([Violation(f"models[{index}].{v.field}", v.description) for v in problems.found])
    return new


def _no_model(wanted: fleet_service_pb2.FleetModel) -> str:
    rule = "1 to 63 characters of a-z, 0-9, ., _ and -, a letter or digit first"
    return f"{wanted.model!r} is no name of a model; give {rule}"


def retry_fleet(request: fleet_service_pb2.RetryFleetRequest) -> tuple[str, tuple[str, ...]]:
    """The fleet's name, and the models to be tried again; none: all that failed."""
    problems = Problems()
    fleet_name(problems, "name", request.name)
    if len(request.models) > MAX_BATCH:
        problems.add("models", f"{len(request.models)} models are too many; name at most {MAX_BATCH}, or none for all")
    else:
        _once(problems, "models[{}]", request.models)
    problems.check()
    return request.name, tuple(request.models)


def _once(problems: Problems, path: str, models: Sequence[str]) -> None:
    """Each model must be named once."""
    first = dict[str, int]()
    again = [i for i, name in enumerate(models) if first.setdefault(name, i) != i]
    for i in again[:MAX_TOLD]:
        earlier = path.format(first[models[i]])
        more = f" ({len(again) - MAX_TOLD} more come twice)" if len(again) > MAX_TOLD else ""
        problems.add(path.format(i), f"{models[i]!r} is {earlier} too; name each model once{more}")


def fleet_name(problems: Problems, field: str, name: str) -> str:
    """``projects/{project}/fleets/{fleet}``; the project is returned, empty when it is no name of a fleet."""
    match name.split("/"):
        case ["projects", project, "fleets", fleet] if project != "-" and COMPONENT.fullmatch(project):
            if FLEET.fullmatch(fleet):
                return project
    problems.add(field, f"{name!r} is no name of a fleet; give {_RULE}")
    return ""
