"""Brings a database to the version of this program, and refuses one that is ahead of it."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Engine

from diminuendo.services.common.errors import StartError

MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(engine: Engine) -> None:
    """Apply what is missing, each migration whole or not at all.

    Raises:
        StartError: The database was written by a newer version.
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    with engine.begin() as connection:
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
            "that wrote it, or a newer one, or choose another --data-dir"
        ) from None
