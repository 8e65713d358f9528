"""Who refers to which content, and what nobody refers to, as operations on the SQL store's transaction.

Content is held by a job's result, and by the evaluations that jobs have reported. What nobody holds is listed with
the time when that was found, and the list is gone through again and again; see `conductor.garbage`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, exists, insert, or_, select, update

from diminuendo.services.conductor.records import SortedArtifacts
from diminuendo.services.conductor.store.tables import (
    evaluation_artifacts,
    evaluations,
    garbage,
    job_artifacts,
    reports,
)
from diminuendo.services.conductor.store.writer import Transaction

PAGE = 250
"""Keys that one transaction changes: others wait for it."""
_HELD_BY_KEY = select(evaluation_artifacts.c.sha256).where(evaluation_artifacts.c.key == bindparam("key"))
_HELD_BY_JOB = select(job_artifacts.c.sha256).where(job_artifacts.c.job_id == bindparam("job"))
_IS_USED = (
    update(evaluations)
    .where(evaluations.c.key == bindparam("reported"), evaluations.c.unused_since.is_not(None))
    .values(unused_since=None)
)
_UNLIST = delete(garbage).where(garbage.c.sha256.in_(bindparam("sha256s", expanding=True)))
_REPORTED = exists().where(reports.c.key == evaluation_artifacts.c.key)
_USED = exists().where(reports.c.key == evaluations.c.key)


@dataclass(frozen=True, slots=True)
class _Found:
    """What is known of some content: what is held; what is listed, since when."""

    held: frozenset[str]
    listed: dict[str, int]


def hold_by_evaluation(tx: Transaction, key: str, sha256s: Collection[str]) -> None:
    """Note that a job has reported this key, and that its outcome names content."""
    tx.connection.execute(_IS_USED, {"reported": key})
    if not sha256s:
        return
    known = set(tx.connection.execute(_HELD_BY_KEY, {"key": key}).scalars())
    new = [{"key": key, "sha256": sha256} for sha256 in sorted(set(sha256s) - known)]
    if new:
        tx.connection.execute(insert(evaluation_artifacts), new)
    _unlist(tx, sha256s)


def hold_by_job(tx: Transaction, job_id: int, sha256s: Collection[str]) -> None:
    """Note that a job's result is made of content."""
    known = set(tx.connection.execute(_HELD_BY_JOB, {"job": job_id}).scalars())
    new = [{"job_id": job_id, "sha256": sha256} for sha256 in sorted(set(sha256s) - known)]
    if new:
        tx.connection.execute(insert(job_artifacts), new)
    _unlist(tx, sha256s)


def hold_by_new_jobs(tx: Transaction, bundles: Mapping[int, str]) -> None:
    """Note which bundles jobs are about, by the ids of jobs that hold nothing yet."""
    if bundles:
        held = [{"job_id": job_id, "sha256": sha256} for job_id, sha256 in bundles.items()]
        tx.connection.execute(insert(job_artifacts), held)
        _unlist(tx, set(bundles.values()))


def _unlist(tx: Transaction, sha256s: Collection[str]) -> None:
    tx.connection.execute(_UNLIST, {"sha256s": list(sha256s)})


def sort(connection: Connection, sha256s: Collection[str], unused_before: int) -> tuple[SortedArtifacts, bool]:
    """Which of some content is held, waits, or is due; and whether the list is yet to be changed for that."""
    found = _look(connection, sha256s)
    due = {s for s, since in found.listed.items() if since <= unused_before} - found.held
    waiting = set(sha256s) - found.held - due
    stale = bool(due or found.held & found.listed.keys() or waiting - found.listed.keys())
    return SortedArtifacts(found.held, frozenset(waiting), frozenset(due)), stale


def _look(connection: Connection, sha256s: Collection[str]) -> _Found:
    by_jobs = select(job_artifacts.c.sha256).where(job_artifacts.c.sha256.in_(sha256s))
    by_evaluations = select(evaluation_artifacts.c.sha256).where(evaluation_artifacts.c.sha256.in_(sha256s), _REPORTED)
    held = frozenset(connection.execute(by_jobs.union(by_evaluations)).scalars())
    listed = connection.execute(select(garbage.c.sha256, garbage.c.since).where(garbage.c.sha256.in_(sha256s)))
    return _Found(held, {row.sha256: row.since for row in listed})


def sort_and_list(tx: Transaction, sha256s: Collection[str], unused_before: int) -> SortedArtifacts:
    """As `sort`, and change the list: what is held comes off it, what nobody holds comes on, what is due is marked."""
    result, _ = sort(tx.connection, sha256s, unused_before)
    _unlist(tx, result.held)
    listed = set(tx.connection.execute(select(garbage.c.sha256).where(garbage.c.sha256.in_(sha256s))).scalars())
    new = [{"sha256": s, "since": tx.now, "removing": False} for s in sorted(result.waiting - listed)]
    if new:
        tx.connection.execute(insert(garbage), new)
    tx.connection.execute(update(garbage).where(garbage.c.sha256.in_(result.due)).values(removing=True))
    return result


def removed(tx: Transaction, sha256s: Collection[str]) -> None:
    """Take off the list what has left the artifact store, or is to wait for another full time."""
    tx.connection.execute(delete(garbage).where(garbage.c.sha256.in_(sha256s), garbage.c.removing))


def _overdue(due_before: int) -> ColumnElement[bool]:
    return and_(garbage.c.removing, garbage.c.since <= due_before)


def has_overdue(connection: Connection, due_before: int) -> bool:
    """Whether anything has been on its way out for that long."""
    return connection.execute(select(garbage.c.sha256).where(_overdue(due_before)).limit(1)).first() is not None


def forget_overdue(tx: Transaction, due_before: int) -> None:
    """Take it off the list."""
    tx.connection.execute(delete(garbage).where(_overdue(due_before)))


def is_listed(connection: Connection, sha256: str) -> bool:
    """Whether nobody was found to hold the content."""
    return connection.execute(select(garbage.c.sha256).where(garbage.c.sha256 == sha256)).first() is not None


def want(tx: Transaction, sha256: str) -> bool:
    """Have the content wait for a full time from now; False when it is on its way out already."""
    return not want_all(tx, [sha256])


def want_all(tx: Transaction, sha256s: Collection[str]) -> frozenset[str]:
    """Have content wait for a full time from now; returned is what is on its way out already."""
    if not sha256s:
        return frozenset()
    listed = select(garbage.c.sha256, garbage.c.removing).where(garbage.c.sha256.in_(sha256s))
    found = tx.connection.execute(listed.order_by(garbage.c.sha256).with_for_update()).all()
    waiting = [row.sha256 for row in found if not row.removing]
    if waiting:
        tx.connection.execute(update(garbage).where(garbage.c.sha256.in_(waiting)).values(since=tx.now))
    return frozenset(row.sha256 for row in found if row.removing)


def want_evaluations(tx: Transaction, keys: Collection[str]) -> None:
    """Have outcomes, and the content that they name, wait for a full time from now: somebody has just read them."""
    unused = and_(evaluations.c.key.in_(keys), evaluations.c.unused_since.is_not(None))
    tx.connection.execute(update(evaluations).where(unused).values(unused_since=tx.now))
    named = select(evaluation_artifacts.c.sha256).where(evaluation_artifacts.c.key.in_(keys))
    tx.connection.execute(update(garbage).where(garbage.c.sha256.in_(named), ~garbage.c.removing).values(since=tx.now))


def changed_evaluations(connection: Connection, after: str, unused_before: int) -> list[str]:
    """Keys, in order, whose outcomes have come to be unused, or used again, or are due."""
    unused = evaluations.c.unused_since
    changed = or_(and_(unused.is_(None), ~_USED), and_(unused.is_not(None), _USED), unused <= unused_before)
    query = select(evaluations.c.key).where(evaluations.c.key > after, changed).order_by(evaluations.c.key)
    return list(connection.execute(query.limit(PAGE)).scalars())


def count_due_evaluations(connection: Connection, unused_before: int) -> int:
    """How many outcomes are due."""
    due = select(evaluations.c.key).where(evaluations.c.unused_since <= unused_before, ~_USED)
    return len(connection.execute(due).all())


def age_evaluations(tx: Transaction, keys: Collection[str], unused_before: int) -> int:
    """Note which of these outcomes are used and which not, and forget those that are due; says how many."""
    these, unused = evaluations.c.key.in_(keys), evaluations.c.unused_since
    tx.connection.execute(update(evaluations).where(these, unused.is_not(None), _USED).values(unused_since=None))
    due = select(evaluations.c.key).where(these, unused <= unused_before, ~_USED).with_for_update()
    doomed = list(tx.connection.execute(due).scalars())
    if doomed:
        tx.connection.execute(delete(evaluation_artifacts).where(evaluation_artifacts.c.key.in_(doomed)))
        tx.connection.execute(delete(evaluations).where(evaluations.c.key.in_(doomed)))
    tx.connection.execute(update(evaluations).where(these, unused.is_(None), ~_USED).values(unused_since=tx.now))
    return len(doomed)


def orphans(connection: Connection) -> list[str]:
    """Keys whose outcome was never stored, and that no job has reported any more."""
    known = exists().where(evaluations.c.key == evaluation_artifacts.c.key)
    query = select(evaluation_artifacts.c.key).distinct().where(~known, ~_REPORTED).limit(PAGE)
    return list(connection.execute(query).scalars())


def forget_orphans(tx: Transaction, keys: Collection[str]) -> None:
    """Forget what they named."""
    tx.connection.execute(delete(evaluation_artifacts).where(evaluation_artifacts.c.key.in_(keys), ~_REPORTED))
