"""Multiply-adds of one call of a module, kind by kind; the rules are `diminuendo.engine.profile`'s."""

from __future__ import annotations

import math

from torch import nn

from diminuendo.engine.formats.zero import Constant

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
POOLINGS = (
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._LPPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.FractionalMaxPool2d,
    nn.FractionalMaxPool3d,
)
TRANSPARENT = (nn.Sequential, nn.ModuleList)
"""Kinds that only call others: their outputs are those of the last one."""

_FREE = (
    *TRANSPARENT,
    Constant,
    nn.Identity,
    nn.Flatten,
    nn.Unflatten,
    nn.Embedding,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.ChannelShuffle,
    nn.modules.dropout._DropoutNd,
    nn.modules.padding._ConstantPadNd,
    nn.modules.padding._ReflectionPadNd,
    nn.modules.padding._ReplicationPadNd,
    nn.CircularPad1d,
    nn.CircularPad2d,
    nn.CircularPad3d,
)
"""Kinds that move or pick values, or give the same ones always, and multiply none."""


def is_transposed_linear(module: nn.Module) -> bool:
    """Whether it is transformers' ``Conv1D``: a linear layer with a weight of (in, out).

    The library is not imported: it is asked for by name.
    """
    return any(
        (kind.__module__, kind.__name__) == ("transformers.pytorch_utils", "Conv1D") for kind in type(module).__mro__
    )


def module_macs(module: nn.Module, input_elements: int, output_elements: int) -> int | None:
    """Multiply-adds of one call of a module itself, without its children; None where there is no rule.

    Args:
        module: Its kind and shape decide.
        input_elements: Of its first tensor.
        output_elements: Of all its outputs.
    """
    if isinstance(module, CONVOLUTIONS):
        work = math.prod(module.kernel_size) * module.in_channels // module.groups
        return output_elements * (work + (module.bias is not None))
    if isinstance(module, TRANSPOSED):
        work = math.prod(module.kernel_size) * module.out_channels // module.groups
        return input_elements * work + output_elements * (module.bias is not None)
    if isinstance(module, nn.Linear):
        return output_elements * (module.in_features + (module.bias is not None))
    if is_transposed_linear(module):
        return output_elements * (len(module.get_parameter("weight")) + 1)
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return 2 * output_elements
    if isinstance(module, nn.ReLU):
        return output_elements
    if isinstance(module, POOLINGS):
        return input_elements
    return 0 if isinstance(module, _FREE) else None
