"""The index of the queue, by project."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Replace the index that led to the next job of all by one that leads to the next of each project."""
    op.drop_index(op.f("ix_jobs_state_nice_id"), table_name="jobs")
    op.create_index(op.f("ix_jobs_state_project_nice_id"), "jobs", ["state", "project", "nice", "id"], unique=False)
