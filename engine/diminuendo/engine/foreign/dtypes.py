"""ONNX's numbers for types of values."""

from __future__ import annotations

import torch

from diminuendo.engine.foreign.values import UnsupportedError

_DTYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    16: torch.bfloat16,
}


def torch_dtype(number: int) -> torch.dtype:
    """The type that a number of `onnx.TensorProto` stands for.

    Raises:
        UnsupportedError: PyTorch has none that is computed with.
    """
    if number not in _DTYPES:
        raise UnsupportedError(f"values of ONNX's type {number} cannot be imported")
    return _DTYPES[number]
