"""ONNX operators that give a tensor another shape: reshapes, transpositions, joins, splits, repetitions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from diminuendo.engine.foreign.fixed import open_dimension
from diminuendo.engine.foreign.importer import TRIALS, Importer
from diminuendo.engine.foreign.ops_reduce import axes_of
from diminuendo.engine.foreign.ops_sizes import as_tensor
from diminuendo.engine.foreign.values import Constant, OnnxNode, Traced, UnsupportedError, Value, operator


@operator("Reshape")
def reshape(g: Importer, node: OnnxNode, x: Value, shape: Value | None = None) -> Value:
    """Another shape: 0 stands for the size that was there, -1 for what is left.

    In a file for a fixed number of samples a shape of plain numbers has that number in it, which is left open.
    """
    if shape is None:
        items: list[int | fx.Node] = list(node.numbers("shape") or [])
    else:
        items = g.ints(shape)
    if not node.number("allowzero", 0):
        items = [g.size(x, place) if size == 0 else size for place, size in enumerate(items)]
    if g.batch is not None and isinstance(x, Traced) and items and all(isinstance(size, int) for size in items):
        items = _for_any_batch(g, x, [size for size in items if isinstance(size, int)], g.batch)
    if _same_shape(g, x, items):
        return x
    return g.call(torch.reshape, x, items)


def _for_any_batch(g: Importer, x: Value, items: list[int], batch: int) -> list[int | fx.Node]:
    """A shape that was made for a fixed number of samples, see `open_dimension`."""
    one, two = (tuple(each.shape) for each in g.samples(x))
    # the second trial batch has one sample more than the first, which has two
    before = [size + (larger - size) * (batch - 2) for size, larger in zip(one, two, strict=True)]
    varying = next((place for place, (size, larger) in enumerate(zip(one, two, strict=True)) if size != larger), None)
    if varying is None:
        return list(items)
    known = math.prod(size for size in items if size != -1)
    after = [math.prod(before) // known if size == -1 else size for size in items]
    place = open_dimension(before, varying, after, batch)
    return list(items) if place is None else [*after[:place], -1, *after[place + 1 :]]


def _same_shape(g: Importer, x: Value, items: Sequence[int | fx.Node]) -> bool:
    """Whether it has this shape already, in plain numbers."""
    return isinstance(x, Constant) and list(x.tensor.shape) == list(items)


@operator("Flatten")
def flatten(g: Importer, node: OnnxNode, x: Value) -> Value:
    """A matrix: the dimensions before an axis, and those from it on."""
    axis = node.number("axis", 1) % (g.dims(x) + 1)
    if axis == 1:
        return g.call(torch.flatten, x, 1)
    if axis == 0:
        return g.call(torch.reshape, x, [1, -1])
    return g.call(torch.flatten, g.call(torch.flatten, x, axis) if axis < g.dims(x) else x, 0, axis - 1)


@operator("Transpose")
def transpose(g: Importer, node: OnnxNode, x: Value) -> Value:
    """Dimensions in another order; of a weight it is remembered which one it was."""
    order = node.numbers("perm") or list(reversed(range(g.dims(x))))
    if isinstance(x, Constant) and order == [1, 0]:
        source = x.tensor if x.turned is None else None
        return Constant(x.tensor.t() if x.turned is None else x.turned, x.name, source)
    return g.call(torch.permute, x, order)


@operator("Squeeze")
def squeeze(g: Importer, node: OnnxNode, x: Value, axes: Value | None = None) -> Value:
    """Without dimensions of size 1."""
    given = axes_of(g, node, axes)
    if given is None:
        given = [place for place, size in enumerate(g.samples(x)[0].shape) if size == 1]
    if any(g.samples(x)[trial].shape[place] != 1 for trial in range(TRIALS) for place in given):
        raise UnsupportedError("it takes the batch's dimension away")
    return g.call(torch.squeeze, x, tuple(given))


@operator("Unsqueeze")
def unsqueeze(g: Importer, node: OnnxNode, x: Value, axes: Value | None = None) -> Value:
    """With more dimensions, of size 1."""
    given = axes_of(g, node, axes) or []
    dims = g.dims(x) + len(given)
    for place in sorted(each % dims for each in given):
        x = g.call(torch.unsqueeze, x, place)
    return x


@operator("Expand")
def expand(g: Importer, node: OnnxNode, x: Value, shape: Value) -> Value:
    """Repeated along dimensions of size 1, as far as it has them: a size of 1 leaves a dimension as it is."""
    given, own = g.ints(shape), g.dims(x)
    items: list[int | fx.Node] = [*[1] * (own - len(given)), *given]
    offset = len(items) - own
    made: list[Any] = []
    for place, size in enumerate(items):
        here = place - offset
        keeps = here >= 0 and (size == 1 or all(_alike(g, x, here, size)))
        made.append(-1 if keeps else size)
    if g.batch is not None and isinstance(x, Traced):
        for here in range(own):
            one, two = (each.shape[here] for each in g.samples(x))
            made[here + offset] = -1 if one != two else made[here + offset]
    return x if offset == 0 and all(size == -1 for size in made) else g.call("expand", x, made)


def _alike(g: Importer, x: Value, dim: int, size: int | fx.Node) -> list[bool]:
    """Whether a dimension has this size on each trial batch."""
    return [each.shape[dim] == one for each, one in zip(g.samples(x), g.known(size), strict=True)]


@operator("Concat")
def concat(g: Importer, node: OnnxNode, *values: Value) -> Value:
    """Tensors joined along an axis.

    In a file for a fixed number of samples, one of one row that does not come from the inputs is repeated for each.
    """
    parts = [as_tensor(g, value, torch.int64) for value in values]
    axis = node.number("axis", 0)
    first = next((part for part in parts if isinstance(part, Traced)), None)
    if g.batch is None or first is None or axis == 0:
        return g.call(torch.cat, [_weight(g, part, first) for part in parts], axis)
    rows = g.size(first, 0)
    return g.call(torch.cat, [_repeated(g, part, rows) for part in parts], axis)


def _weight(g: Importer, part: Value, beside: Value | None) -> Value:
    return Traced(g.tensor(part, tuned=True)) if isinstance(part, Constant) and beside is not None else part


def _repeated(g: Importer, part: Value, rows: int | fx.Node) -> Value:
    """A constant of as many rows as the file's batch, for any number of samples."""
    if not isinstance(part, Constant):
        return part
    weight = Traced(g.tensor(part, tuned=True))
    if isinstance(rows, int) or len(part.tensor) != 1:
        return weight
    return g.call("expand", weight, [rows, *[-1] * (part.tensor.dim() - 1)])


@operator("Split")
def split(g: Importer, node: OnnxNode, x: Value, sizes: Value | None = None) -> list[Value]:
    """Parts along an axis, of given sizes or of equal ones."""
    axis = node.number("axis", 0)
    given = node.numbers("split") if sizes is None else [int(each) for each in g.constant(sizes).tolist()]
    if given is None:
        total = g.size(x, axis)
        if not isinstance(total, int):
            raise UnsupportedError("it splits a dimension whose size varies into equal parts")
        count = node.number("num_outputs", len(node.outputs))
        each = -(-total // count)
        given = [min(each, total - start) for start in range(0, total, each)]
    starts = [sum(given[:place]) for place in range(len(given))]
    return [g.call(torch.narrow, x, axis, start, size) for start, size in zip(starts, given, strict=True)]


@operator("Tile")
def tile(g: Importer, node: OnnxNode, x: Value, repeats: Value) -> Value:
    """Repeated along each dimension."""
    return g.call("repeat", x, g.ints(repeats))


@operator("Constant")
def constant(g: Importer, node: OnnxNode) -> Value:
    """A tensor of the file."""
    for name, value in node.attributes.items():
        if name in ("value_int", "value_ints"):
            return Constant(torch.tensor(value, dtype=torch.int64))
        if name in ("value_float", "value_floats"):
            return Constant(torch.tensor(value, dtype=torch.float32))
        if name == "value":
            return Constant(value)
    raise UnsupportedError("it holds neither numbers nor a tensor of them")


@operator("Trilu")
def triangle(g: Importer, node: OnnxNode, x: Value, diagonal: Value | None = None) -> Value:
    """The upper or the lower triangle of matrices."""
    place = 0 if diagonal is None else int(g.constant(diagonal))
    return g.call(torch.triu if node.number("upper", 1) else torch.tril, x, place)
