"""Fleets and which job is of which; what coordinators tell of their clusters; what traces a job belongs to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the tables, and add the columns and the index that leads to the newest job of each model."""
    op.create_table(
        "fleets",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("project", sa.String(length=63), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fleets")),
        sa.UniqueConstraint("name", name=op.f("uq_fleets_name")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_fleets_project_id"), "fleets", ["project", "id"], unique=False)
    op.add_column("jobs", sa.Column("fleet", sa.String(length=120), server_default="", nullable=False))
    op.add_column("jobs", sa.Column("model", sa.String(length=63), server_default="", nullable=False))
    op.add_column("jobs", sa.Column("trace_parent", sa.String(length=64), server_default="", nullable=False))
    op.create_index(op.f("ix_jobs_fleet_model_id"), "jobs", ["fleet", "model", "id"], unique=False)
    op.create_index(op.f("ix_requests_job_id"), "requests", ["job_id"], unique=False)
    op.create_table(
        "coordinators",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("update_time", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_coordinators")),
    )
