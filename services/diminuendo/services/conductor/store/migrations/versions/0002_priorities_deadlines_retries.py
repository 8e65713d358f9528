"""Priorities, deadlines, and which job another one is a retry of."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns, and the index that leads to the next job to lease."""
    op.add_column("jobs", sa.Column("nice", sa.Integer(), server_default="0", nullable=False))
    op.add_column("jobs", sa.Column("retry_of", sa.String(length=160), server_default="", nullable=False))
    op.add_column("jobs", sa.Column("deadline", sa.BigInteger(), nullable=True))
    op.drop_index(op.f("ix_jobs_state_id"), table_name="jobs")
    op.create_index(op.f("ix_jobs_state_nice_id"), "jobs", ["state", "nice", "id"], unique=False)
