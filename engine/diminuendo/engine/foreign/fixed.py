"""Lets a program that was exported for a fixed number of samples take any: its literal sizes are told anew.

Only what reshapes, repeats or makes tensors has sizes in it. The rules, where N is the number of the export:

- a reshape of what comes from the inputs keeps its last sizes, and its first follows from them;
- an expansion or a repetition of a weight to N rows, and a new tensor of N rows, get as many as there are samples;
- a weight of N rows that is joined with what comes from the inputs is repeated for each sample.

Whether that was right is seen afterwards, when the network is compared with the program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import fx

aten: Any = torch.ops.aten

SAMPLES: Final = object()
"""Stands for the number of samples among the arguments of a call."""

_RESHAPES = frozenset({aten.view.default, aten.reshape.default, aten._unsafe_view.default})
_MAKERS = frozenset({aten.zeros.default, aten.ones.default, aten.full.default, aten.empty.memory_format})
_LIKE = frozenset({aten.new_zeros.default, aten.new_ones.default, aten.new_full.default, aten.new_empty.default})
_JOINS = frozenset({aten.cat.default})


@dataclass(frozen=True)
class Repeated:
    """Stands for a tensor of one row that is repeated for each sample.

    Attributes:
        node: Of the program.
    """

    node: fx.Node


class Rebatching:
    """Arguments of a program's calls for any number of samples.

    Attributes:
        batch: The number of the export.
    """

    def __init__(self, batch: int) -> None:
        """Of a program whose nodes are asked about in order."""
        self.batch = batch
        self._from_inputs: dict[fx.Node, bool] = {}

    def arguments(self, node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments of a call, in nodes of the program, `SAMPLES` and `Repeated`."""
        args, kwargs = node.args, dict(node.kwargs)
        if node.target in _RESHAPES and self._varies(args[0]):
            return (args[0], self._reshaped(node)), kwargs
        if node.target is aten.expand.default:
            return (args[0], self._expanded(node), *args[2:]), kwargs
        if node.target is aten.repeat.default and not self._varies(args[0]) and self._rows(node) == self.batch:
            return (args[0], self._first(args[1])), kwargs
        if node.target in _MAKERS:
            return (self._first(args[0]), *args[1:]), kwargs
        if node.target in _LIKE:
            return (args[0], self._first(args[1]), *args[2:]), kwargs
        if node.target in _JOINS and not (len(args) > 1 and args[1] == 0):
            return (self._joined(args[0]), *args[1:]), kwargs
        return args, kwargs

    def _varies(self, node: Any) -> bool:
        """Whether a value comes from the inputs."""
        if not isinstance(node, fx.Node):
            return False
        if node not in self._from_inputs:
            given = node.op == "placeholder" and not node.name.startswith(("p_", "b_", "c_"))
            self._from_inputs[node] = given or any(map(self._varies, node.all_input_nodes))
        return self._from_inputs[node]

    def _rows(self, node: fx.Node) -> int | None:
        shape = node.meta["val"].shape
        return int(shape[0]) if len(shape) else None

    def _first(self, sizes: Any) -> Any:
        """Sizes whose first is the number of samples where it is that of the export."""
        given = list(sizes)
        return [SAMPLES, *given[1:]] if len(given) > 1 and given[0] in (self.batch, 1) else given

    def _reshaped(self, node: fx.Node) -> list[Any]:
        shape = [size if isinstance(size, int) else given for size, given in self._both(node)]
        rows = self._rows(node)
        return [-1, *shape[1:]] if rows is not None and rows % self.batch == 0 else list(node.args[1])  # type: ignore[arg-type]

    def _both(self, node: fx.Node) -> Sequence[tuple[Any, Any]]:
        """Each size of a call's result and what the call says of it."""
        return list(zip(node.meta["val"].shape, node.args[1], strict=True))  # type: ignore[arg-type]

    def _expanded(self, node: fx.Node) -> Any:
        given: Any = node.args[0]
        sizes: list[Any] = list(node.args[1])  # type: ignore[arg-type]
        if self._rows(node) != self.batch:
            return sizes
        if not self._varies(given):
            return [SAMPLES, *sizes[1:]]
        alike = len(given.meta["val"].shape) == len(sizes)
        return [-1, *sizes[1:]] if alike else [SAMPLES, *sizes[1:]]

    def _joined(self, parts: Any) -> Any:
        varying = any(map(self._varies, parts))
        return [
            Repeated(part) if varying and not self._varies(part) and self._rows(part) == 1 else part for part in parts
        ]
