"""What clients may ask of a listing of jobs, and its page tokens."""

from __future__ import annotations

import base64
import binascii
import hashlib

from diminuendo.v1 import job_service_pb2

from diminuendo.services.conductor import validate, validate_fleet
from diminuendo.services.conductor.records import Job, Listing, Order, OrderName, Place, State
from diminuendo.services.conductor.store.listing import place_of

MAX_PAGE = 1000
DEFAULT_PAGE = 50
_STATES = {state.wire: state for state in State}
_ORDERS = {f"{by.value}{' desc' * down}": Order(by, bool(down)) for by in OrderName for down in (0, 1)}


def list_jobs(request: job_service_pb2.ListJobsRequest) -> Listing:
    """What to list."""
    problems = validate.Problems()
    everywhere = request.parent == "projects/-"
    project = None if everywhere else validate.parent_project(problems, request.parent, wildcard=True)
    if not 0 <= request.page_size <= MAX_PAGE:
        problems.add("page_size", f"{request.page_size} is no page size; give 1 to {MAX_PAGE}, or 0 for {DEFAULT_PAGE}")
    states = set()
    for number in request.states:
        if number in _STATES:
            states.add(_STATES[number])
        else:
            problems.add("states", f"{number} is no state of a job; name one of {', '.join(State.__members__)}")
    validate.check_labels(problems, request.labels, "labels")
    order = _ORDERS.get(request.order_by) if request.order_by else Order()
    if order is None:
        problems.add("order_by", f"{request.order_by!r} is no order; give one of {', '.join(_ORDERS)}")
    _fleet(problems, request, project)
    after = _read_token(problems, request)
    problems.check()
    return Listing(
        project,
        frozenset(states),
        dict(request.labels),
        order or Order(),
        after,
        request.page_size or DEFAULT_PAGE,
        request.fleet,
        request.newest_of_model,
    )


def _fleet(problems: validate.Problems, request: job_service_pb2.ListJobsRequest, project: str | None) -> None:
    """A fleet of the parent's project, if one is given."""
    if request.fleet:
        owner = validate_fleet.fleet_name(problems, "fleet", request.fleet)
        if owner and project and owner != project:
            problems.add("fleet", f"{request.fleet!r} is of another project than the parent, {project!r}; name its")
    elif request.newest_of_model:
        problems.add("newest_of_model", "true means nothing without a fleet; name one, or leave it out")


def page_token(request: job_service_pb2.ListJobsRequest, listing: Listing, last: Job) -> str:
    """A token that goes on after this job, for the same question only."""
    place = place_of(last, listing.order.by)
    return base64.urlsafe_b64encode(f"{place.value}:{place.id}:{_question(request)}".encode()).decode()


def _question(request: job_service_pb2.ListJobsRequest) -> str:
    """What the pages of one listing have in common."""
    text = f"{request.parent} {sorted(set(request.states))} {sorted(request.labels.items())} {request.order_by}"
    if request.fleet:
        text += f" {request.fleet} {request.newest_of_model}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _read_token(problems: validate.Problems, request: job_service_pb2.ListJobsRequest) -> Place | None:
    if not request.page_token:
        return None
    remedy = "give the next_page_token of an answer to the same parent, states, labels, order_by and fleet, or none"
    try:
        text = base64.b64decode(request.page_token, altchars=b"-_", validate=True).decode("ascii")
        value, number, question = text.split(":")
        place = Place(int(value), int(number))
    except (binascii.Error, ValueError):
        problems.add("page_token", f"{request.page_token!r} is no page token; {remedy}")
        return None
    if question != _question(request):
        problems.add("page_token", f"{request.page_token!r} belongs to another listing; {remedy}")
    return place
