"""What a conductor says when it cannot start, and what it leaves behind: nothing."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from diminuendo.services.common.errors import StartError
from diminuendo.services.conductor.app import Running, conducting
from diminuendo.services.conductor.settings import ConductorSettings


async def refusal(settings: ConductorSettings, **change: Any) -> str:
    """The text of the error of a conductor that does not start."""
    with pytest.raises(StartError) as caught:
        async with conducting(settings.model_copy(update=change)):
            pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_the_port_of_another_conductor_is_in_use(
    conductor: Running, settings: ConductorSettings, tmp_path: Path
) -> None:
    for option, address in (("port", conductor.grpc), ("http_port", conductor.http)):
        port = int(address.rpartition(":")[2])
        text = await refusal(settings, data_dir=tmp_path / "other", **{option: port})
        name = "--" + option.replace("_", "-")
        assert text == (f"{name} {port} on 127.0.0.1 is in use; stop what listens there, or choose another ({name} 0)")
    assert not (tmp_path / "other").exists()


async def test_the_folder_of_another_conductor_is_in_use(conductor: Running, settings: ConductorSettings) -> None:
    assert f"--data-dir {str(settings.data_dir)!r} is in use by another conductor" in await refusal(settings)


async def test_after_a_stop_the_folder_is_free_again(settings: ConductorSettings) -> None:
    for _ in range(2):
        async with conducting(settings) as running:
            await running.store.ping()


async def test_a_folder_that_cannot_be_written_is_refused(settings: ConductorSettings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        text = await refusal(settings, data_dir=folder)
        assert text.startswith(f"--data-dir {str(folder)!r} is not a folder that can be written")
        assert "choose another one" in text
    assert (tmp_path / "file").read_text() == "in the way"


async def test_a_database_of_a_newer_version_is_refused(settings: ConductorSettings) -> None:
    async with conducting(settings):
        pass
    with sqlite3.connect(settings.data_dir / "diminuendo.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    text = await refusal(settings)
    assert "is at revision '9999', which this version of diminuendo does not know" in text


async def test_a_file_that_is_no_database_is_refused_and_kept(settings: ConductorSettings) -> None:
    settings.data_dir.mkdir()
    file = settings.data_dir / "diminuendo.db"
    file.write_bytes(b"not a database at all" * 1000)
    assert "cannot be opened" in await refusal(settings)
    assert file.read_bytes().startswith(b"not a database")


async def test_a_host_that_is_none_is_refused(settings: ConductorSettings) -> None:
    text = await refusal(settings, host="no.such.host.invalid")
    assert text.startswith("--host 'no.such.host.invalid' is not an address")
    text = await refusal(settings, host="192.0.2.1")
    assert text.startswith("--port 0 on --host '192.0.2.1' cannot be listened on")
