"""What a search makes small, and what it keeps inside limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from diminuendo.engine.cost import Cost

ObjectiveName = Literal["params", "macs", "size", "memory", "latency"]
OBJECTIVES: tuple[ObjectiveName, ...] = get_args(ObjectiveName)

UNITS: dict[ObjectiveName, int] = {"params": 1, "macs": 1, "size": 2**20, "memory": 2**20, "latency": 10**6}
"""What one unit of a limit is: of size and memory a MB of 2^20 bytes, of latency a ms of 10^6 ns."""

LATENCY_MARGIN = 0.05
"""Share of a limit or a target of latency that is kept back: finalists are timed, candidates told by a table."""

Limits = tuple[tuple[ObjectiveName, float], ...]


def amount(cost: Cost, name: ObjectiveName) -> int:
    """One figure of a cost: params, MACs, bytes of size and of memory, or ns of latency."""
    if name == "params":
        return cost.params
    if name == "macs":
        return cost.macs
    if name == "latency":
        return cost.latency_ns
    return cost.size_bytes if name == "size" else cost.memory_bytes


def shown(name: ObjectiveName, units: float) -> str:
    """A figure for a person: ``1,234 params``, ``0.5 MB of size``, ``2.5 ms of latency``."""
    if UNITS[name] == 1:
        return f"{units:,.0f} {name}"
    return f"{units:.4g} {'ms' if name == 'latency' else 'MB'} of {name}"


@dataclass(frozen=True, slots=True)
class Goal:
    """The figure that gets as small as it can, and the largest that others may be.

    Attributes:
        limits: In params, MACs, MB of 2^20 bytes, or ms.
        target: The most that the objective may be, where the least drop within it is looked for; in the same units.
    """

    objective: ObjectiveName = "params"
    limits: Limits = ()
    target: float | None = None

    def amount(self, cost: Cost) -> int:
        """The objective's figure; at least 1, so that ratios and logarithms are defined."""
        return max(1, amount(cost, self.objective))

    @property
    def bounds(self) -> tuple[tuple[ObjectiveName, float], ...]:
        """The limits as the search keeps them, see `bound`."""
        return tuple((name, self.bound(name, most)) for name, most in self.limits)

    @staticmethod
    def bound(name: ObjectiveName, most: float) -> float:
        """A limit or a target in the units of `amount`; of latency all but `LATENCY_MARGIN`."""
        return most * UNITS[name] * (1.0 - LATENCY_MARGIN if name == "latency" else 1.0)

    @property
    def timed(self) -> bool:
        """Whether forms have to be timed."""
        return "latency" in (self.objective, *(name for name, _ in self.limits))

    @property
    def most(self) -> float:
        """The target as the search keeps it, see `bound`; infinite where there is none."""
        return math.inf if self.target is None else self.bound(self.objective, self.target)

    def over(self, cost: Cost) -> float:
        """By how much limits and target are broken: the sum of logarithms; 0 when all are kept."""
        bounds = (*self.bounds, (self.objective, self.most))
        return sum(math.log(max(1.0, amount(cost, name) / bound)) for name, bound in bounds)

    def kept(self, cost: Cost) -> bool:
        """Whether a network of this cost is inside all limits and the target."""
        return self.amount(cost) <= self.most and all(amount(cost, name) <= bound for name, bound in self.bounds)
