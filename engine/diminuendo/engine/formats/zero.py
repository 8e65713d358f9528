"""The `zero` format: rank 0. The layer gives what it gave on average, whatever comes in, and has no matrix at all.

For layers that the network can go without, most of all those that a residual connection leads past.

Factors: ``mean`` (O,) of the output on the data, bias included; a layer without a bias gives zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diminuendo.engine.cost import Cost
from diminuendo.engine.formats import layers
from diminuendo.engine.formats.base import Cut, Factors, Format
from diminuendo.engine.formats.sides import Sides
from diminuendo.engine.formats.stage import Stage
from diminuendo.engine.plan import LayerSpec


class Constant(nn.Module):
    """The same at every position: a bias, or zeros.

    Shape: as of the layer that it stands for, (N, I, ...) -> (N, O, ...), or (..., I) -> (..., O) for a linear one.

    Attributes:
        bias: (O,), or None.
        like: An empty tensor, which tells dtype and device where there is no bias.
    """

    bias: nn.Parameter | None
    like: Tensor

    def __init__(self, layer: nn.Module, spec: LayerSpec) -> None:
        """In the layer's dtype and on its device, with an unset bias."""
        super().__init__()
        kernel = layers.kernel_of(layer)
        self._channels = spec.out_channels
        self._transposed = spec.kind == "conv_transpose"
        self._axes = _axes(layer, spec)
        self.register_parameter("bias", nn.Parameter(kernel.new_empty(spec.out_channels)) if spec.bias else None)
        self.register_buffer("like", kernel.new_empty(0), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """What comes in tells how many samples and positions there are, and nothing else."""
        dims = len(self._axes)
        if not dims:
            shape = (*input.shape[:-1], self._channels)
        else:
            sizes = input.shape[input.dim() - dims :]
            shape = (*input.shape[: input.dim() - dims - 1], self._channels, *map(self._size, sizes, self._axes))
        output = torch.zeros(shape, dtype=self.like.dtype, device=input.device)
        if self.bias is not None:
            output = output + self.bias.reshape(-1, *[1] * dims)
        if dims == 2 and input.dim() == 4 and input.is_contiguous(memory_format=torch.channels_last):
            output = output.contiguous(memory_format=torch.channels_last)
        return output

    def _size(self, size: int, axis: tuple[int, int]) -> int:
        """Positions along one axis of the output."""
        stride, change = axis
        return (size - 1) * stride + change if self._transposed else (size + change) // stride + 1


def _axes(layer: Any, spec: LayerSpec) -> tuple[tuple[int, int], ...]:
    """Stride, and what the kernel and the padding do to the size, along each axis; none of a linear layer."""
    found = []
    for axis, size in enumerate(spec.kernel):
        reach, stride = layer.dilation[axis] * (size - 1), layer.stride[axis]
        if isinstance(layer.padding, str):
            padding = reach if layer.padding == "same" else 0  # of both ends
        else:
            padding = 2 * layer.padding[axis]
        if spec.kind == "conv_transpose":
            found.append((stride, reach - padding + layer.output_padding[axis] + 1))
        else:
            found.append((stride, padding - reach - 1))
    return tuple(found)


class Zero(Format):
    """No stage but a constant."""

    name: ClassVar[str] = "zero"
    exact: ClassVar[bool] = False

    def supports(self, spec: LayerSpec) -> bool:
        """Every layer."""
        return True

    def max_ranks(self, spec: LayerSpec) -> tuple[int, ...]:
        """It has none."""
        return ()

    def stages(self, spec: LayerSpec, ranks: Sequence[int]) -> tuple[Stage, ...]:
        """None that has weights."""
        return ()

    def decompose(self, sides: Sides) -> dict[str, Tensor]:
        """The mean, as it was measured."""
        mean = sides.output_mean
        return {"mean": mean if sides.bias is None else mean + sides.bias}

    def cut(self, factors: Factors, ranks: Sequence[int]) -> Cut:
        """The mean as the bias."""
        return Cut((), factors["mean"])

    def spectra(self, factors: Factors) -> tuple[Tensor, ...]:
        """None."""
        return ()

    def energy(self, factors: Factors, ranks: Sequence[int]) -> float:
        """Everything that varies is dropped."""
        return 1.0

    def resized(self, old: Cut, new_ranks: Sequence[int], factors: Factors) -> Cut:
        """There is nothing to resize."""
        return old

    def cost(self, spec: LayerSpec, ranks: Sequence[int], *, item_bytes: int = 4) -> Cost:
        """The bias, which nothing is multiplied with."""
        self.check_ranks(spec, ranks)
        bias = spec.out_channels if spec.bias else 0
        return Cost(bias, 0, item_bytes * bias, spec.out_channels * spec.positions)

    def build(self, layer: nn.Module, ranks: Sequence[int]) -> nn.Sequential:
        """The constant, unset."""
        return nn.Sequential(Constant(layer, layers.geometry("", layer)))

    def load(self, module: nn.Sequential, spec: LayerSpec, factors: Factors, ranks: Sequence[int]) -> None:
        """Set the constant."""
        if spec.bias:
            module.load_state_dict({"0.bias": factors["mean"].flatten()})

    def resize(
        self, layer: nn.Module, old: Mapping[str, Tensor], new_ranks: Sequence[int], factors: Factors
    ) -> dict[str, Tensor]:
        """The tuned constant."""
        return dict(old)
