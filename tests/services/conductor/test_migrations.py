"""Migrations lead where the tables say."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, inspect, text
from tests.postgres import Postgres

from diminuendo.services.common.errors import StartError
from diminuendo.services.conductor.store import connect
from diminuendo.services.conductor.store.migrate import MIGRATIONS, upgrade
from diminuendo.services.conductor.store.sql import SqlStore
from diminuendo.services.conductor.store.tables import metadata


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path / 'a.db'}")
    yield engine
    engine.dispose()


def test_from_empty_they_make_the_tables(engine: Engine, tmp_path: Path) -> None:
    upgrade(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    fresh = create_engine(f"sqlite:///{tmp_path / 'b.db'}")
    metadata.create_all(fresh)
    for table in metadata.tables:
        # compare_metadata does not look at primary keys and foreign keys this closely
        for look in ("get_pk_constraint", "get_foreign_keys", "get_indexes", "get_unique_constraints"):
            assert getattr(inspect(engine), look)(table) == getattr(inspect(fresh), look)(table)
        sql = "SELECT sql LIKE '%WITHOUT ROWID%' FROM sqlite_master WHERE name = :name"
        with engine.connect() as one, fresh.connect() as other:
            found = one.execute(text(sql), {"name": table}).scalar_one()
            assert found == other.execute(text(sql), {"name": table}).scalar_one()
    fresh.dispose()


def test_again_they_change_nothing(engine: Engine) -> None:
    upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO evaluations VALUES ('k', x'00', 1, NULL)"))
    upgrade(engine)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM evaluations")).scalar_one() == 1


def test_every_revision_follows_the_one_before() -> None:
    files = sorted(path.name for path in (MIGRATIONS / "versions").glob("*.py"))
    assert [name[:4] for name in files] == [f"{i + 1:04}" for i in range(len(files))]


def test_a_newer_database_is_refused_unchanged(engine: Engine, tmp_path: Path) -> None:
    upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0999'"))
    with pytest.raises(StartError, match=r"at revision '0999'.*its newest is '0004'.*choose another --data-dir"):
        SqlStore.open(f"sqlite:///{tmp_path / 'a.db'}")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "0999"


def test_the_database_is_durable_and_checked(tmp_path: Path) -> None:
    writer, reader = connect.connect(f"sqlite:///{tmp_path / 'c.db'}")
    with writer.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}
    with reader.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA query_only").scalar_one() == 1
    writer.dispose()
    reader.dispose()


def test_on_postgresql_they_make_the_same_tables_whoever_comes_first(postgres: Postgres) -> None:
    url = postgres.empty_database()
    engines = [create_engine(url) for _ in range(3)]
    with ThreadPoolExecutor() as together:
        assert list(together.map(upgrade, engines)) == [None] * 3
    with engines[0].connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    for engine in engines:
        engine.dispose()


def test_a_postgresql_that_is_not_there_is_told_without_the_password() -> None:
    with pytest.raises(StartError) as caught:
        SqlStore.open("postgresql+psycopg://me:secret@127.0.0.1:1/jobs")
    text = str(caught.value)
    assert text.startswith("database 'postgresql+psycopg://me:***@127.0.0.1:1/jobs' cannot be opened (")
    assert text.endswith("see that the server runs and that this user may use and change the database")
    assert "secret" not in text
    assert "\n" not in text
