from __future__ import annotations

import pytest
from tests.engine.search.world import World


@pytest.fixture
def world() -> World:
    return World()
