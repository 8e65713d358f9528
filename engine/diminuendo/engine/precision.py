"""Types of products and orders of weights in memory: what they are, and what this machine has units for."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from diminuendo.engine import tree

_BF16_UNITS = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16")
"""As torch calls them, of x86 and of ARM."""


def autocast(model: nn.Module, *, enabled: bool) -> AbstractContextManager[Any]:
    """Products in bfloat16 inside, where torch takes that for safe."""
    if not enabled:
        return nullcontext()
    return torch.autocast(device_of(model).type, dtype=torch.bfloat16)


def device_of(model: nn.Module) -> torch.device:
    """Where a network is."""
    found = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), None)
    return torch.device("cpu") if found is None else found


def has_bf16_units(device: torch.device) -> bool:
    """Whether a device has units for products in bfloat16; without them it is no gain."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return any(torch.cpu.get_capabilities().get(name, False) for name in _BF16_UNITS)


def widened(outputs: Any) -> Any:
    """Outputs with float32 in the place of bfloat16."""
    return tree.combine(lambda tensor: tensor.float() if tensor.dtype == torch.bfloat16 else tensor, outputs)


def lay_out(model: nn.Module, channels_last: bool) -> None:
    """Put the 4-dimensional weights and buffers of a network into an order in memory, in place."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 4 and tensor.layout == torch.strided:
            tensor.data = tensor.data.contiguous(memory_format=memory_format)


def is_image(inputs: Any) -> bool:
    """Whether inputs are images and nothing else: for them the order of weights matters."""
    return isinstance(inputs, Tensor) and inputs.dim() == 4
