"""Folds BatchNorms into the convolution or linear layer before them, on an exported program's graph.

On the graph it is never wrong: a layer that is called twice, or whose output is used elsewhere, too, is seen there.

Legend: C channels that are normalised, G groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument
from torch.fx import Node

_aten = torch.ops.aten
_PLAIN = (
    _aten.conv1d.default,
    _aten.conv1d.padding,
    _aten.conv2d.default,
    _aten.conv2d.padding,
    _aten.conv3d.default,
    _aten.conv3d.padding,
    _aten.linear.default,
)
_TRANSPOSED = (_aten.conv_transpose1d.default, _aten.conv_transpose2d.input, _aten.conv_transpose3d.input)
_NORM = _aten.batch_norm.default
_BIAS, _GROUPS = 2, 6
"""Places of arguments: of every such layer, and of a transposed convolution."""


@dataclass(frozen=True)
class Folded:
    """A program after folding.

    Attributes:
        folded: BatchNorms that are gone.
        unfolded: BatchNorms that are left.
    """

    program: ExportedProgram
    folded: int
    unfolded: int


def fold(program: ExportedProgram, precise: Mapping[str, Tensor]) -> Folded:
    """Fold what can be folded exactly.

    Args:
        program: Its graph is changed; do not use it afterwards.
        precise: Weights by name as they were before they were rounded to the program's type; others are taken as they
            are in the program.
    """
    folding = _Folding(program, precise)
    norms = [node for node in program.graph.nodes if node.op == "call_function" and node.target is _NORM]
    done = sum(folding.try_fold(norm) for norm in norms)
    return Folded(folding.finished() if done else program, done, len(norms) - done)


class _Folding:
    """The graph, its signature and its weights, while they are changed."""

    def __init__(self, program: ExportedProgram, precise: Mapping[str, Tensor]) -> None:
        self._program, self._precise = program, dict(precise)
        self._state = dict(program.state_dict)
        self._specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
        self._renamed: dict[str, str] = {}

    def try_fold(self, norm: Node) -> bool:
        """Fold one BatchNorm; False, and nothing changed, where it cannot be done."""
        layer, gain, shift, mean, var, training, _, eps = _padded(norm, 8)
        if training or mean is None or not isinstance(layer, Node) or not self._foldable(layer, norm):
            return False
        _, weight, bias = _padded(layer, 3)
        holder = bias or next((node for node in (shift, mean) if node is not None and self._sole(node)), None)
        values = [self._value(node) for node in (weight, bias, gain, shift, mean, var)]
        kernel, own, scale, offset, centre, spread = values
        if holder is None or kernel is None or centre is None or spread is None:
            return False
        if (gain is None) != (scale is None) or (shift is None) != (offset is None):
            return False  # computed, and no weight
        factor = (spread + eps).rsqrt() * (1.0 if scale is None else scale)
        moved = ((0.0 if own is None else own) - centre) * factor + (0.0 if offset is None else offset)
        self._set(weight, kernel * _along(factor, kernel, layer))
        if bias is None:
            self._rename(holder, weight)
            layer.args = (*_padded(layer, max(len(layer.args), _BIAS + 1))[:_BIAS], holder, *layer.args[_BIAS + 1 :])
        self._set(holder, moved)
        norm.replace_all_uses_with(layer)
        self._renamed[norm.name] = layer.name
        self._program.graph.erase_node(norm)
        return True

    def _foldable(self, layer: Node, norm: Node) -> bool:
        """Whether a node is a layer whose output goes to this BatchNorm alone, and whose weights are its own."""
        if layer.op != "call_function" or layer.target not in (*_PLAIN, *_TRANSPOSED) or set(layer.users) != {norm}:
            return False
        _, weight, bias = _padded(layer, 3)
        dims = weight.meta["val"].dim() if self._sole(weight) else 0
        # Channels are dimension 1 of what BatchNorm takes; a linear layer's are the last one of what it gives.
        return bool(layer.meta["val"].dim() == dims) and (bias is None or self._sole(bias))

    def _sole(self, node: object) -> bool:
        """Whether a node is a weight that is used in one place."""
        return isinstance(node, Node) and len(node.users) == 1 and self._value(node) is not None

    def _value(self, node: object) -> Any:
        """A weight or buffer, in float64; None for any other node."""
        spec = self._specs.get(node.name) if isinstance(node, Node) else None
        if spec is None or spec.target is None or spec.target not in self._state:
            return None
        value = self._precise[spec.target] if spec.target in self._precise else self._state[spec.target]
        return value.detach().to(torch.float64)

    def _set(self, node: Node, value: Tensor) -> None:
        """Give a weight another value, in its own type."""
        name = str(self._specs[node.name].target)
        old = self._state[name]
        self._precise[name] = value
        made = value.to(old.dtype)
        self._state[name] = nn.Parameter(made, old.requires_grad) if isinstance(old, nn.Parameter) else made

    def _rename(self, node: Node, weight: Node) -> None:
        """Call what becomes a layer's bias like one: ``conv.bias`` beside ``conv.weight``."""
        spec, beside = self._specs[node.name], str(self._specs[weight.name].target)
        name = f"{beside.removesuffix('weight')}bias"
        if beside.endswith("weight") and name not in self._state:
            self._state[name] = self._state.pop(str(spec.target))
            self._precise.pop(str(spec.target), None)
            self._specs[node.name] = replace(spec, target=name)

    def finished(self) -> ExportedProgram:
        """The program without what is not used any more."""
        program, graph = self._program, self._program.graph
        for node in [node for node in graph.nodes if node.op == "placeholder" and not node.users]:
            spec = self._specs[node.name]
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and spec.target in self._state:
                del self._state[spec.target], self._specs[node.name]
                graph.erase_node(node)
        signature = replace(
            program.graph_signature,
            input_specs=list(self._specs.values()),
            output_specs=[
                replace(spec, arg=TensorArgument(self._renamed[spec.arg.name]))
                if isinstance(spec.arg, TensorArgument) and spec.arg.name in self._renamed
                else spec
                for spec in program.graph_signature.output_specs
            ],
        )
        return ExportedProgram(
            root=program.graph_module,
            graph=graph,
            graph_signature=signature,
            state_dict=self._state,
            range_constraints=program.range_constraints,
            module_call_graph=program.module_call_graph,
            example_inputs=program.example_inputs,
            constants=program.constants,
            verifiers=program.verifiers,
        )


def _padded(node: Node, count: int) -> tuple[Any, ...]:
    """A node's first arguments, None for those that are left out."""
    return (*node.args, *(None,) * count)[:count]


def _along(factor: Tensor, kernel: Tensor, layer: Node) -> Tensor:
    """(C,) factors, so that they multiply the channels of a kernel.

    A convolution's and a linear layer's kernel is (C, ...); a transposed convolution's (C_in, C / G, ...), whose rows
    come group by group.
    """
    if layer.target not in _TRANSPOSED:
        return factor.reshape(-1, *(1,) * (kernel.dim() - 1))
    groups = int(_padded(layer, _GROUPS + 1)[_GROUPS] or 1)
    rows = factor.reshape(groups, -1).repeat_interleave(len(kernel) // groups, dim=0)
    return rows.reshape(*rows.shape, *(1,) * (kernel.dim() - 2))
