from __future__ import annotations

from collections.abc import Iterator

import pytest

from diminuendo.engine.stopwatch import threads_set


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are slowed down by a second thread, the more so beside other tests."""
    with threads_set(1):
        yield
