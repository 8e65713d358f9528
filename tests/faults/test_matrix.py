"""The crash matrix: whoever is killed at whatever point of a job, it ends once, and as it would have ended anyway."""

from __future__ import annotations

from itertools import product

import pytest
from diminuendo.v1 import job_pb2
from tests.faults.conftest import SPEC
from tests.faults.history import violations
from tests.faults.points import BY_NAME, POINTS, Named
from tests.faults.rig import LOSES, Database, Decided, Rig, Victim

SAMPLE = {
    ("sqlite", "conductor", "reported"),
    ("sqlite", "conductor", "leased"),
    ("sqlite", "evaluator", "annealing"),
    ("postgres", "postgres", "committed"),
}
"""The cells that run with every other test; the rest with `make test-faults`."""


def cells() -> list[object]:
    databases: tuple[Database, ...] = ("sqlite", "postgres")
    every = product(databases, LOSES, (point.name for point in POINTS))
    return [
        pytest.param(*cell, marks=() if cell in SAMPLE else pytest.mark.faults)
        for cell in every
        if cell[:2] != ("sqlite", "postgres")
    ]


def survive(
    rig: Rig, victim: Victim, there: Named, spec: job_pb2.JobSpec, expected: Decided, *, timeout_s: float = 90.0
) -> None:
    """One cell, on a fresh conductor."""
    hold = rig.moments.hold(there.meant, skip=there.skip)
    rig.open()
    if there.before_job:
        assert hold.reached.wait(180)  # Ray may take a minute to start where others want the cores
    name = rig.create(spec)
    assert hold.reached.wait(timeout_s), rig.said(name)
    rig.kill(victim, hold)
    job = rig.finish(name, timeout_s=timeout_s)
    assert violations(rig.history(name)) == []
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED
    assert rig.decided(name) == expected


@pytest.mark.parametrize(("database", "victim", "point"), cells())
def test_a_job_survives(rig: Rig, expected: Decided, database: Database, victim: Victim, point: str) -> None:
    rig.fresh(database)
    survive(rig, victim, BY_NAME[point], SPEC, expected)
