"""An entry of the table of modules: what is built, what it is given, and what must be found in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

SAMPLES = 4


@dataclass(frozen=True)
class Entry:
    """One kind of module or model.

    Attributes:
        name: Of the test.
        build: Makes it, with the global random numbers that the test seeds.
        inputs: Makes `SAMPLES` samples.
        found: Layers that must be found: their names, or, in models of many layers, how many.
        dense: What must be left dense: regular expressions of name and reason. Each name must match one of them, and
            each of them some name.
        tolerance: Of outputs at full ranks, relative to the largest.
        hooks_itself: Whether it puts hooks on its modules when it is first run.
        routed: Whether the data decide which layers are called.
        random: Whether it draws random numbers in eval mode.
        warnings: Regular expressions of what torch may warn of.
        slow: Takes more than 20 seconds.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    found: tuple[str, ...] | int
    dense: Mapping[str, str] = field(default_factory=dict)
    tolerance: float = 1e-5
    hooks_itself: bool = False
    routed: bool = False
    random: bool = False
    warnings: tuple[str, ...] = ()
    slow: bool = False

    def __str__(self) -> str:
        return self.name


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Callable[[], Tensor]:
    """Samples of this shape, of a mean and a spread that are not 0 and 1."""
    return lambda: (torch.randn(SAMPLES, *shape) * 0.7 + 0.3).to(dtype)


def tokens(length: int, vocabulary: int) -> Callable[[], Tensor]:
    """Indices (SAMPLES, length)."""
    return lambda: torch.randint(0, vocabulary, (SAMPLES, length))
