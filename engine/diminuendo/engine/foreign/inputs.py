"""What a network of a file takes, and random inputs to try it on.

Legend: N samples, the first dimension of every input.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx


@dataclass(frozen=True)
class NetworkInput:
    """One input of a network.

    Attributes:
        name: Its name as an argument of the network.
        shape: (N, ...); None for a size that may vary, as N does always.
        dtype: Of its values.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: torch.dtype

    def __str__(self) -> str:
        """For people: ``x: (N, 3, 32, 32) float32``."""
        sizes = ["N", *("?" if size is None else str(size) for size in self.shape[1:])]
        return f"{self.name}: ({', '.join(sizes)}{',' if len(sizes) == 1 else ''}) {str(self.dtype)[6:]}"


@dataclass(frozen=True)
class Imported:
    """A network made from a file, and the file's own way to compute it.

    Attributes:
        network: In eval mode.
        inputs: What it takes, in order.
        reference: Inputs of the `batch` -> the tensors of the file's outputs, in the order of the network's.
        batch: Samples that the file is made for; None when it takes any number.
        sizes: Of the dimensions that may vary, to try it with: by input, one for each dimension.
        tops: By input of whole numbers, the first value that is too large.
    """

    network: fx.GraphModule
    inputs: tuple[NetworkInput, ...]
    reference: Callable[[Sequence[Tensor]], list[Tensor]]
    batch: int | None
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    tops: Mapping[str, int] = field(default_factory=dict)


def argument(name: str) -> str:
    """A name as that of an argument in Python."""
    clean = re.sub(r"\W", "_", name) or "input"
    return f"_{clean}" if clean[0].isdigit() or keyword.iskeyword(clean) else clean


def random_inputs(
    inputs: Sequence[NetworkInput],
    count: int,
    sizes: Mapping[str, tuple[int, ...]],
    tops: Mapping[str, int],
    seed: int,
) -> list[Tensor]:
    """Random values for each input: normal ones, whole numbers from 0 below its top, or true and false.

    Args:
        count: N.
        sizes: By input, for the dimensions after the first that may vary.
        tops: By input; 2 for others.
        seed: Of all of it.
    """
    generator = torch.Generator().manual_seed(seed)
    made = []
    for each in inputs:
        rest = [size or sizes[each.name][place] for place, size in enumerate(each.shape) if place]
        made.append(_random(each.dtype, [count, *rest], tops.get(each.name, 2), generator))
    return made


def _random(dtype: torch.dtype, shape: list[int], top: int, generator: torch.Generator) -> Tensor:
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    high = 2 if dtype == torch.bool else max(1, top)
    return torch.randint(0, high, shape, generator=generator).to(dtype)
