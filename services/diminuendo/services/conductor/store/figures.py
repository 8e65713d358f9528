"""Figures of the whole database for metrics, as queries that take milliseconds also where there are many jobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from diminuendo.v1 import job_pb2
from sqlalchemy import Connection, bindparam, case, func, select

from diminuendo.services.conductor.figures import MAX_FLEETS, MAX_JOBS, OUTCOMES, Figures, FleetFigures, FleetResult
from diminuendo.services.conductor.records import Job, State
from diminuendo.services.conductor.store import coordinators, rows
from diminuendo.services.conductor.store.base import HELD
from diminuendo.services.conductor.store.tables import fleets, jobs

RESULTS_TOGETHER = 500
"""Results that one query reads."""
_Model: TypeAlias = "tuple[int, str, str]"
"""Id, fleet and state of a model's newest job."""
_COUNTS = select(jobs.c.project, jobs.c.state, func.count().label("jobs")).group_by(jobs.c.project, jobs.c.state)
# A job that was queued again has waited since it changed last.
_QUEUED_SINCE = select(func.min(case((jobs.c.epoch == 0, jobs.c.create_time), else_=jobs.c.update_time))).where(
    jobs.c.state == State.QUEUED.name
)
_QUIET_SINCE = select(func.min(jobs.c.update_time)).where(jobs.c.state == State.RUNNING.name)
# By their ids alone, which an index has: whole rows of all that succeeded take many times as long to sort.
_IDS = select(jobs.c.id).where(jobs.c.state.in_(bindparam("states", expanding=True)))
_NEWEST = select(jobs).where(jobs.c.id.in_(_IDS.order_by(jobs.c.id.desc()).limit(MAX_JOBS).correlate(None)))
_NEWEST = _NEWEST.order_by(jobs.c.id.desc())
_FLEETS = select(fleets.c.name).order_by(fleets.c.id.desc()).limit(MAX_FLEETS)
_NEWEST_IDS = select(func.max(jobs.c.id)).where(jobs.c.fleet.in_(bindparam("fleets", expanding=True)))
_MODELS = select(jobs.c.id, jobs.c.fleet, jobs.c.state).where(
    jobs.c.id.in_(_NEWEST_IDS.group_by(jobs.c.fleet, jobs.c.model).correlate(None))
)
_RESULTS = select(jobs.c.id, jobs.c.result).where(jobs.c.id.in_(bindparam("ids", expanding=True)))


def read(connection: Connection, *, coordinators_since: int) -> Figures:
    """Where jobs stand; of coordinators what was told at or after a time."""
    return Figures(
        jobs={(row.project, State[row.state]): row.jobs for row in connection.execute(_COUNTS)},
        queued_since=connection.execute(_QUEUED_SINCE).scalar_one(),
        quiet_since=connection.execute(_QUIET_SINCE).scalar_one(),
        held=_newest(connection, HELD),
        finished=_newest(connection, (State.SUCCEEDED,)),
        coordinators=coordinators.heard_since(connection, coordinators_since),
    )


def _newest(connection: Connection, states: Iterable[State]) -> list[Job]:
    values = {"states": [state.name for state in states]}
    return [rows.to_job(row) for row in connection.execute(_NEWEST, values).mappings()]


def read_fleets(
    connection: Connection, known: Mapping[int, FleetResult]
) -> tuple[tuple[FleetFigures, ...], dict[int, FleetResult]]:
    """The newest fleets.

    Args:
        known: Results of jobs by id, which do not change any more.

    Returns:
        The fleets, and all results that they have: what to give the next time.
    """
    names = list(connection.execute(_FLEETS).scalars())
    models = [(row.id, row.fleet, row.state) for row in connection.execute(_MODELS, {"fleets": names})]
    succeeded = [number for number, _, state in models if state == State.SUCCEEDED.name]
    results = {number: known[number] for number in succeeded if number in known}
    new = [number for number in succeeded if number not in known]
    for start in range(0, len(new), RESULTS_TOGETHER):
        ids = {"ids": new[start : start + RESULTS_TOGETHER]}
        results |= {row.id: _result(row.result) for row in connection.execute(_RESULTS, ids)}
    by_fleet: dict[str, list[_Model]] = {name: [] for name in names}
    for model in models:
        by_fleet[model[1]].append(model)
    return tuple(_figures(name, own, results) for name, own in by_fleet.items()), results


def _result(body: bytes | None) -> FleetResult:
    found = job_pb2.JobResult.FromString(body or b"")
    if not found.inside_delta:
        return FleetResult()
    original, compressed = found.original, found.compressed
    return FleetResult(True, original.params, compressed.params, original.size_bytes, compressed.size_bytes)


def _figures(name: str, models: Iterable[_Model], results: Mapping[int, FleetResult]) -> FleetFigures:
    counts, inside = dict.fromkeys(OUTCOMES, 0), list[FleetResult]()
    for number, _, state in models:
        result = results.get(number)
        if result is not None:
            counts["inside_delta" if result.inside_delta else "outside_delta"] += 1
            inside.append(result)
        elif state in (State.FAILED.name, State.CANCELLED.name):
            counts[state.lower()] += 1
        else:
            counts["unfinished"] += 1
    saved = FleetResult(
        bool(inside),
        sum(one.original_params for one in inside),
        sum(one.compressed_params for one in inside),
        sum(one.original_bytes for one in inside),
        sum(one.compressed_bytes for one in inside),
    )
    return FleetFigures(name, counts, saved)
