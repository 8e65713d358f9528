"""Cells with the product's own worker: a digits network is really surveyed, tuned and judged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from diminuendo.v1 import job_pb2
from tests.faults.conftest import undisturbed
from tests.faults.points import BY_NAME
from tests.faults.rig import Database, Decided, Rig, Victim, rigged
from tests.faults.test_matrix import survive
from tests.faults.workers import REAL

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

LONG_S = 240.0
SPEC = job_pb2.JobSpec(
    zoo="digits",
    delta=1.0,
    seed=7,
    effort=job_pb2.EFFORT_QUICK,
    formats=["svd"],
    budget=job_pb2.Budget(evaluations=5, epochs=24),
)


@pytest.fixture(scope="module")
def at_work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rigged(tmp_path_factory.mktemp("real"), worker=REAL) as rig:
        yield rig


@pytest.fixture(scope="module")
def decided(at_work: Rig) -> Decided:
    return undisturbed(at_work, "sqlite", SPEC, timeout_s=LONG_S)


@pytest.mark.parametrize(
    ("database", "victim", "point"),
    [
        ("sqlite", "evaluator", "surveying"),
        ("sqlite", "coordinator", "uploading"),
        ("postgres", "conductor", "certifying"),
        ("postgres", "postgres", "uploading"),
    ],
)
def test_a_job_survives(at_work: Rig, decided: Decided, database: Database, victim: Victim, point: str) -> None:
    at_work.fresh(database)
    survive(at_work, victim, replace(BY_NAME[point], skip=0), SPEC, decided, timeout_s=LONG_S)
