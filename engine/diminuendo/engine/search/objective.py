"""What a search makes small, and what it keeps inside limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from diminuendo.engine.cost import Cost

ObjectiveName = Literal["params", "macs", "size", "memory"]
OBJECTIVES: tuple[ObjectiveName, ...] = get_args(ObjectiveName)

UNITS: dict[ObjectiveName, int] = {"params": 1, "macs": 1, "size": 2**20, "memory": 2**20}
"""What one unit of a limit is: of size and memory a MB of 2^20 bytes."""

Limits = tuple[tuple[ObjectiveName, float], ...]


def amount(cost: Cost, name: ObjectiveName) -> int:
    """One figure of a cost: params, MACs, or bytes of size and of memory."""
    if name == "params":
        return cost.params
    if name == "macs":
        return cost.macs
    return cost.size_bytes if name == "size" else cost.memory_bytes


def shown(name: ObjectiveName, units: float) -> str:
    """A figure for a person: ``1,234 params``, ``0.5 MB of size``."""
    return f"{units:,.0f} {name}" if UNITS[name] == 1 else f"{units:.4g} MB of {name}"


@dataclass(frozen=True, slots=True)
class Goal:
    """The figure that gets as small as it can, and the largest that others may be.

    Attributes:
        limits: In params, MACs, or MB of 2^20 bytes.
    """

    objective: ObjectiveName = "params"
    limits: Limits = ()

    def amount(self, cost: Cost) -> int:
        """The objective's figure; at least 1, so that ratios and logarithms are defined."""
        return max(1, amount(cost, self.objective))

    @property
    def bounds(self) -> tuple[tuple[ObjectiveName, float], ...]:
        """The limits in the units of `amount`."""
        return tuple((name, most * UNITS[name]) for name, most in self.limits)

    def over(self, cost: Cost) -> float:
        """By how much limits are broken: the sum of logarithms; 0 when all are kept."""
        return sum(math.log(max(1.0, amount(cost, name) / bound)) for name, bound in self.bounds)

    def kept(self, cost: Cost) -> bool:
        """Whether a network of this cost is inside all limits."""
        return all(amount(cost, name) <= bound for name, bound in self.bounds)
