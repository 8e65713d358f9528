"""What imported networks compute beyond PyTorch's own functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """x where it is positive, else as much of it as the slope says."""
    return torch.where(x >= 0, x, x * slope)


def softmax_from(x: Tensor, axis: int, log: bool) -> Tensor:
    """(Log-)softmax over all dimensions from an axis on together, as ONNX had it before opset 13."""
    flat = x.flatten(axis)
    return (functional.log_softmax(flat, -1) if log else functional.softmax(flat, -1)).reshape(x.shape)


def hard_sigmoid(x: Tensor, alpha: float, beta: float) -> Tensor:
    """alpha x + beta between 0 and 1."""
    return (alpha * x + beta).clamp(0.0, 1.0)


def selu(x: Tensor, alpha: float, gamma: float) -> Tensor:
    """gamma x where it is positive, else gamma alpha (e^x - 1)."""
    return gamma * functional.elu(x, alpha)


def cumsum(x: Tensor, axis: int, exclusive: bool, reverse: bool) -> Tensor:
    """Running sums along an axis, perhaps from its end, perhaps without the value itself."""
    turned = x.flip(axis) if reverse else x
    summed = turned.cumsum(axis)
    summed = summed - turned if exclusive else summed
    return summed.flip(axis) if reverse else summed


def depth_to_space(x: Tensor, block: int) -> Tensor:
    """(N, B B C, H, W) -> (N, C, B H, B W), with the blocks as the first of the channels (ONNX's DCR)."""
    n, channels, height, width = x.shape
    inner = channels // (block * block)
    split = x.reshape(n, block, block, inner, height, width).permute(0, 3, 4, 1, 5, 2)
    return split.reshape(n, inner, height * block, width * block)


def space_to_depth(x: Tensor, block: int) -> Tensor:
    """(N, C, B H, B W) -> (N, B B C, H, W), with the blocks as the first of the channels."""
    n, channels, height, width = x.shape
    split = x.reshape(n, channels, height // block, block, width // block, block).permute(0, 3, 5, 1, 2, 4)
    return split.reshape(n, channels * block * block, height // block, width // block)


def root_of_squares(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    """Root of the sum of squares."""
    return x.square().sum(dims, keepdim=keep).sqrt()


def sum_of_squares(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    """Sum of squares."""
    return x.square().sum(dims, keepdim=keep)


def sum_of_absolutes(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    """Sum of absolute values."""
    return x.abs().sum(dims, keepdim=keep)


def product(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    """Product over dimensions."""
    for dim in sorted((each % x.dim() for each in dims), reverse=True):
        x = x.prod(dim, keepdim=keep)
    return x


def numbers(items: list[int], scalar: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers as a tensor: a vector, or one without dimensions."""
    made = torch.tensor(items, dtype=dtype, device=device)
    return made[0] if scalar else made


def gather_nd(x: Tensor, index: Tensor) -> Tensor:
    """The parts of x at the places that the last dimension of the index names."""
    return x[tuple(index.unbind(-1))]
