"""The tables of the SQL store. A change here comes with a migration; a test compares the two.

Times are microseconds since the epoch, UTC. Bodies are serialized messages of `diminuendo.v1`.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    }
)

# SQLite numbers rows by itself only where the key's type is INTEGER.
_Id = BigInteger().with_variant(Integer(), "sqlite")


def _job() -> Column[int]:
    return Column("job_id", _Id, ForeignKey("jobs.id"), primary_key=True)


fleets = Table(
    "fleets",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("name", String(120), nullable=False),
    Column("project", String(63), nullable=False),
    Column("labels", JSON, nullable=False),
    Column("create_time", BigInteger, nullable=False),
    UniqueConstraint("name"),
    Index(None, "project", "id"),
    sqlite_autoincrement=True,
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("name", String(160), nullable=False),
    Column("project", String(63), nullable=False),
    Column("state", String(16), nullable=False),
    Column("spec", LargeBinary, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("progress", LargeBinary),
    Column("result", LargeBinary),
    Column("failure", LargeBinary),
    Column("create_time", BigInteger, nullable=False),
    Column("update_time", BigInteger, nullable=False),
    Column("start_time", BigInteger),
    Column("end_time", BigInteger),
    Column("last_sequence", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("next_step", BigInteger, nullable=False),
    Column("coordinator", String(255), nullable=False),
    Column("lease_request", String(64), nullable=False),
    Column("lease_expire_time", BigInteger),
    Column("released", String(128), nullable=False),
    Column("nice", Integer, nullable=False, server_default="0"),
    Column("retry_of", String(160), nullable=False, server_default=""),
    Column("deadline", BigInteger),
    Column("fleet", String(120), nullable=False, server_default=""),
    Column("model", String(63), nullable=False, server_default=""),
    Column("trace_parent", String(64), nullable=False, server_default=""),
    UniqueConstraint("name"),
    Index(None, "state", "project", "nice", "id"),
    Index(None, "project", "id"),
    Index(None, "fleet", "model", "id"),
    sqlite_autoincrement=True,
)
"""`nice` is minus the priority: an index that rises leads to the next job of a project to lease. `fleet` is a fleet's
name; of the jobs of a model in it the one of the highest id counts."""

events = Table(
    "events",
    metadata,
    _job(),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", String(32), nullable=False),
    Column("body", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
"""Append-only. `kind` is for people who look with a SQL shell."""

steps = Table(
    "steps",
    metadata,
    _job(),
    Column("step", BigInteger, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

session_states = Table(
    "session_states",
    metadata,
    _job(),
    Column("step", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
)
"""The newest state of each job's search, with the step that it was stored with."""

evaluations = Table(
    "evaluations",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("outcome", LargeBinary, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("unused_since", BigInteger),
)
"""Of all jobs. The first outcome of a key stays. `unused_since` is when no job was found to have reported it."""

reports = Table(
    "reports",
    metadata,
    _job(),
    Column("work_index", BigInteger, primary_key=True, autoincrement=False),
    Column("key", String(64), primary_key=True),
    Index(None, "key"),
    sqlite_with_rowid=False,
)
"""Which works each job's log has noted, so that one that is reported again is not noted twice."""

attempts = Table(
    "attempts",
    metadata,
    _job(),
    Column("epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("work_index", BigInteger, primary_key=True, autoincrement=False),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("cause", String(32), nullable=False),
    Column("time", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""Attempts that came to nothing, each once; what is told of them is in the job's log."""

requests = Table(
    "requests",
    metadata,
    Column("scope", String(63), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("job_id", _Id, ForeignKey("jobs.id"), nullable=False),
    Column("time", BigInteger, nullable=False),
    Index(None, "job_id"),
)

job_artifacts = Table(
    "job_artifacts",
    metadata,
    _job(),
    Column("sha256", String(64), primary_key=True),
    Index(None, "sha256"),
    sqlite_with_rowid=False,
)
"""Content that each job is about, its bundle, and that its result is made of."""

evaluation_artifacts = Table(
    "evaluation_artifacts",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("sha256", String(64), primary_key=True),
    Index(None, "sha256"),
    sqlite_with_rowid=False,
)
"""Content that outcomes of each key name, those of every job that reported one; of keys without an outcome too."""

garbage = Table(
    "garbage",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("since", BigInteger, nullable=False),
    Column("removing", Boolean, nullable=False),
)
"""Content that no job was found to refer to, since when, and whether it is on its way out of the artifact store."""

coordinators = Table(
    "coordinators",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("update_time", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
)
"""What each coordinator last told of itself and of its cluster: a Coordinator message."""
