"""One thread of torch, for tests whose tensors are so small that threads mostly wait for each other.

Imported by a test module, or by a folder's conftest, a fixture holds there.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from diminuendo.engine.stopwatch import threads_set


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """In each test."""
    with threads_set(1):
        yield


@pytest.fixture(scope="module", autouse=True)
def one_thread_throughout() -> Iterator[None]:
    """In each test module, from its first fixture on."""
    with threads_set(1):
        yield
