"""ONNX operators on sizes: what exporters compute of the shapes of tensors, in plain numbers."""

from __future__ import annotations

import operator as op
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from diminuendo.engine.foreign import functions
from diminuendo.engine.foreign.dtypes import torch_dtype
from diminuendo.engine.foreign.importer import Importer
from diminuendo.engine.foreign.values import (
    Constant,
    OnnxNode,
    Sizes,
    Traced,
    UnsupportedError,
    Value,
    on_sizes,
    operator,
)

Item = int | fx.Node

_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "Add": op.add,
    "Sub": op.sub,
    "Mul": op.mul,
    "Div": op.floordiv,
    "Mod": op.mod,
    "Min": min,
    "Max": max,
}
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "Equal": op.eq,
    "Less": op.lt,
    "LessOrEqual": op.le,
    "Greater": op.gt,
    "GreaterOrEqual": op.ge,
}


@operator("Shape")
def shape(g: Importer, node: OnnxNode, x: Value) -> Value:
    """Sizes of a tensor."""
    if isinstance(x, Sizes):
        return Constant(torch.tensor([] if x.scalar else [len(x.items)], dtype=torch.int64))
    dims = range(g.dims(x))[slice(node.number("start", 0), node.attributes.get("end"))]
    return g.sizes([g.size(x, dim) for dim in dims])


@operator("Size")
def size(g: Importer, node: OnnxNode, x: Value) -> Value:
    """Number of elements of a tensor."""
    return g.sizes([_product(g, [g.size(x, dim) for dim in range(g.dims(x))])], scalar=True)


def _product(g: Importer, items: Sequence[Item]) -> Item:
    found: Item = 1
    for item in items:
        found = computed(g, op.mul, found, item)
    return found


def computed(g: Importer, function: Callable[[Any, Any], Any], a: Item, b: Item) -> Item:
    """A number of two others."""
    if isinstance(a, int) and isinstance(b, int):
        return int(function(a, b))
    if function is op.mul and (a == 1 or b == 1):
        return b if a == 1 else a
    return g.number(function, a, b)


def _is_scalar(value: Value) -> bool:
    return value.scalar if isinstance(value, Sizes) else isinstance(value, Constant) and value.tensor.dim() == 0


def _pairs(g: Importer, a: Value, b: Value) -> list[tuple[Item, Item]]:
    one, two = g.ints(a), g.ints(b)
    length = max(len(one), len(two))
    spread = [each * length if len(each) == 1 else each for each in (one, two)]
    return list(zip(*spread, strict=True))


@on_sizes("Add", "Sub", "Mul", "Div", "Mod", "Min", "Max")
def arithmetic(g: Importer, node: OnnxNode, a: Value, b: Value) -> Value:
    """Number by number."""
    made = [computed(g, _ARITHMETIC[node.op], one, two) for one, two in _pairs(g, a, b)]
    return g.sizes(made, scalar=_is_scalar(a) and _is_scalar(b))


@on_sizes("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")
def compare(g: Importer, node: OnnxNode, a: Value, b: Value) -> Value:
    """Number by number, where the answer is the same for all sizes."""
    found = []
    for one, two in _pairs(g, a, b):
        answers = {_COMPARISONS[node.op](*each) for each in zip(g.known(one), g.known(two), strict=True)}
        if len(answers) > 1:
            raise UnsupportedError("what it computes depends on the size of the inputs")
        found.append(answers.pop())
    known = torch.tensor(found)
    return Constant(known[0] if _is_scalar(a) and _is_scalar(b) else known)


@on_sizes("Where")
def where(g: Importer, node: OnnxNode, condition: Value, a: Value, b: Value) -> Value:
    """One or the other, by what is known."""
    chosen = g.constant(condition).flatten().tolist()
    pairs = _pairs(g, a, b)
    length = max(len(chosen), len(pairs))
    chosen, pairs = (each * length if len(each) == 1 else each for each in (chosen, pairs))
    made = [one if first else two for first, (one, two) in zip(chosen, pairs, strict=True)]
    return g.sizes(made, scalar=all(map(_is_scalar, (condition, a, b))))


@on_sizes("Gather")
def gather(g: Importer, node: OnnxNode, data: Value, index: Value) -> Value:
    """Some of the numbers."""
    items, places = g.ints(data), g.constant(index)
    return g.sizes([items[int(place)] for place in places.flatten().tolist()], scalar=places.dim() == 0)


@on_sizes("Slice")
def cut(g: Importer, node: OnnxNode, data: Value, *given: Value) -> Value:
    """A part of the numbers."""
    if given:
        start, end = (int(g.constant(each).flatten()[0]) for each in given[:2])
        step = int(g.constant(given[3]).flatten()[0]) if len(given) > 3 else 1
    else:
        start, end, step = node.attributes["starts"][0], node.attributes["ends"][0], 1
    return g.sizes(g.ints(data)[slice(start, end if end > -(2**31) else None, step)])


@on_sizes("Concat")
def concat(g: Importer, node: OnnxNode, *values: Value) -> Value:
    """All numbers, one after the other."""
    return g.sizes([item for value in values for item in g.ints(value)])


@on_sizes("Identity", "Floor", "Ceil", "Round", "Abs")
def same(g: Importer, node: OnnxNode, x: Value) -> Value:
    """Whole numbers of nothing less than zero stay as they are."""
    return x


@on_sizes("Unsqueeze", "Squeeze", "Reshape")
def reshaped(g: Importer, node: OnnxNode, x: Value, shape: Value | None = None) -> Value:
    """A number as a vector of it, or the other way round."""
    items = g.ints(x)
    if node.op == "Reshape":
        wanted = g.constant(shape)
        if wanted.numel() > 1:
            raise UnsupportedError("sizes are put into a matrix")
        return g.sizes(items, scalar=wanted.numel() == 0)
    if node.op == "Unsqueeze" and not _is_scalar(x):
        raise UnsupportedError("sizes are put into a matrix")
    return g.sizes(items, scalar=node.op == "Squeeze" and len(items) == 1)


@on_sizes("Cast")
def cast(g: Importer, node: OnnxNode, x: Value) -> Value:
    """Whole numbers as they are; real ones as a tensor."""
    dtype = torch_dtype(node.number("to", 1))
    return g.sizes(g.ints(x), scalar=_is_scalar(x)) if not dtype.is_floating_point else as_tensor(g, x, dtype)


def as_tensor(g: Importer, x: Value, dtype: torch.dtype) -> Value:
    """Sizes as a tensor that the network makes."""
    if not isinstance(x, Sizes):
        return x
    return g.call(functions.numbers, list(x.items), x.scalar, dtype, g.device())


@on_sizes("ReduceProd")
def product(g: Importer, node: OnnxNode, x: Value, axes: Value | None = None) -> Value:
    """The product of all numbers."""
    return g.sizes([_product(g, g.ints(x))], scalar=not node.number("keepdims", 1))


@operator("Range")
def span(g: Importer, node: OnnxNode, start: Value, limit: Value, delta: Value) -> Value:
    """Numbers from one to another."""
    ends = (start, limit, delta)
    if all(isinstance(each, Constant) for each in ends):
        return Constant(torch.arange(*(g.constant(each).item() for each in ends)))
    if any(isinstance(each, Traced) for each in ends):
        raise UnsupportedError("its ends are computed from data")
    return g.call(torch.arange, *(g.ints(each)[0] for each in ends), device=g.device())


@operator("ConstantOfShape")
def filled(g: Importer, node: OnnxNode, shape: Value) -> Value:
    """A tensor of one value."""
    value = node.attributes.get("value", torch.zeros(1))
    items = g.ints(shape)
    if isinstance(shape, Constant):
        return Constant(torch.full(g.constant(shape).tolist(), value.item(), dtype=value.dtype))
    return g.call(torch.full, items, value.item(), dtype=value.dtype, device=g.device())
