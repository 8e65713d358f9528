"""What a layer or a network costs. Imports no torch.

``params`` are elements of trainable parameters; ``macs`` are multiply-adds of one sample, never FLOPs. The rules are
those of `diminuendo.engine.profile`.
"""

from __future__ import annotations

from dataclasses import dataclass

ACTIVATION_BYTES = 4
"""Of each element of an activation."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a layer, a form of it, or a network costs, for one sample.

    Attributes:
        size_bytes: Of the trainable parameters.
        elements: Of the outputs that count for memory; of a network those of its input too.
        latency_ns: Time of a forward as `diminuendo.engine.latency` measures it; 0 where nobody asked for it.
    """

    params: int
    macs: int
    size_bytes: int = 0
    elements: int = 0
    latency_ns: int = 0

    @property
    def memory_bytes(self) -> int:
        """Footprint: size, and `ACTIVATION_BYTES` for each element."""
        return self.size_bytes + ACTIVATION_BYTES * self.elements

    def __add__(self, other: Cost) -> Cost:
        """Costs of parts add up."""
        return Cost(
            self.params + other.params,
            self.macs + other.macs,
            self.size_bytes + other.size_bytes,
            self.elements + other.elements,
            self.latency_ns + other.latency_ns,
        )

    def __sub__(self, other: Cost) -> Cost:
        """The rest after taking a part away."""
        return Cost(
            self.params - other.params,
            self.macs - other.macs,
            self.size_bytes - other.size_bytes,
            self.elements - other.elements,
            self.latency_ns - other.latency_ns,
        )


def ratio(original: float, compressed: float) -> float:
    """``original / compressed``: 2.0 is half. Infinite when nothing is left."""
    return original / compressed if compressed > 0 else float("inf")
