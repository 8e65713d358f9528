"""What formats share about layers: checked ranks, kernel sizes, convolutions after the pattern of another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from torch import nn
from torch.nn.utils import skip_init

from diminuendo.engine.formats.base import Format
from diminuendo.engine.plan import LayerSpec, PlanError


def kernel_size(spec: LayerSpec) -> int:
    """K, elements of the kernel."""
    return spec.kernel[0] * spec.kernel[1]


def geometry(name: str, layer: nn.Module) -> LayerSpec:
    """What the layer itself tells: its spec at one position, for it was not seen at work.

    Raises:
        PlanError: Neither a linear layer nor an ungrouped convolution with zero padding.
    """
    kind = type(layer)
    if isinstance(layer, nn.Linear) and kind is nn.Linear:
        return LayerSpec(name, "linear", layer.out_features, layer.in_features, (1, 1), layer.bias is not None, 1, 1)
    if isinstance(layer, nn.Conv2d) and kind is nn.Conv2d:
        if layer.groups != 1 or layer.padding_mode != "zeros":
            raise PlanError(
                f"layer {name!r}: formats need groups=1 and padding_mode='zeros', "
                f"it has groups={layer.groups} and padding_mode={layer.padding_mode!r}"
            )
        height, width = layer.kernel_size
        bias = layer.bias is not None
        return LayerSpec(name, "conv2d", layer.out_channels, layer.in_channels, (height, width), bias, 1, 1)
    raise PlanError(f"layer {name!r}: a {kind.__name__} has no form but dense; formats are of Linear and Conv2d")


def check_ranks(form: Format, spec: LayerSpec, ranks: Sequence[int]) -> tuple[int, ...]:
    """The ranks; PlanError naming layer, format and legal range where they do not fit."""
    top = form.max_ranks(spec)
    if len(ranks) != len(top):
        raise PlanError(f"layer {spec.name!r}: {form.name} takes {len(top)} rank(s), got {list(ranks)}")
    for rank, most in zip(ranks, top, strict=True):
        if not 1 <= rank <= most:
            legal = " x ".join(f"1..{m}" for m in top)
            raise PlanError(
                f"layer {spec.name!r}: {form.name} rank {rank} of {list(ranks)} is out of range; legal: {legal}"
            )
    return tuple(ranks)


def unset_linear(like: nn.Linear, in_features: int, out_features: int, *, bias: bool) -> nn.Linear:
    """A linear layer with unset weights, in the dtype and on the device of `like`."""
    weight = like.weight
    return _unset(nn.Linear, in_features, out_features, bias=bias, dtype=weight.dtype, device=weight.device)


def unset_conv(like: nn.Conv2d, in_channels: int, out_channels: int, *, spatial: bool, bias: bool) -> nn.Conv2d:
    """A convolution with unset weights, in the dtype and on the device of `like`.

    With `spatial`, also with the kernel, stride, padding and dilation of `like`; else 1 x 1 with stride 1.
    """
    geometry: dict[str, object] = {"kernel_size": 1}
    if spatial:
        geometry = {
            "kernel_size": like.kernel_size,
            "stride": like.stride,
            "padding": like.padding,
            "dilation": like.dilation,
        }
    weight = like.weight
    return _unset(nn.Conv2d, in_channels, out_channels, bias=bias, dtype=weight.dtype, device=weight.device, **geometry)


_Layer = TypeVar("_Layer", bound=nn.Module)


def _unset(kind: type[_Layer], *args: object, **options: object) -> _Layer:
    """The layer without the cost of initialising what is overwritten at once."""
    layer: _Layer = skip_init(kind, *args, **options)  # type: ignore[no-untyped-call]
    return layer
