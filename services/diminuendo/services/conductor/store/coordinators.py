"""What coordinators tell of themselves, as operations on the SQL store's transaction. A body is opaque here."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from diminuendo.services.conductor.records import StoredCoordinator
from diminuendo.services.conductor.store.tables import coordinators
from diminuendo.services.conductor.store.writer import Transaction

KEPT_US = 86_400_000_000
"""For how long the word of a coordinator that is gone without a farewell stays: names may be new with each start."""

_UPDATE = update(coordinators).where(coordinators.c.name == bindparam("told"))
_INSERT = insert(coordinators)
_FORGET = delete(coordinators).where(coordinators.c.name == bindparam("told"))
_FORGET_OLD = delete(coordinators).where(coordinators.c.update_time < bindparam("before"))
_SINCE = select(coordinators).where(coordinators.c.update_time >= bindparam("since")).order_by(coordinators.c.name)


def report(tx: Transaction, name: str, body: bytes) -> None:
    """Store what a coordinator tells, in the place of what it told before."""
    values = {"update_time": tx.now, "body": body}
    if not tx.connection.execute(_UPDATE, {"told": name, **values}).rowcount:
        tx.connection.execute(_INSERT, {"name": name, **values})
        tx.connection.execute(_FORGET_OLD, {"before": tx.now - KEPT_US})


def forget(tx: Transaction, name: str) -> None:
    """Forget a coordinator."""
    tx.connection.execute(_FORGET, {"told": name})


def heard_since(connection: Connection, since: int) -> Sequence[StoredCoordinator]:
    """Those that told something at or after a time, by name."""
    rows = connection.execute(_SINCE, {"since": since})
    return [StoredCoordinator(row.name, row.update_time, row.body) for row in rows]
