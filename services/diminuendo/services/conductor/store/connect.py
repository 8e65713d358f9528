"""How the SQL store talks to SQLite and to PostgreSQL: one engine that writes, one that reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from diminuendo.services.common.errors import StoreUnavailableError

READERS = 4
BUSY_TIMEOUT_MS = 10_000
POSTGRES = "postgresql"
POOL_WAIT_S = 10.0
LOCK_TIMEOUT_MS = 100
STATEMENT_TIMEOUT_MS = 30_000
IDLE_TIMEOUT_MS = 10_000
SERVER_TIMEOUT_S = 10
CONFLICTS = frozenset({"40001", "40P01", "55P03"})
"""SQLSTATE of what passes when it is tried again: serialization failure, deadlock, a lock that was not had in time."""


class _Dbapi(Protocol):
    isolation_level: str | None

    def execute(self, sql: str, /) -> object: ...


def connect(url: str) -> tuple[Engine, Engine]:
    """The engine for the one writer, and the engine for readers beside it."""
    if make_url(url).get_backend_name() == POSTGRES:
        return _postgres(make_url(url))
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


def _postgres(url: URL) -> tuple[Engine, Engine]:
    """Engines of a PostgreSQL that other conductors use too.

    The writer locks the rows that it goes by, so READ COMMITTED serves it. A reader's transaction sees one moment,
    as on SQLite. A connection that a restart of the server has cut is found and replaced when it is next taken.
    """

    def engine(size: int, isolation: str, **settings: str | int) -> Engine:
        return create_engine(
            url,
            pool_size=size,
            max_overflow=0,
            pool_timeout=POOL_WAIT_S,
            pool_pre_ping=True,
            isolation_level=isolation,
            connect_args=postgres_options(**settings),
        )

    # A process that stops within a transaction must not hold its locks for long.
    writer = engine(
        1, "READ COMMITTED", lock_timeout=LOCK_TIMEOUT_MS, idle_in_transaction_session_timeout=IDLE_TIMEOUT_MS
    )
    return writer, engine(READERS, "REPEATABLE READ", default_transaction_read_only="on")


def postgres_options(**settings: str | int) -> dict[str, Any]:
    """What psycopg connects with. A server that is gone is noticed within seconds; the settings are the session's."""
    settings = {"statement_timeout": STATEMENT_TIMEOUT_MS, **settings}
    return {
        "application_name": "diminuendo-conductor",
        "connect_timeout": SERVER_TIMEOUT_S // 2,
        "keepalives_idle": SERVER_TIMEOUT_S,
        "keepalives_interval": SERVER_TIMEOUT_S // 2,
        "keepalives_count": 2,
        "tcp_user_timeout": SERVER_TIMEOUT_S * 1000,
        "options": " ".join(f"-c {name}={value}" for name, value in settings.items()),
    }


def is_postgres(engine: Engine | Connection) -> bool:
    """Whether other conductors may use this database at the same time."""
    return engine.dialect.name == POSTGRES


def is_conflict(error: DBAPIError) -> bool:
    """Whether another transaction was in the way: after it, the same operation finds what that one did."""
    return isinstance(error, IntegrityError) or getattr(error.orig, "sqlstate", None) in CONFLICTS


def unavailable(error: SQLAlchemyError) -> StoreUnavailableError:
    """A database that cannot be used now, in words for people."""
    first: BaseException = error
    before: BaseException | None = error
    while before is not None:  # what was refused first is the cause; a full SQLite then knows no savepoint either
        first = before if isinstance(before, DBAPIError) else first
        before = before.__context__
    cause = str(first.orig if isinstance(first, DBAPIError) else first)
    return StoreUnavailableError(f"the database cannot be used now ({' '.join(cause.split())}); try again")


def sqlite_url(path: str) -> str:
    """The URL of a SQLite file."""
    return f"sqlite:///{path}"
