"""What is decided, without anything being done."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diminuendo.services.conductor.clusters.backoff import Backoff
from diminuendo.services.conductor.clusters.planner import (
    Demand,
    Group,
    Memory,
    Policy,
    capacity,
    plan,
    renewal,
    spread,
    wanted_evaluators,
)

POLICY = Policy(idle_s=300, keep_s=3600, settle_s=60, evaluators_per_job=4)
GROUPS = (Group("gpu", 2, 0, 4, gpus=2), Group("more", 1, 1, 3, gpus=1))
NONE = {"gpu": 0, "more": 1}


@st.composite
def groups(draw: st.DrawFn) -> tuple[Group, ...]:
    sizes = draw(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=4))
    return tuple(Group(f"g{i}", room, least, least + more) for i, (room, least, more) in enumerate(sizes))


def test_how_many_are_of_use() -> None:
    assert wanted_evaluators(Demand(0, None), POLICY) == 0
    assert wanted_evaluators(Demand(0, 7), POLICY) == 0, "what no job is of is about to be given up"
    assert wanted_evaluators(Demand(3, None), POLICY) == 12
    assert wanted_evaluators(Demand(3, 7), POLICY) == 7
    assert wanted_evaluators(Demand(9, 2), POLICY) == 9, "one for each job that waits"


@pytest.mark.parametrize(
    ("evaluators", "pods"), [(0, (0, 1)), (1, (0, 1)), (2, (1, 1)), (9, (4, 1)), (10, (4, 2)), (99, (4, 3))]
)
def test_the_first_groups_are_filled_first(evaluators: int, pods: tuple[int, int]) -> None:
    assert tuple(spread(GROUPS, evaluators).values()) == pods


@settings(max_examples=50)
@given(groups(), st.integers(0, 200), st.integers(0, 50))
def test_pods_suffice_and_are_within_bounds(some: tuple[Group, ...], evaluators: int, more: int) -> None:
    pods = spread(some, evaluators)
    assert all(group.least <= pods[group.name] <= group.most for group in some)
    full = sum(group.evaluators * group.most for group in some)
    assert capacity(some, pods) >= min(evaluators, full)
    larger = spread(some, evaluators + more)
    assert all(larger[name] >= count for name, count in pods.items()), "more evaluators never take a pod away"


def test_up_at_once() -> None:
    assert plan(0, Demand(2), NONE, GROUPS, POLICY, Memory()).replicas == {"gpu": 4, "more": 1}


def test_down_to_the_most_that_was_of_use_for_a_while() -> None:
    have, memory = {"gpu": 4, "more": 3}, Memory()
    for now, works in ((0, 2), (100, 5), (299, 1)):
        decided = plan(now, Demand(1, works), have, GROUPS, POLICY, memory)
        assert (decided.replicas, decided.due) == (have, 300)
        memory = decided.memory
    decided = plan(300, Demand(1, 1), have, GROUPS, POLICY, memory)
    assert capacity(GROUPS, decided.replicas) == 5
    assert decided.memory == Memory(), "what comes next is counted anew"


def test_enough_to_do_for_a_moment_begins_the_wait_anew() -> None:
    have = {"gpu": 4, "more": 3}
    memory = plan(0, Demand(1, 1), have, GROUPS, POLICY, Memory()).memory
    memory = plan(200, Demand(1, 11), have, GROUPS, POLICY, memory).memory
    assert plan(400, Demand(1, 1), have, GROUPS, POLICY, memory).due == 700


def test_without_jobs_workers_go_and_then_the_cluster() -> None:
    memory = plan(0, Demand(), {"gpu": 2, "more": 1}, GROUPS, POLICY, Memory()).memory
    decided = plan(300, Demand(), {"gpu": 2, "more": 1}, GROUPS, POLICY, memory)
    assert (decided.replicas, decided.delete) == (NONE, False)
    decided = plan(301, Demand(), NONE, GROUPS, POLICY, decided.memory)
    assert (decided.delete, decided.due) == (False, 301 + 3600)
    assert plan(3900, Demand(), NONE, GROUPS, POLICY, decided.memory).delete is False
    assert plan(3901, Demand(), NONE, GROUPS, POLICY, decided.memory).delete is True


@settings(max_examples=50, deadline=None)
@given(
    groups(),
    st.lists(st.tuples(st.floats(0.1, 400), st.integers(0, 5), st.none() | st.integers(0, 60)), max_size=30),
)
def test_no_pod_goes_before_its_time(some: tuple[Group, ...], course: list[tuple[float, int, int | None]]) -> None:
    """Over any course of demand: a size that was reached stays until it was too large for all of the idle time."""
    now, have, memory = 0.0, {group.name: group.least for group in some}, Memory()
    needed: list[tuple[float, int]] = []
    for after, jobs, works in course:
        now += after
        demand = Demand(jobs, works)
        needed.append((now, capacity(some, spread(some, wanted_evaluators(demand, POLICY)))))
        decided = plan(now, demand, have, some, POLICY, memory)
        before, room = capacity(some, have), capacity(some, decided.replicas)
        assert room >= needed[-1][1], "never fewer than are of use"
        if room < before:
            assert all(asked < before for when, asked in needed if when > now - POLICY.idle_s)
        assert decided.due is None or decided.due > now
        have, memory = dict(decided.replicas), decided.memory


def test_a_coordinator_begins_anew_when_the_size_is_steady() -> None:
    def due(ready: int, asked: int, *, ready_since: float = 500.0, began: float = 0.0) -> float | None:
        return renewal(began_with=2, began=began, ready=ready, ready_since=ready_since, asked=asked, settle_s=60)

    assert due(2, 8) is None, "nothing has changed"
    assert due(0, 8) is None, "there is nothing to begin with"
    assert due(8, 8) == 500, "all are there"
    assert due(4, 8) == 560, "some are, and more may come"
    assert due(1, 8) == 560
    assert due(8, 8, began=480) == 540, "not twice within the time"


def test_delays_grow_to_a_bound_and_differ() -> None:
    low = Backoff(1, 10, random_part=lambda least, most: least)
    assert [low.next() for _ in range(6)] == [0.5, 1, 2, 4, 5, 5]
    low.reset()
    assert low.next() == 0.5
    assert low.next(at_least_s=7) == 7
    assert len({Backoff(1, 10).next() for _ in range(5)}) > 1
