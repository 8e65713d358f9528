"""Fleets, as operations on the SQL store's transaction, and as queries."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import (
    BindParameter,
    Connection,
    LargeBinary,
    RowMapping,
    bindparam,
    case,
    delete,
    func,
    insert,
    select,
)

from diminuendo.services.common.errors import (
    DiminuendoError,
    FleetActiveError,
    FleetExistsError,
    FleetNotFoundError,
)
from diminuendo.services.common.spec import bundle_of
from diminuendo.services.conductor import fleets as fleet_rules
from diminuendo.services.conductor import jobs as job_rules
from diminuendo.services.conductor.bundles import missing
from diminuendo.services.conductor.records import (
    Fleet,
    FleetCounts,
    Job,
    ModelOutcome,
    NewFleet,
    NewJob,
    State,
    WantedModel,
)
from diminuendo.services.conductor.store import artifacts, rows
from diminuendo.services.conductor.store.owned import store_draft, store_new
from diminuendo.services.conductor.store.tables import fleets, jobs
from diminuendo.services.conductor.store.writer import Transaction

JOBS_TOGETHER, REMOVED_TOGETHER = 32, 10
"""Jobs that one transaction creates or changes, and removes: others wait for it."""
_FINAL = tuple(state.name for state in State if state.final)
_INSIDE = b"\x08\x01"
"""How a JobResult begins whose first field, `inside_delta`, is true: fields are written in the order of their numbers,
and one that is false is not. So the database counts them, without handing out every result."""

_FLEET: BindParameter[str] = bindparam("fleet")
_MODELS: BindParameter[list[str]] = bindparam("models", expanding=True)
_BY_NAME = select(fleets).where(fleets.c.name == _FLEET)
_LOCK = _BY_NAME.with_for_update()
_MODEL_COUNT = select(func.count(jobs.c.model.distinct())).where(jobs.c.fleet == _FLEET)
_TRIES = (
    select(jobs.c.model, func.count().label("tries"), func.max(jobs.c.id).label("newest"))
    .where(jobs.c.fleet == _FLEET, jobs.c.model.in_(_MODELS))
    .group_by(jobs.c.model)
)
_NEWEST_OF = select(func.max(jobs.c.id)).where(jobs.c.fleet == _FLEET).group_by(jobs.c.model)
_NEWEST = select(jobs).where(jobs.c.id.in_(_NEWEST_OF.where(jobs.c.model.in_(_MODELS)).correlate(None)))
_NEXT_MODELS = (
    _NEWEST_OF.where(jobs.c.model > bindparam("after")).order_by(jobs.c.model).limit(bindparam("most")).correlate(None)
)
_PAGE = select(jobs).where(jobs.c.id.in_(_NEXT_MODELS)).order_by(jobs.c.model)
_IS_NEWEST = jobs.c.id.in_(_NEWEST_OF.correlate(None))
_UNFINISHED = (
    select(jobs)
    .where(_IS_NEWEST, jobs.c.state.not_in((*_FINAL, State.CANCELLING.name)), jobs.c.id > bindparam("after"))
    .order_by(jobs.c.id)
    .limit(JOBS_TOGETHER)
    .with_for_update()
)
_FAILED = select(jobs.c.model).where(_IS_NEWEST, jobs.c.state == State.FAILED.name).order_by(jobs.c.id)
_BY_IDS = select(jobs).where(jobs.c.id.in_(bindparam("ids", expanding=True)))
_ACTIVE = select(jobs.c.name).where(jobs.c.fleet == _FLEET, jobs.c.state.not_in(_FINAL)).limit(1)
_OLDEST = select(jobs).where(jobs.c.fleet == _FLEET).order_by(jobs.c.id).limit(REMOVED_TOGETHER).with_for_update()
_TAKEN = select(jobs.c.name).where(jobs.c.name.in_(bindparam("names", expanding=True)))


def create(tx: Transaction, new: NewFleet, *, allow_existing: bool) -> Fleet:
    """Store a new fleet, or find the one of its name."""
    row = tx.connection.execute(_BY_NAME, {"fleet": new.name}).mappings().one_or_none()
    if row is not None:
        if allow_existing:
            return with_counts(tx.connection, [row])[0]
        raise FleetExistsError(
            f"fleet_id {new.name.rpartition('/')[2]!r} is taken: {new.name} exists; choose another fleet_id, or set "
            "allow_existing to go on with that fleet",
            fleet=new.name,
        )
    values = {"name": new.name, "project": new.project, "labels": dict(new.labels), "create_time": tx.now}
    key = tx.connection.execute(insert(fleets), values).inserted_primary_key
    return Fleet(
        id=int(key[0]) if key else 0,
        name=new.name,
        project=new.project,
        labels=new.labels,
        create_time=tx.now,
        update_time=tx.now,
    )


def load(connection: Connection, name: str) -> Fleet:
    """The fleet of a name; FleetNotFoundError otherwise."""
    row = connection.execute(_BY_NAME, {"fleet": name}).mappings().one_or_none()
    if row is None:
        raise _not_found(name)
    return with_counts(connection, [row])[0]


def page(connection: Connection, project: str | None, after: int | None, limit: int) -> list[Fleet]:
    """Fleets, the newest first, behind the one of an id."""
    query = select(fleets).order_by(fleets.c.id.desc()).limit(limit)
    if project is not None:
        query = query.where(fleets.c.project == project)
    if after is not None:
        query = query.where(fleets.c.id < after)
    return with_counts(connection, connection.execute(query).mappings().all())


def with_counts(connection: Connection, found: Sequence[RowMapping]) -> list[Fleet]:
    """The records of rows of `fleets`, with where their models stand."""
    names = [row["name"] for row in found]
    of_these = jobs.c.fleet.in_(names)
    newest = select(func.max(jobs.c.id)).where(of_these).group_by(jobs.c.fleet, jobs.c.model).correlate(None)
    begins = func.substr(jobs.c.result, 1, len(_INSIDE), type_=LargeBinary)
    inside = func.count(case((begins == _INSIDE, 1))).label("inside")
    standing = select(jobs.c.fleet, jobs.c.state, func.count().label("models"), inside)
    states: dict[str, dict[State, int]] = {name: {} for name in names}
    kept = dict.fromkeys(names, 0)
    for row in connection.execute(standing.where(jobs.c.id.in_(newest)).group_by(jobs.c.fleet, jobs.c.state)):
        states[row.fleet][State[row.state]] = row.models
        kept[row.fleet] += row.inside
    latest = select(jobs.c.fleet, func.max(jobs.c.update_time).label("latest")).where(of_these).group_by(jobs.c.fleet)
    changed = {row.fleet: row.latest for row in connection.execute(latest)}
    return [
        Fleet(
            id=row["id"],
            name=row["name"],
            project=row["project"],
            labels=row["labels"],
            create_time=row["create_time"],
            update_time=max(row["create_time"], changed.get(row["name"], 0)),
            counts=FleetCounts(states[row["name"]], kept[row["name"]]),
        )
        for row in found
    ]


def models_after(connection: Connection, name: str, after: str, limit: int) -> list[Job]:
    """The newest job of each model, in the models' order, behind a model."""
    values = {"fleet": name, "after": after, "most": limit}
    return [rows.to_job(row) for row in connection.execute(_PAGE, values).mappings()]


def newest(connection: Connection, name: str, models: Collection[str]) -> dict[str, Job]:
    """The newest job of each of these models that has any."""
    values = {"fleet": name, "models": list(models)}
    return {row["model"]: rows.to_job(row) for row in connection.execute(_NEWEST, values).mappings()}


def failed(connection: Connection, name: str) -> list[str]:
    """Models whose newest job failed."""
    return list(connection.execute(_FAILED, {"fleet": name}).scalars())


@dataclass(frozen=True, slots=True)
class _Known:
    """A model's newest job, and how many jobs it has."""

    job: Job
    tries: int


def _lock(tx: Transaction, name: str) -> None:
    """Have the fleet for this transaction alone: two that change it do so one after the other."""
    if tx.connection.execute(_LOCK, {"fleet": name}).first() is None:
        raise _not_found(name)


def _known(tx: Transaction, name: str, models: Sequence[str]) -> dict[str, _Known]:
    """What is there of these models. Jobs are not locked: all that is decided by is their specs and how they ended."""
    found = tx.connection.execute(_TRIES, {"fleet": name, "models": models}).all()
    ids = {"ids": [row.newest for row in found]}
    by_id = {row["id"]: rows.to_job(row) for row in tx.connection.execute(_BY_IDS, ids).mappings()}
    return {row.model: _Known(by_id[row.newest], row.tries) for row in found if row.newest in by_id}


def create_jobs(
    tx: Transaction, name: str, wanted: Sequence[WantedModel], *, replace_changed: bool
) -> list[ModelOutcome]:
    """Create a job for each of these models that is to get one."""
    _lock(tx, name)
    known = _known(tx, name, [one.new.model for one in wanted])
    room = fleet_rules.MAX_MODELS - tx.connection.execute(_MODEL_COUNT, {"fleet": name}).scalar_one()
    outcomes, new = dict[str, ModelOutcome](), list[NewJob]()
    for one in wanted:
        model, before = one.new.model, known.get(one.new.model)
        newest = before.job if before else None
        try:
            if fleet_rules.wants_job(one, newest, replace_changed=replace_changed, room=room):
                room -= before is None
                new.append(one.new)
            else:
                outcomes[model] = ModelOutcome(model, job=newest)
        except DiminuendoError as error:
            outcomes[model] = ModelOutcome(model, error, newest)
    outcomes |= _add(tx, new, known)
    return [outcomes[one.new.model] for one in wanted]


def _add(tx: Transaction, new: Sequence[NewJob], known: Mapping[str, _Known]) -> dict[str, ModelOutcome]:
    """Store jobs of models, under free names; those whose bundles are gone are refused."""
    leaving = artifacts.want_all(tx, {bundle for one in new if (bundle := bundle_of(one.spec)) is not None})
    outcomes, whole = dict[str, ModelOutcome](), list[NewJob]()
    for one in new:
        if bundle_of(one.spec) in leaving:
            before = known.get(one.model)
            outcomes[one.model] = ModelOutcome(one.model, missing(one.spec.bundle), before.job if before else None)
        else:
            whole.append(one)
    for job in store_new(tx, _named(tx, whole, known)):
        outcomes[job.model] = ModelOutcome(job.model, job=job, created=True)
    return outcomes


def _named(tx: Transaction, new: Sequence[NewJob], known: Mapping[str, _Known]) -> list[NewJob]:
    """The jobs with names, each the best one that is free."""
    choices = [_names(one, known[one.model].tries if one.model in known else 0) for one in new]
    first = [next(names) for names in choices]
    taken = set(tx.connection.execute(_TAKEN, {"names": first}).scalars())
    named = list[NewJob]()
    for one, name, others in zip(new, first, choices, strict=True):
        while name in taken:
            name = next(others)
            taken |= set(tx.connection.execute(_TAKEN, {"names": [name]}).scalars())
        taken.add(name)
        named.append(replace(one, name=name))
    return named


def _names(new: NewJob, tries: int) -> Iterator[str]:
    ids = fleet_rules.job_ids(new.fleet.rpartition("/")[2], new.model, tries)
    return (f"projects/{new.project}/jobs/{job_id}" for job_id in ids)


def retry(tx: Transaction, name: str, models: Sequence[str]) -> list[ModelOutcome]:
    """Try each of these models again whose newest job failed or was cancelled."""
    _lock(tx, name)
    known = _known(tx, name, models)
    outcomes, new = dict[str, ModelOutcome](), list[NewJob]()
    for model in models:
        before = known.get(model)
        if before is None:
            outcomes[model] = ModelOutcome(model, fleet_rules.no_model(name, model))
            continue
        try:
            new.append(job_rules.retry(before.job, before.job.name))
        except DiminuendoError as error:
            outcomes[model] = ModelOutcome(model, error, before.job)
    outcomes |= _add(tx, new, known)
    return [outcomes[model] for model in models]


def cancel(tx: Transaction, name: str, after: int) -> int | None:
    """Ask for the end of some newest jobs that have not ended, behind the one of an id; None once there are none."""
    _lock(tx, name)
    found = tx.connection.execute(_UNFINISHED, {"fleet": name, "after": after}).mappings()
    drafts = [job_rules.cancel(rows.to_job(row), tx.now) for row in found]
    store_draft(tx, *drafts)
    tx.parting |= any(draft.job.state.parting for draft in drafts)
    return drafts[-1].job.id if drafts else None


def remove_some(tx: Transaction, name: str) -> bool:
    """Forget the oldest jobs of a fleet whose jobs have all ended; with the last ones the fleet. Whether that is done.

    Raises:
        FleetActiveError: A job has not ended.
    """
    _lock(tx, name)
    active = tx.connection.execute(_ACTIVE, {"fleet": name}).scalar_one_or_none()
    if active is not None:
        raise _active(name, active)
    oldest = [rows.to_job(row) for row in tx.connection.execute(_OLDEST, {"fleet": name}).mappings()]
    rows.remove(tx.connection, [job.id for job in oldest])
    for job in oldest:
        tx.written.add(job.name)
        tx.tell(job)
    left = select(jobs.c.id).where(jobs.c.fleet == _FLEET).limit(1)
    if tx.connection.execute(left, {"fleet": name}).first() is not None:
        return False
    tx.connection.execute(delete(fleets).where(fleets.c.name == _FLEET), {"fleet": name})
    return True


def _not_found(name: str) -> FleetNotFoundError:
    return FleetNotFoundError(f"there is no fleet {name!r}; see the names with `diminuendo fleet list`", fleet=name)


def _active(name: str, job: str) -> FleetActiveError:
    return FleetActiveError(
        f"{name} has jobs that have not ended, as {job}; a fleet is deleted once all have: cancel it first",
        fleet=name,
        job=job,
    )
