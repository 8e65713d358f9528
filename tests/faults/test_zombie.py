"""A coordinator that was stopped past its lease and goes on: what it writes is refused, and it is of use again."""

from __future__ import annotations

import pytest
from diminuendo.v1 import job_pb2
from tests.faults.conftest import SPEC
from tests.faults.history import Wrote, violations
from tests.faults.points import BY_NAME
from tests.faults.rig import LOSES, Database, Decided, Rig, until

LEASE_S = 3.0

pytestmark = pytest.mark.faults


def refused(rig: Rig, name: str, epoch: int) -> list[str]:
    """Methods of the writes under an epoch that were refused."""
    return [w.method for w in rig.history(name).seen if isinstance(w, Wrote) and w.epoch == epoch and not w.accepted]


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
@pytest.mark.parametrize("point", ["annealing", "certifying"])
def test_a_zombie_changes_nothing(rig: Rig, expected: Decided, database: Database, point: str) -> None:
    rig.fresh(database, lease_s=LEASE_S)
    hold = rig.moments.hold(BY_NAME[point].meant)
    rig.open()
    name = rig.create(SPEC)
    assert hold.reached.wait(60), rig.said(name)
    zombie = rig.coordinators["one"]
    zombie.pause()
    rig.record.killed("the zombie", LOSES["coordinator"])
    hold.let_go()  # its evaluators work to the end, and nobody takes their outcomes
    rig.coordinate("two")
    try:
        job = rig.finish(name)
        assert job.state == job_pb2.JOB_STATE_SUCCEEDED
        before = rig.history(name)
        assert before.epoch > 1
        zombie.go_on()
        assert until(lambda: "Heartbeat" in refused(rig, name, 1) or len(refused(rig, name, 1)) > 1), rig.said(name)
        after = rig.history(name)
        assert violations(after) == []
        assert after.events == before.events
        assert after.steps == before.steps
        assert rig.decided(name) == expected
    finally:
        zombie.go_on()
        rig.coordinators.pop("two").kill()

    other = job_pb2.JobSpec()
    other.CopyFrom(SPEC)
    other.seed += 1
    next_one = rig.create(other, request_id="two")
    assert rig.finish(next_one).state == job_pb2.JOB_STATE_SUCCEEDED
    assert rig.coordinators["one"] is zombie
    log = rig.history(next_one).events
    assert [e.leased.coordinator for e in log if e.HasField("leased")] == ["one"]
    assert violations(rig.history(next_one)) == []
