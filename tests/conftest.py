"""What all tests share."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator

import pytest
import structlog

if "PYTEST_XDIST_WORKER" in os.environ:
    # For whoever loads torch after this, here and in children. With workers side by side, and as many threads in each
    # as there are cores, threads wait for each other actively.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

if "grpc" in sys.modules:
    raise RuntimeError("grpc was imported before the coordinator could say that it has no part in forks: see there")
import diminuendo.services.coordinator  # noqa: F401 - what it sets for Ray counts only before grpc is imported

# isort: split
from tests.postgres import Postgres

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Shells start background commands with SIGINT ignored, and children inherit that: Ctrl-C could not be tested.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the file that is last by name and takes two minutes: the other worker would wait for it in the end."""
    items.sort(key=lambda item: item.path.name != "test_serve.py")


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A test that runs a command in this process leaves no logging of it to the tests after it."""
    config, handlers, level = structlog.get_config(), logging.root.handlers[:], logging.root.level
    yield
    structlog.configure(**config)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One PostgreSQL server for all tests, which nobody stops; each takes a database of its own."""
    server = Postgres()
    yield server
    server.close()
