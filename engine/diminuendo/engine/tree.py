"""Nested values of tensors: what networks take and give.

A value is a tensor, or a tuple, list, mapping or dataclass of values; anything else in it is passed through (of several
batches the first one's). As the inputs of a network a tuple stands for positional arguments, a mapping for keyword
arguments, and any other value for the one argument. To pass a tuple or a mapping as the one argument, wrap it:
``(mapping,)``.

Legend: N samples, the first dimension of every tensor.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

FORWARD = "_forward_of_owner"
"""Attribute of a network that is not called but run by a function: (network, inputs) -> outputs."""


def entries(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in a value that is no container, in order, with where it is: ``.0.mask`` for ``value[0]["mask"]``."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from entries(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from entries(item, f"{path}.{place}")
    elif _is_record(value):
        for field in dataclasses.fields(value):
            yield from entries(getattr(value, field.name), f"{path}.{field.name}")
    else:
        yield path, value


def leaves(value: Any) -> Iterator[Tensor]:
    """Every tensor of a value, in order."""
    return (leaf for _, leaf in entries(value) if isinstance(leaf, Tensor))


def combine(function: Callable[..., Any], first: Any, *others: Any) -> Any:
    """The value with every tensor replaced by `function` of it and of the tensors at its place in the others."""
    if isinstance(first, Tensor):
        return function(first, *others)
    if isinstance(first, Mapping):
        return _mapping_like(first, {k: combine(function, item, *(o[k] for o in others)) for k, item in first.items()})
    if isinstance(first, list | tuple):
        parts = [combine(function, *items) for items in zip(first, *others, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    if _is_record(first):
        changed = copy.copy(first)
        for name in (field.name for field in dataclasses.fields(first)):
            part = combine(function, getattr(first, name), *(getattr(o, name) for o in others))
            object.__setattr__(changed, name, part)  # a frozen one, too
        return changed
    return first


def _is_record(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _mapping_like(first: Mapping[Any, Any], items: dict[Any, Any]) -> Mapping[Any, Any]:
    """A mapping of the first one's class where that can be had; a read-only one becomes a dict."""
    if type(first) is dict:
        return items
    if _is_record(first):  # outputs of transformers are both
        return type(first)(**items)
    if not isinstance(first, MutableMapping):
        return items
    changed = copy.copy(first)
    changed.update(items)
    return changed


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


def detach(value: Any) -> Any:
    """The value without the graph that made it."""
    return combine(lambda tensor: tensor.detach(), value)


def call(model: nn.Module, inputs: Any) -> Any:
    """Outputs of a network on a batch of inputs; by its owner's function where it has one (`modules.with_forward`)."""
    own = vars(model).get(FORWARD)
    if own is not None:
        return own(model, inputs)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple):
        return model(*inputs)
    return model(inputs)
