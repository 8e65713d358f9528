"""A made-up device: what a network takes on it is known, so that what is measured can be checked."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

CALL_US = 10.0
"""Of each call of a layer."""
BLOCK = 4
"""Channels are computed in blocks of so many, whole or not."""
US_PER_MAC = 0.001
OTHER_US = 3.0
"""Of each BatchNorm."""

_CONVOLUTIONS = (torch.conv1d, torch.conv2d)
_LINEAR = torch._C._nn.linear


def blocks(channels: int) -> int:
    """Channels that are computed for so many."""
    return BLOCK * math.ceil(channels / BLOCK)


class Device(TorchFunctionMode):
    """Convolutions and linear layers take time by their blocks of output channels; also the device's clock.

    Attributes:
        now: Microseconds.
        slow: Factor on everything, for a machine that gets busier.
        calls: Of convolutions and linear layers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.slow = 1.0
        self.calls = 0

    def mark(self) -> float:
        return self.now

    def ms(self, start: float, end: float) -> float:
        return 1e-3 * (end - start)

    def __torch_function__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _CONVOLUTIONS or func is _LINEAR:
            weight = args[1]
            out, fan_in = weight.shape[0], weight[0].numel()
            positions = result.numel() // out
            self.calls += 1
            self.now += self.slow * (CALL_US + US_PER_MAC * positions * blocks(out) * fan_in)
        elif func is torch.nn.functional.batch_norm:
            self.now += self.slow * OTHER_US
        return result


def takes_us(positions: int, *stages: tuple[int, int]) -> float:
    """Of a chain of (out channels, weights of each output channel), all with as many positions."""
    return sum(CALL_US + US_PER_MAC * positions * blocks(out) * fan_in for out, fan_in in stages)
