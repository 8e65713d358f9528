"""A stage: one small layer of a form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """One small layer of a form, of one group of channels.

    Attributes:
        in_channels: Channels that it takes.
        out_channels: Channels that it gives.
        axes: Kernel axes that it works along, with the original's kernel, stride, padding and dilation there; none:
            it is pointwise.
        depthwise: Whether each channel is by itself.
    """

    in_channels: int
    out_channels: int
    axes: tuple[int, ...] = ()
    depthwise: bool = False

    def weights(self, kernel: Sequence[int]) -> int:
        """Elements of its weight."""
        fan_in = 1 if self.depthwise else self.in_channels
        return self.out_channels * fan_in * math.prod(kernel[axis] for axis in self.axes)
