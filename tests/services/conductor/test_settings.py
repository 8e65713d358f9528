"""Where the conductor's database may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from diminuendo.services.common.errors import StartError
from diminuendo.services.conductor.settings import ConductorSettings


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("", "sqlite:///there/diminuendo.db"),
        ("sqlite:///file.db", "sqlite:///file.db"),
        ("postgresql://me:secret@host/jobs", "postgresql+psycopg://me:secret@host/jobs"),
        ("postgres://host/jobs", "postgresql+psycopg://host/jobs"),
        ("postgresql+psycopg:///jobs?host=/run", "postgresql+psycopg:///jobs?host=%2Frun"),
    ],
)
def test_sqlite_in_the_folder_or_what_was_given(given: str, url: str) -> None:
    settings = ConductorSettings.load(data_dir=Path("there"), database=given)
    assert settings.url == url
    assert "secret" not in repr(settings)


@pytest.mark.parametrize(
    "given", ["mysql://me:secret@host/jobs", "jobs", "sqlite://", "sqlite:///:memory:", "postgresql+asyncpg://host/x"]
)
def test_another_database_is_refused_without_its_password(given: str) -> None:
    with pytest.raises(StartError) as caught:
        ConductorSettings.load(database=given)
    text = str(caught.value)
    assert given.replace("secret", "***") in text
    assert text.endswith(
        "cannot be used: give postgresql://USER:PASSWORD@HOST/NAME or sqlite:///FILE; "
        "set --database or DIMINUENDO_CONDUCTOR_DATABASE"
    )
