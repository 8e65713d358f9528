"""What a layer or a network costs. Imports no torch.

``params`` are elements of trainable parameters; ``macs`` are multiply-adds of one sample, never FLOPs.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cost:
    """Params and MACs of a layer, of a form of it, or of a network (per sample)."""

    params: int
    macs: int

    def __add__(self, other: Cost) -> Cost:
        """Costs of parts add up."""
        return Cost(self.params + other.params, self.macs + other.macs)

    def __sub__(self, other: Cost) -> Cost:
        """The rest after taking a part away."""
        return Cost(self.params - other.params, self.macs - other.macs)


def ratio(original: float, compressed: float) -> float:
    """``original / compressed``: 2.0 is half. Infinite when nothing is left."""
    return original / compressed if compressed > 0 else float("inf")
