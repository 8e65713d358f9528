"""How the SQL store talks to its database: one engine that writes, one that reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sqlalchemy import Connection, Engine, create_engine, event, make_url

READERS = 4
BUSY_TIMEOUT_MS = 10_000


class _Dbapi(Protocol):
    isolation_level: str | None

    def execute(self, sql: str, /) -> object: ...


def connect(url: str) -> tuple[Engine, Engine]:
    """The engine for the one writer, and the engine for readers beside it."""
    if make_url(url).get_backend_name() != "sqlite":
        return create_engine(url, pool_size=1), create_engine(url, pool_size=READERS, pool_pre_ping=True)
    writer = create_engine(url, pool_size=1, max_overflow=0)
    reader = create_engine(url, pool_size=READERS, max_overflow=0)
    _prepare(writer, ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"), begin="BEGIN IMMEDIATE")
    _prepare(reader, ("query_only=ON",), begin="BEGIN")
    return writer, reader


def _prepare(engine: Engine, pragmas: Sequence[str], *, begin: str) -> None:
    """Set every connection up, and begin transactions ourselves.

    The driver begins a transaction as a reader; its later upgrade to a writer fails at once, without waiting,
    when another process has written in between. BEGIN IMMEDIATE waits its turn.
    """

    def set_up(connection: _Dbapi, _record: object) -> None:
        connection.isolation_level = None
        for pragma in (f"busy_timeout={BUSY_TIMEOUT_MS}", *pragmas):
            connection.execute(f"PRAGMA {pragma}")

    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", set_up)
    event.listen(engine, "begin", start)


def sqlite_url(path: str) -> str:
    """The URL of a SQLite file."""
    return f"sqlite:///{path}"
