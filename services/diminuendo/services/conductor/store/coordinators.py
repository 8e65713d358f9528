"""What coordinators tell of themselves, as operations on the SQL store's transaction. A body is opaque here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from diminuendo.services.conductor.records import StoredCoordinator
from diminuendo.services.conductor.store.tables import coordinators
from diminuendo.services.conductor.store.writer import Transaction

KEPT_US = 86_400_000_000
"""For how long the word of a coordinator that is gone without a farewell stays: names may be new with each start."""

GATHER_S = 0.25
"""How long a report waits for others: each coordinator tells something up to twice a second."""

_KNOWN = select(coordinators.c.name).where(coordinators.c.name.in_(bindparam("names", expanding=True)))
_UPDATE = (
    update(coordinators)
    .where(coordinators.c.name == bindparam("told"))
    .values(update_time=bindparam("update_time"), body=bindparam("body"))
)
_INSERT = insert(coordinators)
_FORGET = delete(coordinators).where(coordinators.c.name == bindparam("told"))
_FORGET_OLD = delete(coordinators).where(coordinators.c.update_time < bindparam("before"))
_SINCE = select(coordinators).where(coordinators.c.update_time >= bindparam("since")).order_by(coordinators.c.name)


def report(tx: Transaction, told: Mapping[str, bytes]) -> None:
    """Store what coordinators tell, in the place of what they told before.

    Args:
        told: By name.
    """
    names = sorted(told)  # in one order everywhere, so that no two conductors wait for each other
    known = set(tx.connection.execute(_KNOWN, {"names": names}).scalars())
    if before := [{"told": name, "update_time": tx.now, "body": told[name]} for name in names if name in known]:
        tx.connection.execute(_UPDATE, before)
    if new := [{"name": name, "update_time": tx.now, "body": told[name]} for name in names if name not in known]:
        tx.connection.execute(_INSERT, new)
        tx.connection.execute(_FORGET_OLD, {"before": tx.now - KEPT_US})


def forget(tx: Transaction, name: str) -> None:
    """Forget a coordinator."""
    tx.connection.execute(_FORGET, {"told": name})


def heard_since(connection: Connection, since: int) -> Sequence[StoredCoordinator]:
    """Those that told something at or after a time, by name."""
    rows = connection.execute(_SINCE, {"since": since})
    return [StoredCoordinator(row.name, row.update_time, row.body) for row in rows]
