"""Brings a database to the version of this program, and refuses one that is ahead of it."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Engine, text

from diminuendo.services.common.errors import StartError
from diminuendo.services.conductor.store.connect import is_postgres

MIGRATIONS = Path(__file__).parent / "migrations"
ONE_AT_A_TIME = (
    "SET LOCAL statement_timeout = 0",
    "SET LOCAL lock_timeout = '60s'",
    "SELECT pg_advisory_xact_lock(6447107411513210989)",
)
"""Conductors that start together migrate one after the other. The number is nobody else's, by chance alone."""


def upgrade(engine: Engine) -> None:
    """Apply what is missing, each migration whole or not at all.

    Raises:
        StartError: The database was written by a newer version.
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    with engine.begin() as connection:
        if is_postgres(connection):
            for statement in ONE_AT_A_TIME:
                connection.execute(text(statement))
        refuse_newer(script, MigrationContext.configure(connection).get_current_revision(), engine)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def refuse_newer(script: ScriptDirectory, revision: str | None, engine: Engine) -> None:
    """StartError when this program does not know the database's revision."""
    if revision is None:
        return
    try:
        script.get_revision(revision)
    except CommandError:
        raise StartError(
            f"database {engine.url.render_as_string(hide_password=True)} is at revision {revision!r}, which this "
            f"version of diminuendo does not know (its newest is {script.get_current_head()!r}); start the version "
            "that wrote it, or a newer one, or choose another --data-dir or --database"
        ) from None
