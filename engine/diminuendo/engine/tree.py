"""Nested values of tensors: what networks take and give.

A value is a tensor, or a tuple, list, mapping or dataclass of values; anything else in it is passed through. As the
inputs of a network a tuple stands for positional arguments, a mapping for keyword arguments, and any other value for
the one argument. To pass a tuple or a mapping as the one argument, wrap it: ``(mapping,)``.

Legend: N samples, the first dimension of every tensor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def leaves(value: Any) -> Iterator[Tensor]:
    """Every tensor of a value, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from leaves(getattr(value, field.name))


def combine(function: Callable[..., Any], first: Any, *others: Any) -> Any:
    """The value with every tensor replaced by `function` of it and of the tensors at its place in the others."""
    if isinstance(first, Tensor):
        return function(first, *others)
    if isinstance(first, Mapping):
        items = {key: combine(function, item, *(o[key] for o in others)) for key, item in first.items()}
        return items if type(first) is dict else type(first)(**items)
    if isinstance(first, list | tuple):
        parts = [combine(function, *items) for items in zip(first, *others, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        names = [field.name for field in dataclasses.fields(first)]
        changed = {n: combine(function, getattr(first, n), *(getattr(o, n) for o in others)) for n in names}
        return dataclasses.replace(first, **changed)
    return first


def count(value: Any) -> int:
    """N, of the first tensor.

    Raises:
        ValueError: There is no tensor, one has no dimensions, or their first dimensions differ.
    """
    sizes = [tuple(tensor.shape) for tensor in leaves(value)]
    if not sizes:
        raise ValueError("there is no tensor in it")
    if any(not size or size[0] != sizes[0][0] for size in sizes):
        raise ValueError(f"tensors of shapes {sizes} are not of the same number of samples; the first dimension is N")
    return int(sizes[0][0])


def elements(value: Any) -> int:
    """Elements of all tensors."""
    return sum(tensor.numel() for tensor in leaves(value))


def size_bytes(value: Any) -> int:
    """Bytes of all tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in leaves(value))


def take(value: Any, index: Tensor | slice) -> Any:
    """The samples at these indices, in this order."""
    return combine(lambda tensor: tensor[index], value)


def batches(value: Any, size: int) -> Iterator[Any]:
    """Batches of at most `size` samples, in order; none of an empty value."""
    for start in range(0, count(value), size):
        yield take(value, slice(start, start + size))


def concat(values: Sequence[Any]) -> Any:
    """Batches put together along N again; tensors without dimensions are stacked."""
    return combine(lambda *parts: torch.cat(parts) if parts[0].dim() else torch.stack(parts), *values)


def to(value: Any, device: torch.device | str) -> Any:
    """The value on a device."""
    return combine(lambda tensor: tensor.to(device), value)


def call(model: nn.Module, inputs: Any) -> Any:
    """Outputs of a network on a batch of inputs."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple):
        return model(*inputs)
    return model(inputs)
