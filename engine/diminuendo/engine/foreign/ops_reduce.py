"""ONNX operators over whole dimensions: sums, means, products, running sums, orders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from diminuendo.engine.foreign import functions
from diminuendo.engine.foreign.importer import Importer
from diminuendo.engine.foreign.values import OnnxNode, UnsupportedError, Value, operator

_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "ReduceMean": torch.mean,
    "ReduceSum": torch.sum,
    "ReduceMax": torch.amax,
    "ReduceMin": torch.amin,
    "ReduceLogSumExp": torch.logsumexp,
    "ReduceL1": functions.sum_of_absolutes,
    "ReduceL2": functions.root_of_squares,
    "ReduceSumSquare": functions.sum_of_squares,
    "ReduceProd": functions.product,
}


def axes_of(g: Importer, node: OnnxNode, given: Value | None) -> list[int] | None:
    """Axes, from an input or, in older files, from an attribute; None where there are none."""
    if given is None:
        return node.numbers("axes")
    return [int(each) for each in g.constant(given).flatten().tolist()]


@operator(*_REDUCTIONS)
def reduced(g: Importer, node: OnnxNode, x: Value, given: Value | None = None) -> Value:
    """One value of all along some dimensions; by default along all."""
    axes = axes_of(g, node, given)
    if not axes:
        if node.number("noop_with_empty_axes", 0):
            return x
        axes = list(range(g.dims(x)))
    return g.call(_REDUCTIONS[node.op], x, axes, bool(node.number("keepdims", 1)))


@operator("ArgMax", "ArgMin")
def place_of(g: Importer, node: OnnxNode, x: Value) -> Value:
    """Where the largest or smallest value is."""
    if node.number("select_last_index", 0):
        raise UnsupportedError("select_last_index is set")
    function = torch.argmax if node.op == "ArgMax" else torch.argmin
    return g.call(function, x, node.number("axis", 0), bool(node.number("keepdims", 1)))


@operator("CumSum")
def cumsum(g: Importer, node: OnnxNode, x: Value, axis: Value) -> Value:
    """Running sums."""
    place = int(g.constant(axis))
    return g.call(functions.cumsum, x, place, bool(node.number("exclusive", 0)), bool(node.number("reverse", 0)))


@operator("LpNormalization")
def normalized(g: Importer, node: OnnxNode, x: Value) -> Value:
    """Values divided by their norm along an axis."""
    return g.call(torch.nn.functional.normalize, x, float(node.number("p", 2)), node.number("axis", -1))


@operator("Einsum")
def einsum(g: Importer, node: OnnxNode, *values: Value) -> Value:
    """A sum of products."""
    return g.call(torch.einsum, node.text("equation", ""), *values)
