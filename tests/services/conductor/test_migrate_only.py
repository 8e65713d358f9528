"""`diminuendo conductor --migrate-only`: what a migration Job runs before any conductor of a new version starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sqlalchemy import create_engine, inspect, text
from tests.postgres import Postgres

from diminuendo.services.conductor.lock import data_folder
from diminuendo.services.conductor.store.connect import sqlite_url


def migrate(*options: str, database: str = "", folder: Path) -> subprocess.CompletedProcess[str]:
    """The command as a Job runs it: in a folder that it writes nothing to."""
    return subprocess.run(
        [sys.executable, "-m", "diminuendo.services.conductor", "--migrate-only", *options],
        env={"PATH": "", "DIMINUENDO_LOG_STYLE": "json"}
        | ({"DIMINUENDO_CONDUCTOR_DATABASE": database} if database else {}),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_migrates_an_empty_postgresql_twice_and_leaves_nothing_behind(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.empty_database()
    for _ in range(2):
        done = migrate(database=url, folder=tmp_path)
        assert (done.returncode, done.stdout) == (0, "")
        assert '"event": "migrated"' in done.stderr
    engine = create_engine(url)
    assert "jobs" in inspect(engine).get_table_names()
    engine.dispose()
    assert list(tmp_path.iterdir()) == []


def test_an_older_program_refuses_a_newer_database(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.empty_database()
    assert migrate(database=url, folder=tmp_path).returncode == 0
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    done = migrate(database=url, folder=tmp_path)
    assert done.returncode == 2
    assert "is at revision '9999', which this version of diminuendo does not know" in done.stderr


def test_migrates_sqlite_unless_a_conductor_is_on_it(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with data_folder(folder):
        done = migrate("--data-dir", str(folder), folder=tmp_path)
    assert done.returncode == 2
    assert "is in use by another conductor" in done.stderr
    assert migrate("--data-dir", str(folder), folder=tmp_path).returncode == 0
    engine = create_engine(sqlite_url(str(folder / "diminuendo.db")))
    assert "jobs" in inspect(engine).get_table_names()
    engine.dispose()


def test_a_database_that_is_away_is_one_line(tmp_path: Path) -> None:
    done = migrate(database="postgresql://nobody@127.0.0.1:1/nothing", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
