"""sha256 of nested values: of every tensor's bytes and every plain value, each with its place. Nothing is pickled."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from diminuendo.engine import tree

_PLAIN = (str, int, float, bool, bytes, type(None), torch.dtype, torch.device)


class Digest:
    """A running sha256."""

    def __init__(self, start: str) -> None:
        """Begin with some text."""
        self._hash = hashlib.sha256(start.encode())

    def add(self, name: str, value: Any) -> None:
        """Take in a nested value under a name. Of an object that is neither tensor nor plain, its class is taken in."""
        for path, leaf in tree.entries(value, name):
            if isinstance(leaf, Tensor):
                self._add_tensor(path, leaf.detach())
            else:
                said = repr(leaf) if isinstance(leaf, _PLAIN) else f"{type(leaf).__module__}.{type(leaf).__qualname__}"
                self._hash.update(f"{path}={said}".encode())

    def _add_tensor(self, path: str, tensor: Tensor) -> None:
        """Shape, type and bytes of a tensor, whatever its layout."""
        if tensor.is_quantized:
            self._hash.update(_scales(tensor).encode())
            tensor = tensor.int_repr()
        elif tensor.layout != torch.strided:
            tensor = tensor.to_dense()
        self._hash.update(f"{path}{tuple(tensor.shape)}{tensor.dtype}".encode())
        plain = tensor.resolve_conj().resolve_neg().cpu().contiguous().flatten()
        self._hash.update(plain.view(torch.uint8).numpy().tobytes())

    def hexdigest(self) -> str:
        """Lower-case hex."""
        return self._hash.hexdigest()


def _scales(tensor: Tensor) -> str:
    """What the integers of a quantized tensor stand for."""
    if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return f"{tensor.q_scale()},{tensor.q_zero_point()}"
    scales, zeros = tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()
    return f"{scales.tolist()},{zeros.tolist()},{tensor.q_per_channel_axis()}"
