"""One rig for all cells with made-up works, and what their job decides when nobody is killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from diminuendo.v1 import job_pb2
from tests.faults.history import violations
from tests.faults.rig import Database, Decided, Rig, rigged

SPEC = job_pb2.JobSpec(
    zoo="digits", delta=1.0, seed=7, effort=job_pb2.EFFORT_QUICK, budget=job_pb2.Budget(evaluations=20)
)


@pytest.fixture(scope="session")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rigged(tmp_path_factory.mktemp("rig")) as rig:
        yield rig


@pytest.fixture(scope="session")
def expected(rig: Rig) -> Decided:
    return undisturbed(rig, "sqlite", SPEC)


def undisturbed(rig: Rig, database: Database, spec: job_pb2.JobSpec, *, timeout_s: float = 90.0) -> Decided:
    """What a job decides when nobody is killed."""
    rig.fresh(database)
    rig.open()
    name = rig.create(spec)
    rig.finish(name, timeout_s=timeout_s)
    assert violations(rig.history(name)) == []
    return rig.decided(name)
