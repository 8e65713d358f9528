"""Bundles to make fleets of, and a conductor for all tests of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.client.conductor import Conductor
from tests.client.fleet.conductor import Player

from diminuendo.client import Client, ClientConfig

MakeBundle = Callable[..., Path]


@pytest.fixture(scope="module")
def conductor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Conductor]:
    conductor = Conductor(tmp_path_factory.mktemp("conductor"))
    yield conductor
    conductor.stop()


@pytest.fixture
def project(request: pytest.FixtureRequest) -> str:
    """One of the test's own."""
    return f"p-{abs(hash(request.node.nodeid)) % 10**8}"


@pytest.fixture
def client(conductor: Conductor, project: str) -> Iterator[Client]:
    with Client(conductor.target, project=project, config=ClientConfig(patience_s=40, page_size=2)) as client:
        yield client


@pytest.fixture
def player(conductor: Conductor, project: str) -> Iterator[Player]:
    player = Player(conductor, project)
    yield player
    player.close()


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """Writes a bundle's folder under the test's own; `text` tells its content from others'."""

    def make(name: str, text: str = "") -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "task.py").write_text(f"# {text}\ndef task():\n    return None\n")
        return folder

    return make
