"""PyTorch's layers and the formats' kernels: which layers have forms, their layouts, and new ones after their pattern.

Legend: G groups, O output and I input channels of one group. Kernels are (G O, I, k_1, ..., k_d), also those of
transposed convolutions, which PyTorch keeps as (G I, O, k_1, ..., k_d); of linear layers (O, I).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import skip_init

from diminuendo.engine.formats.stage import Stage
from diminuendo.engine.plan import LayerSpec, PlanError

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
ConvTranspose = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d

_LINEAR: tuple[type[nn.Module], ...] = (nn.Linear,)
_CONVS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED: tuple[type[nn.Module], ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

BASES = _LINEAR + _CONVS + _TRANSPOSED
"""PyTorch's classes that have forms."""


def base_of(layer: nn.Module) -> type[nn.Module] | None:
    """The PyTorch class whose forward the layer has, of those that have forms; None for any other.

    A subclass that computes something of its own is another kind; one that merely adds to the class is not.
    """
    for kind in BASES:
        if isinstance(layer, kind) and all(
            getattr(type(layer), name, None) is getattr(kind, name, None)
            for name in ("forward", "__call__", "_conv_forward", "_output_padding")
        ):
            return kind
    return None


def is_transposed_linear(layer: nn.Module) -> bool:
    """Whether it is transformers' ``Conv1D`` (GPT-2): a linear layer whose weight is kept as (I, O)."""
    kind = type(layer)
    return kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"


def geometry(name: str, layer: nn.Module) -> LayerSpec:
    """What the layer itself tells: its spec without calls, for it was not seen at work.

    Raises:
        PlanError: Neither a linear layer nor a convolution.
    """
    kind = base_of(layer)
    if is_transposed_linear(layer):
        outputs, inputs = kernel_of(layer).shape
        return LayerSpec(name, "linear", outputs, inputs, (), bias=True, calls=())
    if isinstance(layer, nn.Linear) and kind is not None:
        return LayerSpec(name, "linear", layer.out_features, layer.in_features, (), layer.bias is not None, calls=())
    if isinstance(layer, Conv | ConvTranspose) and kind is not None:
        return LayerSpec(
            name,
            "conv_transpose" if kind in _TRANSPOSED else "conv",
            layer.out_channels,
            layer.in_channels,
            tuple(layer.kernel_size),
            layer.bias is not None,
            layer.groups,
            calls=(),
        )
    raise PlanError(
        f"layer {name!r}: a {type(layer).__name__} has no form but dense; formats are of linear layers and convolutions"
    )


def kernel_of(layer: nn.Module) -> Tensor:
    """(G O, I, k_1, ..., k_d) or (O, I): the layer's weight in the formats' layout, a view of it."""
    weight = layer.weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"the weight of {type(layer).__name__} is no tensor")
    if is_transposed_linear(layer):
        return weight.detach().T
    groups = layer.groups if isinstance(layer, ConvTranspose) else 0
    return _swapped(weight.detach(), groups) if groups else weight.detach()


def _swapped(weight: Tensor, groups: int) -> Tensor:
    """(G A, B, ...) -> (G B, A, ...): between the layouts of convolutions and transposed ones."""
    return by_group(weight, groups).transpose(1, 2).flatten(0, 1)


def by_group(tensor: Tensor, groups: int) -> Tensor:
    """(G C, ...) -> (G, C, ...)."""
    return tensor.reshape(groups, -1, *tensor.shape[1:])


def unset(like: nn.Module, spec: LayerSpec, stage: Stage, *, bias: bool) -> nn.Module:
    """A stage as a PyTorch layer with unset weights, in the dtype and on the device of `like`.

    Along its axes it has the kernel, stride, padding, dilation and padding mode of `like`; along others none. A
    pointwise stage of a transposed convolution is an ordinary one.
    """
    weight: Any = like.weight
    options: dict[str, Any] = {"bias": bias, "dtype": weight.dtype, "device": weight.device}
    if spec.kind == "linear":
        return _unset(nn.Linear, stage.in_channels, stage.out_channels, **options)
    groups = spec.groups * (stage.in_channels if stage.depthwise else 1)
    options |= {"groups": groups}
    channels = spec.groups * stage.in_channels, spec.groups * stage.out_channels
    dims = len(spec.kernel)
    if stage.axes:
        options |= _along(like, stage.axes, dims)
    else:
        options |= {"kernel_size": 1}
    kinds = _TRANSPOSED if spec.kind == "conv_transpose" and stage.axes else _CONVS
    return _unset(kinds[dims - 1], *channels, **options)


def _along(like: Any, axes: Sequence[int], dims: int) -> dict[str, Any]:
    """Kernel, stride, padding, dilation of a convolution along some axes; none along the others."""

    def pick(values: Sequence[int], otherwise: int) -> tuple[int, ...]:
        return tuple(values[axis] if axis in axes else otherwise for axis in range(dims))

    options: dict[str, Any] = {
        "kernel_size": pick(like.kernel_size, 1),
        "stride": pick(like.stride, 1),
        "dilation": pick(like.dilation, 1),
        "padding": like.padding if isinstance(like.padding, str) else pick(like.padding, 0),
    }
    if isinstance(like, ConvTranspose):
        options["output_padding"] = pick(like.output_padding, 0)
    else:
        options["padding_mode"] = like.padding_mode
    return options


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of a chain in the formats' layout, and the bias of its last stage."""

    weights: tuple[Tensor, ...]
    bias: Tensor | None


def state_of(module: nn.Sequential, weights: Sequence[Tensor], bias: Tensor | None) -> dict[str, Tensor]:
    """State dict of a chain from weights in the formats' layout."""
    state: dict[str, Tensor] = {}
    for index, (layer, weight) in enumerate(zip(module, weights, strict=True)):
        groups = layer.groups if isinstance(layer, ConvTranspose) else 0
        own: Any = layer.weight
        shaped = _swapped(weight, groups) if groups else weight
        state[f"{index}.weight"] = shaped.reshape(own.shape)
    if bias is not None:
        state[f"{len(module) - 1}.bias"] = bias
    return state


def weights_of(spec: LayerSpec, stages: Sequence[Stage], state: Mapping[str, Tensor]) -> Weights:
    """The other way round: a chain's weights in the formats' layout, of any ranks, from its state dict."""
    weights = []
    for index, stage in enumerate(stages):
        weight = state[f"{index}.weight"]
        transposed = spec.kind == "conv_transpose" and stage.axes and not stage.depthwise
        weights.append(_swapped(weight, spec.groups) if transposed else weight)
    return Weights(tuple(weights), state.get(f"{len(stages) - 1}.bias"))


def _unset(kind: type[nn.Module], *args: object, **options: object) -> nn.Module:
    """The layer without the cost of initialising what is overwritten at once."""
    layer: nn.Module = skip_init(kind, *args, **options)  # type: ignore[no-untyped-call]
    return layer
