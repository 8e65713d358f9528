"""Which jobs a listing has, as a query."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, or_, select

from diminuendo.services.conductor.records import Job, Listing, OrderName, Place
from diminuendo.services.conductor.store.tables import jobs

_BY: dict[OrderName, ColumnElement[Any]] = {
    OrderName.UPDATE_TIME: jobs.c.update_time,
    OrderName.PRIORITY: -jobs.c.nice,
}
"""What is listed by, where that is not creation: there the id alone, which rises with it, will do."""


def listing_query(listing: Listing) -> Select[Any]:
    """The rows of `jobs` that are asked for, in order."""
    query = select(jobs).limit(listing.limit)
    if listing.project is not None:
        query = query.where(jobs.c.project == listing.project)
    if listing.states:
        query = query.where(jobs.c.state.in_([state.name for state in listing.states]))
    if listing.fleet:
        query = query.where(jobs.c.fleet == listing.fleet)
    if listing.newest_of_model:
        newest = select(func.max(jobs.c.id)).where(jobs.c.fleet == listing.fleet).group_by(jobs.c.model)
        query = query.where(jobs.c.id.in_(newest.correlate(None)))
    for key, value in sorted(listing.labels.items()):
        query = query.where(jobs.c.labels[key].as_string() == value)
    keys: list[ColumnElement[Any]] = [jobs.c.id]
    if listing.order.by in _BY:
        keys.insert(0, _BY[listing.order.by])
    order = [key.desc() if listing.order.descending else key for key in keys]
    query = query.order_by(*order)
    if listing.after is not None:
        query = query.where(_behind(listing, listing.after))
    if listing.order.by not in _BY:
        return query
    # All jobs are gone through for these: by their ids alone, for whole rows take several times as long to sort.
    found = query.with_only_columns(jobs.c.id).correlate(None)
    return select(jobs).where(jobs.c.id.in_(found)).order_by(*order)


def _behind(listing: Listing, place: Place) -> ColumnElement[bool]:
    by, descending = _BY.get(listing.order.by), listing.order.descending
    later = jobs.c.id < place.id if descending else jobs.c.id > place.id
    if by is None:
        return later
    return or_(by < place.value if descending else by > place.value, and_(by == place.value, later))


def place_of(job: Job, by: OrderName) -> Place:
    """Where a listing goes on after this job."""
    match by:
        case OrderName.UPDATE_TIME:
            return Place(job.update_time, job.id)
        case OrderName.PRIORITY:
            return Place(job.priority, job.id)
        case _:
            return Place(0, job.id)
