"""A coordinator that was stopped past its lease and goes on: it changes nothing, and it is of use again."""

from __future__ import annotations

import pytest
from diminuendo.v1 import job_pb2
from tests.faults.conftest import SPEC
from tests.faults.history import Started, Wrote, violations
from tests.faults.moments import Moment
from tests.faults.points import BY_NAME
from tests.faults.rig import LOSES, Database, Decided, Rig

LEASE_S, EVALUATORS = 3.0, 2

pytestmark = pytest.mark.faults


def asks_for_another_job(moment: Moment) -> bool:
    return moment.where == "call" and moment.name == "LeaseJob" and moment.message.coordinator == "one"


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
@pytest.mark.parametrize("point", ["reported", "annealing"])
def test_a_zombie_changes_nothing(rig: Rig, expected: Decided, database: Database, point: str) -> None:
    rig.fresh(database, lease_s=LEASE_S)
    hold = rig.moments.hold(BY_NAME[point].meant, skip=BY_NAME[point].skip)
    rig.open()
    name = rig.create(SPEC)
    assert hold.reached.wait(60), rig.said(name)
    zombie = rig.coordinators["one"]
    zombie.pause()
    rig.record.killed("the zombie", LOSES["coordinator"], lasting=True)  # a work may be on its way to an evaluator
    hold.let_go("drop")  # its evaluators work to the end, and nobody takes their outcomes
    rig.coordinate("two")
    try:
        job = rig.finish(name)
        assert job.state == job_pb2.JOB_STATE_SUCCEEDED
        before = rig.history(name)
        assert before.epoch > 1
        assert violations(before) == []
        if point == "reported":  # what it had sent arrives only now
            assert hold.moment is not None
            assert rig.refusal_of(hold.moment) == "STALE_EPOCH"
        idle = rig.moments.hold(asks_for_another_job)
        zombie.go_on()
        assert idle.reached.wait(60), rig.said(name)
        idle.let_go()
        after = rig.history(name)
        woken = after.seen[len(before.seen) :]
        assert not [one for one in woken if isinstance(one, Wrote) and one.accepted]
        assert sum(isinstance(one, Started) for one in woken) <= EVALUATORS  # begun before it noticed, and given up
        assert (after.events, after.steps, after.reports) == (before.events, before.steps, before.reports)
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
    assert {e.leased.coordinator for e in log if e.HasField("leased")} == {"one"}
    assert violations(rig.history(next_one)) == []
