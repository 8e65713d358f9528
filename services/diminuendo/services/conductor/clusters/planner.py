"""Decides how large a cluster is to be, and when its coordinator is to begin anew. Pure: no I/O, no clock.

Up at once, down slowly: a job that waits is worth more than a pod that idles for a while, and pods take minutes to
come.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Group:
    """A group of equal worker pods.

    Attributes:
        evaluators: That one of its pods has room for; 0: none, so that it is not scaled.
        least: Pods that there are always.
        most: Pods that there are at the most.
        gpus: Of one pod.
    """

    name: str
    evaluators: int
    least: int
    most: int
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class Policy:
    """How to decide; see `ClusterSettings`. Times are in seconds."""

    idle_s: float
    keep_s: float
    settle_s: float
    evaluators_per_job: int


@dataclass(frozen=True, slots=True)
class Demand:
    """What there is to compute.

    Attributes:
        jobs: Queued, or in a coordinator's hands.
        works: That an evaluator works on, or that wait for one; None: no coordinator has told.
    """

    jobs: int = 0
    works: int | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """What a round leaves to the next one. A planner that has forgotten it waits once more, and no worse.

    Attributes:
        low_since: Since when fewer evaluators would have done.
        peak: The most that would have been of use since then.
        empty_since: Since when there has been nothing to do and no worker above the least.
    """

    low_since: float | None = None
    peak: int = 0
    empty_since: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be.

    Attributes:
        replicas: Pods of each group.
        delete: The cluster is not worth keeping.
        memory: For the next round.
        due: When another plan may come out although nothing has changed; None: never.
    """

    replicas: Mapping[str, int]
    delete: bool = False
    memory: Memory = field(default_factory=Memory)
    due: float | None = None


def capacity(groups: Sequence[Group], replicas: Mapping[str, int]) -> int:
    """Evaluators that so many pods have room for."""
    return sum(group.evaluators * replicas.get(group.name, 0) for group in groups)


def wanted_evaluators(demand: Demand, policy: Policy) -> int:
    """Evaluators that would be of use now: at least one for each job, once works are known one for each of them."""
    if not demand.jobs:
        return 0
    if demand.works is None:
        return demand.jobs * policy.evaluators_per_job
    return max(demand.jobs, demand.works)


def spread(groups: Sequence[Group], evaluators: int) -> dict[str, int]:
    """Pods of each group for so many evaluators, as far as there may be: the first groups are filled first."""
    rest = evaluators - sum(group.evaluators * group.least for group in groups)
    result = {}
    for group in groups:
        more = 0
        if rest > 0 and group.evaluators:
            more = min(group.most - group.least, math.ceil(rest / group.evaluators))
            rest -= more * group.evaluators
        result[group.name] = group.least + more
    return result


def plan(
    now: float, demand: Demand, have: Mapping[str, int], groups: Sequence[Group], policy: Policy, memory: Memory
) -> Plan:
    """How a cluster of `have` pods is to be.

    Args:
        now: Seconds of any clock that only goes forward.
        have: Pods that are asked for so far, of each group.
    """
    wanted = wanted_evaluators(demand, policy)
    target = spread(groups, wanted)
    room, needed = capacity(groups, have), capacity(groups, target)
    if needed > room:
        return Plan(target)
    if needed == room:
        return Plan(have) if demand.jobs else _empty(now, have, policy, memory)
    since = now if memory.low_since is None else memory.low_since
    peak = max(memory.peak, wanted)
    if now < since + policy.idle_s:
        return Plan(have, memory=Memory(low_since=since, peak=peak), due=since + policy.idle_s)
    return Plan(spread(groups, peak))


def _empty(now: float, have: Mapping[str, int], policy: Policy, memory: Memory) -> Plan:
    """Nothing to do, and no worker to take away."""
    since = now if memory.empty_since is None else memory.empty_since
    if now < since + policy.keep_s:
        return Plan(have, memory=Memory(empty_since=since), due=since + policy.keep_s)
    return Plan(have, delete=True, memory=Memory(empty_since=since))


def renewal(
    *, began_with: int, began: float, ready: int, ready_since: float, asked: int, settle_s: float
) -> float | None:
    """When a coordinator is to begin anew because evaluators were added or went; None: it need not.

    A coordinator counts its cluster once, when it begins; what it works on then is lost. So it waits until all that was
    asked for is there, or no more has come for a while.

    Args:
        began_with: Evaluators that there was room for when it began, at `began`.
        ready: Evaluators that there is room for now, unchanged since `ready_since`.
        asked: Evaluators that there will be room for.
    """
    if ready in (began_with, 0):
        return None
    steady = ready_since if ready == asked else ready_since + settle_s
    return max(began + settle_s, steady)
