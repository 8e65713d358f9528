"""Clients of the scripted server on asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

from diminuendo.client import AsyncClient, ClientConfig

if TYPE_CHECKING:
    from tests.client.conftest import FakeServer, Recorded


@pytest.fixture
async def aclient(fake: FakeServer, quick: ClientConfig) -> AsyncIterator[AsyncClient]:
    """A client of the scripted server."""
    async with AsyncClient(fake.target, config=quick) as client:
        yield client


@pytest.fixture
def stored(fake: FakeServer, recorded: Recorded) -> dict[str, bytes]:
    """The recorded job with its files on the server, by name."""
    fake.add(recorded.job(), recorded.events())
    fake.contents = recorded.contents()
    return recorded.files
