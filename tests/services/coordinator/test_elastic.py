"""Evaluators that come as works wait and go when none do: what lets a cluster grow from nothing and shrink again."""

from __future__ import annotations

import pytest
from tests.services.coordinator.conftest import Executors, collect
from tests.services.coordinator.workers import SCRIPTED, evaluate
from tests.waiting import until

from diminuendo.services.common.errors import StartError
from diminuendo.services.coordinator.cluster import Cluster, Share, _divide
from diminuendo.services.coordinator.dispatcher import Limits
from diminuendo.services.coordinator.executor import RayExecutor
from diminuendo.services.coordinator.remote import options
from diminuendo.services.coordinator.settings import CoordinatorSettings

BRIEF = Limits(idle_s=0.3, look_s=0.1)
WAIT_S = 90.0
"""Processes start slowly on a busy machine."""


def started(shared: RayExecutor) -> list[str]:
    """Evaluators that have ever had a process."""
    return shared.ask(lambda: [slot.name for slot in shared._dispatcher._slots if slot.incarnation])


def test_none_is_there_before_a_work_and_none_long_after(executors: Executors) -> None:
    executor = executors(SCRIPTED, evaluators=2, limits=BRIEF)
    shared = executor.evaluators
    assert shared.ask(lambda: True), "the dispatcher runs"
    assert shared.standings == ()
    executor.submit(evaluate(0, "sleep 0.2"))
    assert [done.work.index for done in collect(executor, 1, WAIT_S)] == [0]
    assert started(shared) == ["evaluator-0"], "one work waited: one evaluator came, not two"
    assert until(lambda: shared.standings == (), WAIT_S)
    for index in range(1, 5):
        executor.submit(evaluate(index, "sleep 0.2"))
    assert {done.work.index for done in collect(executor, 4, WAIT_S)} == {1, 2, 3, 4}
    assert started(shared) == ["evaluator-0", "evaluator-1"]
    assert until(lambda: shared.standings == (), WAIT_S)


def test_one_that_is_lost_at_work_comes_back_for_it(executors: Executors) -> None:
    executor = executors(SCRIPTED, evaluators=1, limits=BRIEF)
    executor.submit(evaluate(0, "kill-once marker"))
    assert [done.work.index for done in collect(executor, 1, WAIT_S)] == [0]
    assert executor.stats().attempts_lost == 1
    assert until(lambda: executor.evaluators.standings == (), WAIT_S)


def test_without_a_limit_all_are_there_and_stay(executors: Executors) -> None:
    executor = executors(SCRIPTED, evaluators=2, limits=Limits(look_s=0.1))
    assert until(lambda: [one.state for one in executor.evaluators.standings] == ["idle", "idle"], WAIT_S)


def test_nodes_need_not_be_there_yet() -> None:
    """The cluster of the tests, which is not asked, would have no room."""
    assert _divide(64, 2.0) == Cluster(64, Share(0.0, 2.0))
    assert _divide(64, 0.0) == Cluster(64, Share(1.0, 0.0))


def test_how_much_says_not_how_many() -> None:
    with pytest.raises(StartError, match="give evaluators as well"):
        CoordinatorSettings.load(evaluator_gpus=1.0)


def test_a_coordinator_over_there_is_told() -> None:
    settings = CoordinatorSettings.load(evaluators=4, evaluator_gpus=0.5, idle_s=120.0, ray_address="http://h:8265")
    flags = list(options(settings))
    for option, value in (("--evaluator-gpus", "0.5"), ("--idle-s", "120.0"), ("--evaluators", "4")):
        assert flags[flags.index(option) + 1] == value
