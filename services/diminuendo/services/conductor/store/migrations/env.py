"""Runs migrations on the connection that `store.migrate` passes in."""

from __future__ import annotations

from alembic import context

from diminuendo.services.conductor.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite cannot alter most things in place
)
with context.begin_transaction():
    context.run_migrations()
