"""ONNX operators with weights: convolutions, matrix products, normalisations, look-ups.

Legend: N samples, C channels, O outputs, I inputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from diminuendo.engine.foreign import functions, layers
from diminuendo.engine.foreign.importer import Importer
from diminuendo.engine.foreign.padding import Padding, padding_of
from diminuendo.engine.foreign.values import Constant, OnnxNode, Traced, UnsupportedError, Value, operator


@operator("Conv")
def conv(g: Importer, node: OnnxNode, x: Value, weight: Value, bias: Value | None = None) -> Value:
    """A convolution; padding that differs before and after becomes a call in front of it."""
    kernel = g.constant(weight)
    dims = kernel.dim() - 2
    options = _along(node, dims)
    padding = padding_of(g, node, x, list(kernel.shape[2:]), options["stride"], options["dilation"])
    if not padding.even:
        x = g.call(functional.pad, x, padding.outwards)
    options |= {"padding": padding.before if padding.even else (0,) * dims, "groups": node.number("group", 1)}
    return _with_weights(g, x, weight, bias, options, transposed=False)


@operator("ConvTranspose")
def conv_transpose(g: Importer, node: OnnxNode, x: Value, weight: Value, bias: Value | None = None) -> Value:
    """A transposed convolution; what its padding takes off at one end alone is cut off behind it."""
    kernel = g.constant(weight)
    dims = kernel.dim() - 2
    if node.attributes.get("output_shape") is not None or node.text("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise UnsupportedError("its padding follows from an output's size; export it with explicit pads")
    padding = Padding.of(node.numbers("pads") or [0] * (2 * dims))
    options = _along(node, dims) | {"groups": node.number("group", 1)}
    extra = tuple(node.numbers("output_padding") or [0] * dims)
    low = tuple(map(min, padding.before, padding.after))
    options |= {"padding": low, "output_padding": extra}
    made = _with_weights(g, x, weight, bias, options, transposed=True)
    if padding.even:
        return made
    cuts = [
        (before - least, after - least) for before, after, least in zip(padding.before, padding.after, low, strict=True)
    ]
    return g.call(functional.pad, made, [-cut for pair in reversed(cuts) for cut in pair])


def _along(node: OnnxNode, dims: int) -> dict[str, Any]:
    return {
        "stride": tuple(node.numbers("strides") or [1] * dims),
        "dilation": tuple(node.numbers("dilations") or [1] * dims),
    }


def _with_weights(
    g: Importer, x: Value, weight: Value, bias: Value | None, options: dict[str, Any], *, transposed: bool
) -> Value:
    own, added = g.parameter(weight), None if bias is None else g.parameter(bias)
    key = g.key("conv", transposed, options, weight, bias)
    return g.layer(g.title(weight, bias), layers.conv(own, added, transposed=transposed, **options), x, key)


@operator("Gemm")
def gemm(g: Importer, node: OnnxNode, a: Value, b: Value, c: Value | None = None) -> Value:
    """alpha A B + beta C, with A and B transposed or not: a linear layer where B and C are weights."""
    alpha, beta = node.real("alpha", 1.0), node.real("beta", 1.0)
    x = g.call(torch.transpose, a, 0, 1) if node.number("transA", 0) else a
    turned = not node.number("transB", 0)
    bias = _bias(c, g.constant(b).shape[int(turned)]) if isinstance(b, Constant) else None
    if isinstance(b, Constant) and isinstance(x, Traced) and alpha == beta == 1.0 and (c is None or bias is not None):
        return _linear(g, x, b, bias, turned=turned)
    product = g.call(torch.matmul, x, g.call(torch.transpose, b, 0, 1) if not turned else b)
    product = product if alpha == 1.0 else g.call(torch.mul, product, alpha)
    if c is None:
        return product
    return g.call(torch.add, product, c if beta == 1.0 else g.call(torch.mul, c, beta))


@operator("MatMul")
def matmul(g: Importer, node: OnnxNode, a: Value, b: Value) -> Value:
    """A product with a weight is a linear layer; a constant vector that is added to it alone is its bias."""
    if not (isinstance(b, Constant) and isinstance(a, Traced) and b.tensor.dim() == 2 and g.dims(a) > 1):
        return g.call(torch.matmul, a, b)
    followers = g.consumers.get(node.outputs[0], [])
    bias = None
    if len(followers) == 1 and followers[0].op == "Add" and g.uses[node.outputs[0]] == 1:
        other = next((name for name in followers[0].inputs if name != node.outputs[0]), "")
        bias = _bias(g.values.get(other), b.tensor.shape[1])
        if bias is not None:
            g.taken_in[followers[0].outputs[0]] = node.outputs[0]
    return _linear(g, a, b, bias, turned=True)


def _bias(value: Value | None, outputs: int) -> Constant | None:
    """A value as the bias of so many outputs, if it can be one."""
    if isinstance(value, Constant) and value.tensor.dim() == 1 and len(value.tensor) == outputs:
        return value
    return None


def _linear(g: Importer, x: Value, weight: Constant, bias: Constant | None, *, turned: bool) -> Value:
    own, added = g.parameter(weight, turned=turned), None if bias is None else g.parameter(bias)
    return g.layer(g.title(weight, bias), layers.linear(own, added), x, g.key("linear", turned, weight, bias))


@operator("BatchNormalization")
def batch_norm(g: Importer, node: OnnxNode, x: Value, scale: Value, bias: Value, mean: Value, variance: Value) -> Value:
    """BatchNorm, with its statistics."""
    tensors: dict[str, Tensor | None] = {
        "weight": g.parameter(scale),
        "bias": g.parameter(bias),
        "running_mean": g.constant(mean).clone(),
        "running_var": g.constant(variance).clone(),
    }
    made = layers.batch_norm(g.dims(x), tensors, node.real("epsilon", 1e-5), 1.0 - node.real("momentum", 0.9))
    return g.layer(g.title(scale, bias, mean), made, x)


@operator("LayerNormalization")
def layer_norm(g: Importer, node: OnnxNode, x: Value, scale: Value, bias: Value | None = None) -> Value:
    """LayerNorm over the last dimensions."""
    shape, eps = tuple(g.constant(scale).shape), node.real("epsilon", 1e-5)
    axis = node.number("axis", -1)
    if len(shape) != (-axis if axis < 0 else g.dims(x) - axis):
        raise UnsupportedError(f"its scale has shape {shape}, not that of the dimensions from {axis} on")
    tensors = {"weight": g.parameter(scale), "bias": None if bias is None else g.parameter(bias)}
    made = layers.with_tensors(nn.LayerNorm, shape, eps=eps, bias=bias is not None, tensors=tensors)
    return g.layer(g.title(scale, bias), made, x)


@operator("RMSNormalization")
def rms_norm(g: Importer, node: OnnxNode, x: Value, scale: Value) -> Value:
    """RMSNorm over the last dimensions."""
    shape, eps = tuple(g.constant(scale).shape), node.real("epsilon", 1e-5)
    made = layers.with_tensors(nn.RMSNorm, shape, eps=eps, tensors={"weight": g.parameter(scale)})
    return g.layer(g.title(scale), made, x)


@operator("InstanceNormalization")
def instance_norm(g: Importer, node: OnnxNode, x: Value, scale: Value, bias: Value) -> Value:
    """InstanceNorm, by the statistics of each sample."""
    tensors = {"weight": g.parameter(scale), "bias": g.parameter(bias)}
    made = layers.with_tensors(
        layers.INSTANCE_NORMS[g.dims(x)],
        len(g.constant(scale)),
        eps=node.real("epsilon", 1e-5),
        affine=True,
        tensors=tensors,
    )
    return g.layer(g.title(scale, bias), made, x)


@operator("GroupNormalization")
def group_norm(g: Importer, node: OnnxNode, x: Value, scale: Value, bias: Value) -> Value:
    """GroupNorm; before opset 21 there is one scale for each group."""
    groups, eps = node.number("num_groups", 1), node.real("epsilon", 1e-5)
    channels = g.samples(x)[0].shape[1]
    tensors: dict[str, Tensor | None] = {}
    for name, value in (("weight", scale), ("bias", bias)):
        given = g.constant(value)
        each = channels // len(given)
        tensors[name] = g.parameter(value if each == 1 else Constant(given.repeat_interleave(each)))
    made = layers.with_tensors(nn.GroupNorm, groups, channels, eps=eps, tensors=tensors)
    return g.layer(g.title(scale, bias), made, x)


@operator("PRelu")
def prelu(g: Importer, node: OnnxNode, x: Value, slope: Value) -> Value:
    """A leaky ReLU with learned slopes."""
    if isinstance(slope, Constant):
        shape = [1] * (g.dims(x) - slope.tensor.dim()) + list(slope.tensor.shape)
        if slope.tensor.numel() == 1 or (len(shape) > 1 and slope.tensor.numel() == shape[1]):
            own = parameter_of(slope.tensor.flatten())
            made = layers.with_tensors(nn.PReLU, own.numel(), tensors={"weight": own})
            return g.layer(g.title(slope), made, x)
    return g.call(functions.prelu, x, slope)


def parameter_of(value: Tensor) -> nn.Parameter:
    """A tensor of its own that is tuned."""
    return nn.Parameter(value.detach().clone())


def embedding(g: Importer, table: Constant, index: Value) -> Value:
    """Rows of a table that is a weight."""
    own = g.parameter(table)
    made = layers.with_tensors(nn.Embedding, *own.shape, tensors={"weight": own})
    return g.layer(g.title(table), made, index, g.key("embedding", table))


@operator("Dropout")
def dropout(g: Importer, node: OnnxNode, x: Value, ratio: Value | None = None, mode: Value | None = None) -> Value:
    """Dropout, which is at work in training alone."""
    share = float(g.constant(ratio)) if ratio is not None else node.real("ratio", 0.5)
    return g.layer(g.title(), nn.Dropout(share), x) if isinstance(x, Traced) else x
