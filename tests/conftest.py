"""What all tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from tests.postgres import Postgres

import diminuendo.services.coordinator  # noqa: F401 - what it sets for Ray counts only before grpc is imported

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Shells start background commands with SIGINT ignored, and children inherit that: Ctrl-C could not be tested.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One PostgreSQL server for all tests, which nobody stops; each takes a database of its own."""
    server = Postgres()
    yield server
    server.close()
