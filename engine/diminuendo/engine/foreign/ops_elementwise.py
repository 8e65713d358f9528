"""ONNX operators that work on each value: arithmetic, comparisons, activations."""

from __future__ import annotations

import operator as op
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from diminuendo.engine.foreign import functions
from diminuendo.engine.foreign.dtypes import torch_dtype
from diminuendo.engine.foreign.importer import Importer
from diminuendo.engine.foreign.values import Constant, OnnxNode, Sizes, Traced, Value, operator

_UNARY: dict[str, Callable[..., Any]] = {
    "Sqrt": torch.sqrt,
    "Exp": torch.exp,
    "Log": torch.log,
    "Neg": torch.neg,
    "Abs": torch.abs,
    "Erf": torch.erf,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Round": torch.round,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Tan": torch.tan,
    "Atan": torch.atan,
    "Reciprocal": torch.reciprocal,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Softplus": functional.softplus,
    "Softsign": functional.softsign,
    "HardSwish": functional.hardswish,
    "Mish": functional.mish,
    "IsNaN": torch.isnan,
    "Not": torch.logical_not,
}
_BINARY: dict[str, Callable[..., Any]] = {
    "Add": op.add,
    "Sub": op.sub,
    "Mul": op.mul,
    "Pow": op.pow,
    "Less": op.lt,
    "LessOrEqual": op.le,
    "Greater": op.gt,
    "GreaterOrEqual": op.ge,
    "Equal": op.eq,
}
_LOGICAL: dict[str, Callable[..., Any]] = {
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
}
_SEVERAL: dict[str, Callable[..., Any]] = {"Sum": torch.add, "Min": torch.minimum, "Max": torch.maximum}

_TUNED = frozenset({"Add", "Mul", "Concat", "MatMul"})
"""Whose initializers are weights; what is subtracted or divided by is a mean or a spread of the data."""


@operator(*_UNARY)
def unary(g: Importer, node: OnnxNode, x: Value) -> Value:
    """A function of each value."""
    return g.call(_UNARY[node.op], x)


@operator(*_BINARY)
def binary(g: Importer, node: OnnxNode, a: Value, b: Value) -> Value:
    """A function of two values each."""
    return g.call(_BINARY[node.op], operand(g, a, b), operand(g, b, a))


@operator(*_LOGICAL)
def logical(g: Importer, node: OnnxNode, a: Value, b: Value) -> Value:
    """Of two truths each."""
    return g.call(_LOGICAL[node.op], a, b)


def operand(g: Importer, value: Value, other: Value) -> Any:
    """A value as an operand beside another: a plain number where it is one."""
    if isinstance(value, Sizes) and value.scalar:
        return value.items[0]
    if isinstance(value, Constant) and isinstance(other, Traced):
        if value.tensor.numel() == 1 and value.tensor.dim() <= g.dims(other):
            return value.tensor.item()
        return g.tensor(value, tuned=g.node.op in _TUNED)
    return value


@operator("Div")
def divided(g: Importer, node: OnnxNode, a: Value, b: Value) -> Value:
    """A quotient; of whole numbers without what is after the point."""
    real = g.samples(a)[0].dtype.is_floating_point if not isinstance(a, Sizes) else False
    if real:
        return g.call(op.truediv, operand(g, a, b), operand(g, b, a))
    return g.call(torch.div, a, operand(g, b, a), rounding_mode="trunc")


@operator("Mod")
def remainder(g: Importer, node: OnnxNode, a: Value, b: Value) -> Value:
    """What a division leaves, with the sign of the divisor or (fmod) of the dividend."""
    return g.call(torch.fmod if node.number("fmod", 0) else torch.remainder, a, operand(g, b, a))


@operator(*_SEVERAL)
def several(g: Importer, node: OnnxNode, *values: Value) -> Value:
    """A function of two values, of any number of them."""
    return reduce(partial(g.call, _SEVERAL[node.op]), values)


@operator("Where")
def where(g: Importer, node: OnnxNode, condition: Value, a: Value, b: Value) -> Value:
    """One value or the other."""
    return g.call(torch.where, condition, operand(g, a, condition), operand(g, b, condition))


@operator("Identity")
def same(g: Importer, node: OnnxNode, x: Value) -> Value:
    """The value itself."""
    return x


@operator("Cast")
def cast(g: Importer, node: OnnxNode, x: Value) -> Value:
    """Another type of values."""
    dtype = torch_dtype(node.number("to", 1))
    return x if g.samples(x)[0].dtype == dtype else g.call("to", x, dtype)


@operator("CastLike")
def cast_like(g: Importer, node: OnnxNode, x: Value, other: Value) -> Value:
    """The type of values of another one."""
    dtype = g.samples(other)[0].dtype
    return x if g.samples(x)[0].dtype == dtype else g.call("to", x, dtype)


@operator("Relu")
def relu(g: Importer, node: OnnxNode, x: Value) -> Value:
    """A ReLU, as a layer."""
    return g.layer(g.title(), nn.ReLU(), x) if isinstance(x, Traced) else g.call(torch.relu, x)


@operator("LeakyRelu")
def leaky_relu(g: Importer, node: OnnxNode, x: Value) -> Value:
    """A ReLU that leaks."""
    return g.call(functional.leaky_relu, x, node.real("alpha", 0.01))


@operator("ThresholdedRelu")
def thresholded_relu(g: Importer, node: OnnxNode, x: Value) -> Value:
    """Zero up to a threshold."""
    return g.call(functional.threshold, x, node.real("alpha", 1.0), 0.0)


@operator("Elu")
def elu(g: Importer, node: OnnxNode, x: Value) -> Value:
    """An exponential linear unit."""
    return g.call(functional.elu, x, node.real("alpha", 1.0))


@operator("Celu")
def celu(g: Importer, node: OnnxNode, x: Value) -> Value:
    """A continuous one."""
    return g.call(functional.celu, x, node.real("alpha", 1.0))


@operator("Selu")
def selu(g: Importer, node: OnnxNode, x: Value) -> Value:
    """A scaled one."""
    alpha, gamma = node.real("alpha", 1.6732632423543772), node.real("gamma", 1.0507009873554805)
    return g.call(functions.selu, x, alpha, gamma)


@operator("HardSigmoid")
def hard_sigmoid(g: Importer, node: OnnxNode, x: Value) -> Value:
    """A sigmoid in three pieces."""
    return g.call(functions.hard_sigmoid, x, node.real("alpha", 0.2), node.real("beta", 0.5))


@operator("Gelu", "com.microsoft.Gelu")
def gelu(g: Importer, node: OnnxNode, x: Value) -> Value:
    """A Gaussian error linear unit."""
    return g.call(functional.gelu, x, approximate=node.text("approximate", "none"))


@operator("Clip")
def clip(g: Importer, node: OnnxNode, x: Value, low: Value | None = None, high: Value | None = None) -> Value:
    """Values within bounds."""
    ends = [
        node.attributes.get(name) if value is None else g.constant(value).item()
        for name, value in (("min", low), ("max", high))
    ]
    return x if ends == [None, None] else g.call(torch.clamp, x, ends[0], ends[1])


@operator("Softmax", "LogSoftmax")
def softmax(g: Importer, node: OnnxNode, x: Value) -> Value:
    """(Log-)softmax along an axis; before opset 13 over all from it on together."""
    log, old = node.op == "LogSoftmax", g.opset < 13
    axis = node.number("axis", 1 if old else -1)
    if old and axis not in (-1, g.dims(x) - 1):
        return g.call(functions.softmax_from, x, axis, log)
    return g.call(functional.log_softmax if log else functional.softmax, x, axis)
