"""Plans: which form every optimizable layer takes. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

PLAN_VERSION = 1

FORMAT_NAMES = ("svd", "svd_input", "spatial", "tucker2", "cp", "tt", "zero")
"""Forms that a layer can take beside dense, for those who must not import torch."""


class PlanError(ValueError):
    """A plan that does not fit the network; the message names the layer and what is legal."""


Kind = Literal["linear", "conv", "conv_transpose"]


@dataclass(frozen=True, slots=True)
class Call:
    """Calls of a layer with the same sizes in the forward of one sample.

    Attributes:
        times: How many. A batch that holds several rows of one sample (windows, frames, tokens) counts as as many.
        inputs: Spatial size of the input, e.g. ``(H_in, W_in)``; ``()`` for linear layers.
        outputs: Spatial size of the output.
    """

    times: int = 1
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """Geometry of one layer that can be compressed.

    Attributes:
        name: Qualified module name in the original network, e.g. ``layer1.0.conv1``.
        kind: ``linear``, ``conv`` or ``conv_transpose``; the kernel's length tells how many dimensions.
        out_channels: O, output channels or features.
        in_channels: I, input channels or features.
        kernel: ``(k_h, k_w)`` and the like; ``()`` for linear layers.
        bias: Whether the original layer has a bias.
        groups: Groups of channels that do not mix.
        calls: How the layer was seen at work; empty where it was not.
    """

    name: str
    kind: Kind
    out_channels: int
    in_channels: int
    kernel: tuple[int, ...] = ()
    bias: bool = False
    groups: int = 1
    calls: tuple[Call, ...] = (Call(),)

    @property
    def kernel_size(self) -> int:
        """K, elements of the kernel; 1 for linear layers."""
        return math.prod(self.kernel)

    @property
    def positions(self) -> int:
        """Output positions of one sample, over all calls."""
        return sum(call.times * math.prod(call.outputs) for call in self.calls)

    @property
    def input_positions(self) -> int:
        """Input positions of one sample, over all calls."""
        return sum(call.times * math.prod(call.inputs) for call in self.calls)

    @property
    def params(self) -> int:
        """Elements of the dense layer, bias included."""
        bias = self.out_channels if self.bias else 0
        return self.out_channels * self.in_channels // self.groups * self.kernel_size + bias


@dataclass(frozen=True, slots=True, order=True)
class Choice:
    """The form of one layer: ``dense`` without ranks, or a format with its rank(s)."""

    format: str = "dense"
    ranks: tuple[int, ...] = ()

    def __str__(self) -> str:
        """Short form, e.g. ``svd(12)`` or ``tucker2(8,16)``."""
        return f"{self.format}({','.join(map(str, self.ranks))})" if self.ranks else self.format


DENSE = Choice()
ZERO = Choice("zero")


@dataclass(frozen=True, slots=True)
class Plan(Mapping[str, Choice]):
    """One choice for every optimizable layer, by qualified layer name, in the network's order."""

    choices: tuple[tuple[str, Choice], ...]
    _index: dict[str, Choice] = field(init=False, repr=False, compare=False, hash=False)

    def __post_init__(self) -> None:
        """Index the choices; a layer may appear once."""
        index = dict(self.choices)
        if len(index) != len(self.choices):
            raise PlanError("a layer appears twice in the plan; keep one choice for each layer")
        object.__setattr__(self, "_index", index)

    @classmethod
    def of(cls, choices: Mapping[str, Choice]) -> Plan:
        """A plan from a mapping, in the mapping's order."""
        return cls(tuple(choices.items()))

    def __getitem__(self, layer: str) -> Choice:
        """The choice of one layer."""
        return self._index[layer]

    def __iter__(self) -> Iterator[str]:
        """Layer names in the network's order."""
        return (name for name, _ in self.choices)

    def __len__(self) -> int:
        """Number of layers."""
        return len(self.choices)

    def replace(self, layer: str, choice: Choice) -> Plan:
        """The same plan with another choice for one layer."""
        return Plan(tuple((n, choice if n == layer else c) for n, c in self.choices))

    def key(self) -> str:
        """sha256 over the choices, lower-case hex."""
        text = json.dumps([[n, c.format, list(c.ranks)] for n, c in self.choices], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
