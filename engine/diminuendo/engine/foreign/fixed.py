"""Lets a graph that was exported for a fixed number of samples take any: its literal sizes are told anew.

Only what reshapes, repeats or makes tensors has sizes in it. The rules, where B is the number of the export:

- a reshape of what depends on the samples leaves one size open, the one that their number is part of;
- an expansion or a repetition of a weight to B rows, and a new tensor of B rows or numbers, get as many as there are
  samples;
- a weight of one row that is joined with what depends on the samples is repeated for each.

What depends on the samples is seen by running the graph on another number of them. Whether the rules were right is
seen afterwards, when the network is compared with its file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, fx

from diminuendo.engine.foreign.builder import Builder

aten: Any = torch.ops.aten

SAMPLES: Final = object()
"""Stands for the number of samples among the arguments of a call."""

_RESHAPES = frozenset({aten.view.default, aten.reshape.default, aten._unsafe_view.default})
_MAKERS = frozenset({aten.zeros.default, aten.ones.default, aten.full.default, aten.empty.memory_format})
_LIKE = frozenset({aten.new_zeros.default, aten.new_ones.default, aten.new_full.default, aten.new_empty.default})
_RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu", "quantized_lstm", "quantized_gru"})


def is_recurrent(node: fx.Node) -> bool:
    """Whether a call is of a recurrent layer: it does not check its states, and a wrong shape ends the process."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._opname in _RECURRENT


def open_dimension(before: Sequence[int], varying: int, after: Sequence[int], batch: int) -> int | None:
    """The dimension of a reshaped tensor that the number of samples is part of.

    A reshape keeps the order of the elements, so it lies among those that the one before stretched over. Where several
    do, it is the one of exactly as many places as there are samples; and for a single sample, which stretches over
    nothing and may be joined to what lies on either side, the one in front when dimensions are joined (rows of all
    samples for a linear layer), and the one behind when they are split (the heads of an attention).

    Args:
        before: Shape at the export.
        varying: The dimension that depends on the number of samples.
        after: The other shape, all of it known.
        batch: Samples of the export.

    Returns:
        None where there is none.
    """
    low = math.prod(before[:varying])
    high = low * before[varying]
    reach = [(math.prod(after[:place]), math.prod(after[: place + 1])) for place in range(len(after))]
    for place, (start, end) in enumerate(reach):
        if after[place] == batch and low <= start and end <= high:
            return place
    touching = [
        place
        for place, (start, end) in enumerate(reach)
        if after[place] % batch == 0 and (start < high and end > low if high > low else start <= low <= end)
    ]
    if not touching:
        return None
    return touching[0] if len(after) < len(before) else touching[-1]


@dataclass(frozen=True)
class Repeated:
    """Stands for a tensor of one row that is repeated for each sample.

    Attributes:
        node: Of the program.
    """

    node: fx.Node


Shape = tuple[int, ...]


class Rebatching:
    """Arguments of a program's calls for any number of samples.

    Attributes:
        batch: The number of the export.
        tried: A node of the program -> the shape of what the network gives for it on another number of samples.
    """

    def __init__(self, batch: int, tried: Callable[[fx.Node], Shape]) -> None:
        """Of a program whose nodes are asked about in order."""
        self.batch, self.tried = batch, tried

    def arguments(self, node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments of a call, in nodes of the program, `SAMPLES` and `Repeated`."""
        args: tuple[Any, ...] = node.args
        kwargs = dict(node.kwargs)
        if node.target in _RESHAPES:
            args = args[0], self._reshaped(args[0], node)
        elif node.target is aten.expand.default:
            args = args[0], self._expanded(args[0], args[1], node)
        elif node.target is aten.repeat.default and self._varying(args[0]) is None and _shape(node)[0] == self.batch:
            args = args[0], self._first(args[1])
        elif node.target in _MAKERS:
            args = self._first(args[0]), *args[1:]
        elif node.target is aten.arange.default and args[0] == self.batch:  # that numbers the samples
            args = SAMPLES, *args[1:]
        elif node.target in _LIKE:
            args = args[0], self._first(args[1]), *args[2:]
        elif node.target is aten.cat.default and not (len(args) > 1 and args[1] == 0):
            args = self._joined(args[0]), *args[1:]
        return args, kwargs

    def _varying(self, node: fx.Node) -> int | None:
        """The first dimension that depends on the number of samples."""
        pairs = enumerate(zip(_shape(node), self.tried(node), strict=True))
        return next((place for place, (one, two) in pairs if one != two), None)

    def _first(self, sizes: Any) -> Any:
        """Sizes whose first is the number of samples where it is that of the export."""
        given = list(sizes)
        return [SAMPLES, *given[1:]] if len(given) > 1 and given[0] == self.batch else given

    def _reshaped(self, x: fx.Node, node: fx.Node) -> list[Any]:
        varying, after = self._varying(x), list(_shape(node))
        place = None if varying is None else open_dimension(_shape(x), varying, after, self.batch)
        return after if place is None else [*after[:place], -1, *after[place + 1 :]]

    def _expanded(self, x: fx.Node, sizes: Any, node: fx.Node) -> Any:
        varying, given = self._varying(x), list(sizes)
        if varying is not None:
            given[len(given) - len(_shape(x)) + varying] = -1
        elif _shape(node)[0] == self.batch:
            given[0] = SAMPLES
        return given

    def _joined(self, parts: Any) -> Any:
        varying = any(self._varying(part) == 0 for part in parts)
        return [
            Repeated(part) if varying and self._varying(part) is None and _shape(part)[0] == 1 else part
            for part in parts
        ]


def _shape(node: fx.Node) -> Shape:
    """Of what a node of the program gave at the export."""
    return tuple(int(size) for size in node.meta["val"].shape)


class Trial:
    """Runs a network on another number of samples while it is built."""

    def __init__(self, builder: Builder, inputs: Sequence[Tensor]) -> None:
        """Of a network without any nodes yet, which are given these inputs."""
        self._builder = builder
        self._inputs = list(inputs)
        self._values: dict[fx.Node, Any] = {}

    def run(self) -> None:
        """Run the nodes that came since."""
        for node in self._builder.graph.nodes:
            if node not in self._values:
                self._values[node] = self._value(node)

    def shape(self, node: fx.Node) -> Shape:
        """Of what a node gives."""
        self.run()
        return tuple(self._values[node].shape)

    def _value(self, node: fx.Node) -> Any:
        args = fx.node.map_arg(node.args, lambda each: self._values[each])
        kwargs = fx.node.map_arg(node.kwargs, lambda each: self._values[each])
        target: Any = node.target
        if node.op == "placeholder":
            return self._inputs.pop(0)
        if node.op == "call_function":
            return target(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        found: Any = self._builder.root
        for part in target.split("."):
            found = getattr(found, part)
        return found.eval()(*args, **kwargs) if node.op == "call_module" else found
