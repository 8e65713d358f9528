"""Which job and which evaluation refers to which content, what nobody refers to; the queue by project; attempts."""

from __future__ import annotations

import re

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

SHA256 = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
"""Outcomes are opaque, and before this revision nobody said what they refer to: what looks like content is kept."""
PAGE = 500


def upgrade() -> None:
    """Make the tables, and fill them from what is stored; let the queue's index lead to each project's next job."""
    op.drop_index(op.f("ix_jobs_state_nice_id"), table_name="jobs")
    op.create_index(op.f("ix_jobs_state_project_nice_id"), "jobs", ["state", "project", "nice", "id"], unique=False)
    op.add_column("evaluations", sa.Column("unused_since", sa.BigInteger(), nullable=True))
    op.create_index(op.f("ix_reports_key"), "reports", ["key"], unique=False)
    op.create_table(
        "attempts",
        sa.Column("job_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("epoch", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("work_index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("cause", sa.String(length=32), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_attempts_job_id_jobs")),
        sa.PrimaryKeyConstraint("job_id", "epoch", "work_index", "attempt", name=op.f("pk_attempts")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "job_artifacts",
        sa.Column("job_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_artifacts_job_id_jobs")),
        sa.PrimaryKeyConstraint("job_id", "sha256", name=op.f("pk_job_artifacts")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_job_artifacts_sha256"), "job_artifacts", ["sha256"], unique=False)
    op.create_table(
        "evaluation_artifacts",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("key", "sha256", name=op.f("pk_evaluation_artifacts")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_evaluation_artifacts_sha256"), "evaluation_artifacts", ["sha256"], unique=False)
    op.create_table(
        "garbage",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("removing", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_garbage")),
    )
    _fill("jobs", "id", "result", into="job_artifacts", column="job_id", first=-1)
    _fill("evaluations", "key", "outcome", into="evaluation_artifacts", column="key", first="")


def _fill(table: str, key: str, body: str, *, into: str, column: str, first: int | str) -> None:
    """Note the content that the bodies of a table name, page by page."""
    connection, after = op.get_bind(), first
    source = sa.table(table, sa.column(key), sa.column(body, sa.LargeBinary()))
    target = sa.table(into, sa.column(column), sa.column("sha256"))
    while True:
        query = sa.select(source.c[key], source.c[body]).where(source.c[key] > after).order_by(source.c[key])
        page = connection.execute(query.limit(PAGE)).all()
        if not page:
            return
        named = [
            {column: owner, "sha256": found.decode()}
            for owner, content in page
            for found in sorted(set(SHA256.findall(content or b"")))
        ]
        if named:
            connection.execute(sa.insert(target), named)
        after = page[-1][0]
