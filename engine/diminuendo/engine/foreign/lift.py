"""Turns calls of ATen operators with weights into PyTorch's layers that own these weights."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from diminuendo.engine.foreign import layers
from diminuendo.engine.foreign.builder import Builder, layer_name

aten: Any = torch.ops.aten

_WITHOUT_EFFECT = frozenset(
    {
        aten._assert_scalar.default,
        aten._assert_async.msg,
        aten._assert_tensor_metadata.default,
        aten.sym_constrain_range.default,
        aten.sym_constrain_range_for_size.default,
    }
)
_DROPOUTS: dict[Any, type[nn.Module]] = {
    aten.dropout.default: nn.Dropout,
    aten.dropout_.default: nn.Dropout,
    aten.native_dropout.default: nn.Dropout,
    aten.feature_dropout.default: nn.Dropout2d,
    aten.alpha_dropout.default: nn.AlphaDropout,
    aten.feature_alpha_dropout.default: nn.FeatureAlphaDropout,
}
_RELUS = frozenset({aten.relu.default, aten.relu_.default})
_POOLINGS: dict[Any, type[nn.Module]] = {
    aten.max_pool1d.default: nn.MaxPool1d,
    aten.max_pool2d.default: nn.MaxPool2d,
    aten.max_pool3d.default: nn.MaxPool3d,
    aten.avg_pool1d.default: nn.AvgPool1d,
    aten.avg_pool2d.default: nn.AvgPool2d,
    aten.avg_pool3d.default: nn.AvgPool3d,
    aten.adaptive_avg_pool1d.default: nn.AdaptiveAvgPool1d,
    aten.adaptive_avg_pool2d.default: nn.AdaptiveAvgPool2d,
    aten.adaptive_avg_pool3d.default: nn.AdaptiveAvgPool3d,
}
_TRANSPOSITIONS = frozenset({aten.t.default, aten.permute.default, aten.transpose.int, aten.numpy_T.default})

Weights = Mapping[fx.Node, tuple[str, Tensor]]
"""Of a program: name and value of the placeholders that stand for tensors."""


def without_effect(node: fx.Node) -> bool:
    """Whether a call checks what the export assumed, and nothing else comes of it."""
    counts = node.target is aten.add_.Tensor and str(node.args[0]).endswith("num_batches_tracked")
    return node.target in _WITHOUT_EFFECT or counts


class Lifter:
    """Lifts calls of one program.

    Attributes:
        builder: Of the network.
        tensors: The program's weights.
        node: What stands for a node of the program in the network.
    """

    def __init__(self, builder: Builder, tensors: Weights, node: Callable[[fx.Node], Any]) -> None:
        """Nothing is lifted yet."""
        self.builder, self.tensors, self.node = builder, tensors, node

    def training(self, node: fx.Node) -> bool:
        """Whether a call computes as in training."""
        if node.target is aten.batch_norm.default:
            given = _arguments(node)
            return bool(given["training"]) and given["running_mean"] is not None
        return node.target in _DROPOUTS and bool(_arguments(node).get("train"))

    def lifted(self, node: fx.Node) -> Any:
        """The call as one of a layer; None where it stays a call of a function."""
        target: Any = node.target
        if not isinstance(target, torch._ops.OpOverload):
            return self._first_of(node)
        given = _arguments(node)
        if target in _RULES:
            return _RULES[target](self, node, given)
        if target in _RELUS:
            return self._plain(node, nn.ReLU(), given["self"])
        if target in _DROPOUTS:
            return self._plain(node, _DROPOUTS[target](given["p"]), given["input"])
        if target in _POOLINGS:
            options = {name: value for name, value in given.items() if name != "self" and value not in (None, [])}
            return self._plain(node, _POOLINGS[target](**options), given["self"])
        return None

    def _first_of(self, node: fx.Node) -> Any:
        """The first result of a layer, whose call gave several in the program."""
        if node.target is operator.getitem:
            source, place = node.args
            if isinstance(source, fx.Node) and source.target in _SEVERAL and place == 0:
                made = self.node(source)
                return made if made.op == "call_module" else None
        return None

    def layer(
        self,
        node: fx.Node,
        x: Any,
        made: Callable[[Mapping[str, Tensor | None]], nn.Module],
        held: Mapping[str, Any],
        options: Any = None,
    ) -> Any:
        """Call a layer with weights.

        Args:
            node: Of the program.
            x: What it is given there.
            made: Makes the layer of its tensors.
            held: Its tensors as nodes of the program, or None.
            options: What else tells it from other layers with the same weights.
        """
        if any(value is not None and value not in self.tensors for value in held.values()) or x in self.tensors:
            return None
        found = {name: None if value is None else self.tensors[value] for name, value in held.items()}
        tensors = {name: None if each is None else each[1] for name, each in found.items()}
        name = next((layer_name(each[0]) for each in found.values() if each is not None), node.name)
        key = (node.target, repr(options), *map(id, tensors.values()))
        return self.builder.module(name, made(tensors), self.node(x), key)

    def _plain(self, node: fx.Node, made: nn.Module, x: fx.Node) -> Any:
        """Call a layer without weights, named by the module that it was in the program where it was one."""
        if x in self.tensors:
            return None
        path, kind = next(reversed((node.meta.get("nn_module_stack") or {"": ("", "")}).values()))
        kind = kind if isinstance(kind, str) else kind.__name__
        own = kind.rpartition(".")[2] == type(made).__name__
        return self.builder.module(
            path if own and path else ".".join(filter(None, [path, node.name])), made, self.node(x)
        )


def _arguments(node: fx.Node) -> dict[str, Any]:
    """Arguments of a call by the names in the operator's schema, with its defaults."""
    schema = node.target._schema  # type: ignore[union-attr]
    given = {each.name: each.default_value for each in schema.arguments if each.has_default_value()}
    given |= dict(zip((each.name for each in schema.arguments), node.args, strict=False))
    return given | dict(node.kwargs)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


def _conv(lifter: Lifter, node: fx.Node, given: Mapping[str, Any]) -> Any:
    transposed = bool(given.get("transposed", "output_padding" in given and "transposed" not in given))
    names = ["stride", "padding", "dilation", "groups"] + (["output_padding"] if transposed else [])
    weight = given["weight"]
    if weight not in lifter.tensors:
        return None
    dims = lifter.tensors[weight][1].dim() - 2
    options = {name: _spread(_tuple(given[name]), dims) if name != "groups" else given[name] for name in names}
    held = {"weight": weight, "bias": given["bias"]}
    return lifter.layer(
        node,
        given["input"],
        lambda t: layers.conv(_some(t["weight"]), t["bias"], transposed=transposed, **options),
        held,
        options,
    )


def _spread(value: Any, dims: int) -> Any:
    """One value for each dimension."""
    return value * dims if isinstance(value, tuple) and len(value) == 1 else value


def _some(value: Tensor | None) -> Tensor:
    if value is None:
        raise TypeError("a layer without a weight")
    return value


def _linear(lifter: Lifter, node: fx.Node, given: Mapping[str, Any]) -> Any:
    held = {"weight": given["weight"], "bias": given["bias"]}
    return lifter.layer(node, given["input"], lambda t: layers.linear(_some(t["weight"]), t["bias"]), held)


def _addmm(lifter: Lifter, node: fx.Node, given: Mapping[str, Any]) -> Any:
    weight = _transposed(given["mat2"], lifter.tensors)
    plain = given.get("beta", 1) == 1 and given.get("alpha", 1) == 1
    bias = given["self"] if node.target is aten.addmm.default else None
    if weight is None or not plain or (bias is not None and bias.meta["val"].dim() != 1):
        return None
    x = given["mat1" if node.target is aten.addmm.default else "self"]
    held = {"weight": weight, "bias": bias}
    return lifter.layer(node, x, lambda t: layers.linear(_some(t["weight"]), t["bias"]), held)


def _transposed(node: fx.Node, tensors: Weights) -> fx.Node | None:
    """The weight that this is the transpose of."""
    source = node.args[0] if node.target in _TRANSPOSITIONS else None
    return source if isinstance(source, fx.Node) and source in tensors and source.meta["val"].dim() == 2 else None


def _batch_norm(lifter: Lifter, node: fx.Node, given: Mapping[str, Any]) -> Any:
    held = {name: given[name] for name in ("weight", "bias", "running_mean", "running_var")}
    if all(value is None for value in held.values()) or (held["weight"] is None) != (held["bias"] is None):
        return None
    x, eps = given["input"], given["eps"]
    momentum = given["momentum"] or None
    dims = x.meta["val"].dim()
    return lifter.layer(node, x, lambda t: layers.batch_norm(dims, t, eps, momentum), held, (eps, momentum))


def _layer_norm(lifter: Lifter, node: fx.Node, given: Mapping[str, Any]) -> Any:
    shape, eps = tuple(given["normalized_shape"]), given["eps"]
    if given["weight"] is None or not all(isinstance(size, int) for size in shape):
        return None

    def made(tensors: Mapping[str, Tensor | None]) -> nn.Module:
        bias = tensors["bias"] is not None
        return layers.with_tensors(nn.LayerNorm, shape, eps=eps, bias=bias, tensors=tensors)

    return lifter.layer(node, given["input"], made, {"weight": given["weight"], "bias": given["bias"]}, (shape, eps))


def _group_norm(lifter: Lifter, node: fx.Node, given: Mapping[str, Any]) -> Any:
    if given["weight"] is None or given["bias"] is None:
        return None
    groups, eps = given.get("num_groups", given.get("group")), given["eps"]

    def made(tensors: Mapping[str, Tensor | None]) -> nn.Module:
        channels = len(_some(tensors["weight"]))
        return layers.with_tensors(nn.GroupNorm, groups, channels, eps=eps, tensors=tensors)

    return lifter.layer(node, given["input"], made, {"weight": given["weight"], "bias": given["bias"]}, (groups, eps))


def _instance_norm(lifter: Lifter, node: fx.Node, given: Mapping[str, Any]) -> Any:
    held = {"weight": given["weight"], "bias": given["bias"]}
    kind = layers.INSTANCE_NORMS.get(given["input"].meta["val"].dim())
    if None in held.values() or given["running_mean"] is not None or kind is None:
        return None
    eps = given["eps"]

    def made(tensors: Mapping[str, Tensor | None]) -> nn.Module:
        return layers.with_tensors(kind, len(_some(tensors["weight"])), eps=eps, affine=True, tensors=tensors)

    return lifter.layer(node, given["input"], made, held, eps)


def _rms_norm(lifter: Lifter, node: fx.Node, given: Mapping[str, Any]) -> Any:
    shape, eps = tuple(given["normalized_shape"]), given["eps"]
    if given["weight"] is None:
        return None

    def made(tensors: Mapping[str, Tensor | None]) -> nn.Module:
        return layers.with_tensors(nn.RMSNorm, shape, eps=eps, tensors=tensors)

    return lifter.layer(node, given["input"], made, {"weight": given["weight"]}, (shape, eps))


def _embedding(lifter: Lifter, node: fx.Node, given: Mapping[str, Any]) -> Any:
    padding = given["padding_idx"] if given["padding_idx"] >= 0 else None

    def made(tensors: Mapping[str, Tensor | None]) -> nn.Module:
        weight = _some(tensors["weight"])
        return layers.with_tensors(nn.Embedding, *weight.shape, padding_idx=padding, tensors={"weight": weight})

    return lifter.layer(node, given["indices"], made, {"weight": given["weight"]}, padding)


def _prelu(lifter: Lifter, node: fx.Node, given: Mapping[str, Any]) -> Any:
    def made(tensors: Mapping[str, Tensor | None]) -> nn.Module:
        weight = _some(tensors["weight"])
        return layers.with_tensors(nn.PReLU, weight.numel(), tensors={"weight": weight})

    return lifter.layer(node, given["self"], made, {"weight": given["weight"]})


Rule = Callable[[Lifter, fx.Node, Mapping[str, Any]], Any]

_CONVS = (
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.conv1d.padding,
    aten.conv2d.padding,
    aten.conv3d.padding,
    aten.conv_transpose1d.default,
    aten.conv_transpose2d.input,
    aten.conv_transpose3d.input,
    aten.convolution.default,
)
_RULES: dict[Any, Rule] = {
    **dict.fromkeys(_CONVS, _conv),
    aten.linear.default: _linear,
    aten.addmm.default: _addmm,
    aten.mm.default: _addmm,
    aten.batch_norm.default: _batch_norm,
    aten._native_batch_norm_legit_no_training.default: _batch_norm,
    aten.layer_norm.default: _layer_norm,
    aten.native_layer_norm.default: _layer_norm,
    aten.group_norm.default: _group_norm,
    aten.native_group_norm.default: _group_norm,
    aten.instance_norm.default: _instance_norm,
    aten.rms_norm.default: _rms_norm,
    aten.embedding.default: _embedding,
    aten.prelu.default: _prelu,
}
_SEVERAL = frozenset(
    {
        aten._native_batch_norm_legit_no_training.default,
        aten.native_layer_norm.default,
        aten.native_group_norm.default,
        aten.native_dropout.default,
    }
)
"""Operators whose layers give one tensor where they give several."""
