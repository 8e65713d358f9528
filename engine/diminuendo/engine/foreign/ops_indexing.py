"""ONNX operators that pick values: slices, look-ups."""

from __future__ import annotations

import operator as op
from typing import Any

import torch
from torch import fx

from diminuendo.engine.foreign import functions
from diminuendo.engine.foreign.importer import Importer
from diminuendo.engine.foreign.ops_layers import embedding
from diminuendo.engine.foreign.values import Constant, OnnxNode, Traced, UnsupportedError, Value, operator

_FAR = 2**31 - 1
"""From here on an end of a slice stands for the end of the dimension."""


@operator("Slice")
def cut(g: Importer, node: OnnxNode, x: Value, *given: Value | None) -> Value:
    """A part along each of some axes."""
    if given:
        starts, ends = g.ints(given[0]), g.ints(given[1])
        axes = None if len(given) < 3 or given[2] is None else [int(each) for each in g.ints(given[2])]  # type: ignore[arg-type]
        steps = [1] * len(starts) if len(given) < 4 or given[3] is None else g.ints(given[3])
    else:
        starts, ends = [*(node.numbers("starts") or [])], [*(node.numbers("ends") or [])]
        axes, steps = node.numbers("axes"), [1] * len(starts)
    parts: list[Any] = [slice(None)] * g.dims(x)
    for axis, start, end, step in zip(axes or range(len(starts)), starts, ends, steps, strict=True):
        if not isinstance(step, int):
            raise UnsupportedError("its steps depend on the sizes of the inputs")
        if step < 0:
            if _whole(start, end) and step == -1:
                x = g.call(torch.flip, x, [axis])
                continue
            raise UnsupportedError("it goes backwards over a part of a dimension")
        parts[axis] = slice(None if start == 0 else start, _end(end), None if step == 1 else step)
    return x if all(part == slice(None) for part in parts) else g.call(op.getitem, x, tuple(parts))


def _whole(start: int | fx.Node, end: int | fx.Node) -> bool:
    """Whether a slice backwards is of the whole dimension."""
    return isinstance(start, int) and isinstance(end, int) and (start == -1 or start >= _FAR) and end <= -_FAR


def _end(end: int | fx.Node) -> int | fx.Node | None:
    return None if isinstance(end, int) and end >= _FAR else end


@operator("Gather")
def gather(g: Importer, node: OnnxNode, data: Value, index: Value) -> Value:
    """Rows along an axis by their numbers; of a weight by those of the inputs it is an embedding."""
    axis = node.number("axis", 0)
    if isinstance(data, Constant) and isinstance(index, Traced):
        if data.tensor.dim() == 2 and axis == 0 and data.tensor.dtype.is_floating_point:
            return embedding(g, data, index)
        data = Traced(g.tensor(data, tuned=True))
    if isinstance(index, Constant):
        if index.tensor.dim() == 0:
            return g.call(torch.select, data, axis, int(index.tensor))
        places = torch.where(index.tensor < 0, index.tensor + g.samples(data)[0].shape[axis], index.tensor)
        if not (bool((index.tensor < 0).any()) and not isinstance(g.size(data, axis), int)):
            index = Constant(places)
    place = axis % g.dims(data)
    return g.call(op.getitem, data, (*[slice(None)] * place, index))


@operator("GatherElements")
def gather_elements(g: Importer, node: OnnxNode, data: Value, index: Value) -> Value:
    """A value for each of the index, along an axis."""
    return g.call(torch.gather, data, node.number("axis", 0), index)


@operator("GatherND")
def gather_nd(g: Importer, node: OnnxNode, data: Value, index: Value) -> Value:
    """Parts by their places, of which the last dimension of the index tells all."""
    if node.number("batch_dims", 0):
        raise UnsupportedError("batch_dims is set")
    return g.call(functions.gather_nd, data, index)
