"""Makes PyTorch's layers around weights that are there already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
"""By the dimensions of what they are given."""

INSTANCE_NORMS = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


def with_tensors(kind: Any, *args: object, tensors: Mapping[str, Tensor | None], **options: object) -> nn.Module:
    """A layer of this kind with these tensors for its own.

    Args:
        kind: PyTorch's class.
        args: Of its constructor, as `options` are.
        tensors: Its parameters and buffers by name; those that are None it has not.
    """
    layer: nn.Module = kind(*args, device="meta", **options)
    for name, value in tensors.items():
        if name in layer._buffers:
            layer._buffers[name] = value
        elif value is not None:
            setattr(layer, name, value if isinstance(value, nn.Parameter) else nn.Parameter(value))
    return layer


def conv(weight: Tensor, bias: Tensor | None, *, transposed: bool = False, **options: Any) -> nn.Module:
    """A convolution of the weight's dimensions.

    Args:
        weight: (O, I / groups, k...) or, of a transposed one, (I, O / groups, k...).
        bias: (O,).
        transposed: Whether it is one.
        options: Stride, padding, dilation, groups, output_padding.
    """
    groups = options.get("groups", 1)
    channels = (len(weight), weight.shape[1] * groups) if transposed else (weight.shape[1] * groups, len(weight))
    kinds: dict[int, type[nn.Module]] = {**TRANSPOSED} if transposed else {**CONVS}
    return with_tensors(
        kinds[weight.dim() - 2],
        *channels,
        tuple(weight.shape[2:]),
        bias=bias is not None,
        tensors={"weight": weight, "bias": bias},
        **options,
    )


def linear(weight: Tensor, bias: Tensor | None) -> nn.Module:
    """A linear layer of an (O, I) weight."""
    outputs, inputs = weight.shape
    return with_tensors(nn.Linear, inputs, outputs, bias=bias is not None, tensors={"weight": weight, "bias": bias})


def batch_norm(dims: int, tensors: Mapping[str, Tensor | None], eps: float, momentum: float | None) -> nn.Module:
    """BatchNorm of inputs of so many dimensions.

    Args:
        dims: 2 to 5.
        tensors: ``weight``, ``bias``, ``running_mean``, ``running_var``, each (C,) or None, and perhaps
            ``num_batches_tracked``.
        eps: Added to the variance.
        momentum: Of the running statistics; None: a cumulative average.
    """
    held = next(value for value in tensors.values() if value is not None)
    tracked = tensors.get("running_mean") is not None
    if tracked and tensors.get("num_batches_tracked") is None:
        tensors = {**tensors, "num_batches_tracked": torch.tensor(0)}
    return with_tensors(
        BATCH_NORMS[dims],
        len(held),
        eps=eps,
        momentum=momentum,
        affine=tensors.get("weight") is not None,
        track_running_stats=tracked,
        tensors=tensors,
    )
