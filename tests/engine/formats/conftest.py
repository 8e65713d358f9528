from __future__ import annotations

from tests.engine.threads import one_thread_throughout  # noqa: F401 - a fixture
