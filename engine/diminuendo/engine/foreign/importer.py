"""Imports the nodes of an ONNX graph, one by one, in their order."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from diminuendo.engine.foreign.builder import Builder, layer_name, parameter, readable
from diminuendo.engine.foreign.values import (
    ON_SIZES,
    OPERATORS,
    Constant,
    OnnxNode,
    Sizes,
    Traced,
    UnsupportedError,
    Value,
)

TRIALS = 2
"""Batches on which everything is computed while it is imported."""

_GENERATED = re.compile(r"^(onnx::|/|_?val_|_)")


class Importer:
    """A network that is being made from an ONNX graph.

    Attributes:
        builder: Of the network.
        opset: Version of ONNX's operators.
        batch: Samples that the graph is made for; None for any number.
        values: What names stand for so far.
        uses: How often each name is used.
        consumers: By name, the nodes that use it.
        taken_in: Outputs of nodes that an earlier one computes, by the value that they have.
    """

    def __init__(self, opset: int, batch: int | None, nodes: Sequence[OnnxNode], outputs: Sequence[str]) -> None:
        """Nothing is imported yet."""
        self.builder, self.opset, self.batch = Builder(), opset, batch
        self.values: dict[str, Value] = {}
        self.uses: Counter[str] = Counter(outputs)
        self.consumers: dict[str, list[OnnxNode]] = {}
        self.taken_in: dict[str, str] = {}
        for node in nodes:
            for name in filter(None, node.inputs):
                self.uses[name] += 1
                self.consumers.setdefault(name, []).append(node)
        self.node = OnnxNode("", "", (), (), {})
        self._samples: dict[fx.Node, tuple[Any, ...]] = {}
        self._parameters: dict[tuple[int, bool], Tensor] = {}
        self._held: list[Tensor] = []  # so that no id is given twice

    def placeholder(self, name: str, argument: str, samples: tuple[Tensor, ...]) -> None:
        """An input of the network, with its trial batches."""
        node = self.builder.graph.placeholder(argument)
        self._samples[node] = samples
        self.values[name] = Traced(node)

    def run(self, node: OnnxNode) -> None:
        """Import a node.

        Raises:
            UnsupportedError: It cannot be imported.
        """
        self.node = node
        given = [self.values[name] if name else None for name in node.inputs]
        try:
            made = self._made(node, given)
        except (RuntimeError, IndexError, ValueError, TypeError, KeyError, NotImplementedError) as error:
            raise UnsupportedError(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}") from error
        results = [made] if isinstance(made, Constant | Traced | Sizes) else list(made)
        for name, value in zip(node.outputs, results, strict=False):
            self.values[name] = value
        if any(name and self.uses[name] for name in node.outputs[len(results) :]):
            raise UnsupportedError("its further outputs are used")
        self._forget(node)

    def _made(self, node: OnnxNode, given: Sequence[Value | None]) -> Value | Sequence[Value]:
        if node.outputs[0] in self.taken_in:
            return self.values[self.taken_in[node.outputs[0]]]
        kinds = [type(value) for value in given]
        of_sizes = Sizes in kinds and Traced not in kinds and node.op in ON_SIZES
        return (ON_SIZES if of_sizes else OPERATORS)[node.op](self, node, *given)

    def _forget(self, node: OnnxNode) -> None:
        """Give up the trial batches of what is no longer used."""
        for name in filter(None, node.inputs):
            self.uses[name] -= 1
            if not self.uses[name]:
                self.values.pop(name, None)
        held = {value.node for value in self.values.values() if isinstance(value, Traced)}
        for each in [each for each, samples in self._samples.items() if isinstance(samples[0], Tensor)]:
            if each not in held:
                del self._samples[each]

    def samples(self, value: Value) -> tuple[Any, ...]:
        """What a value is on the trial batches: a tensor, or a number or a tuple of them."""
        if isinstance(value, Constant):
            return (value.tensor,) * TRIALS
        if isinstance(value, Traced):
            return self._samples[value.node]
        each = [self._on(value.items, trial) for trial in range(TRIALS)]
        return tuple(items[0] if value.scalar else tuple(items) for items in each)

    def dims(self, value: Value) -> int:
        """Dimensions of a value."""
        return self.samples(value)[0].dim() if not isinstance(value, Sizes) else int(not value.scalar)

    def _on(self, argument: Any, trial: int) -> Any:
        return fx.node.map_arg(argument, lambda node: self._samples[node][trial])

    def call(self, function: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> Value:
        """Call a function, or a method of the first argument by its name.

        Args:
            function: One that a graph can name, or the name of a method.
            args: Values, nodes, numbers, and lists and slices of them.
            kwargs: Likewise.

        Returns:
            A constant where nothing depends on the inputs; else what the call gives.
        """
        called = getattr(Tensor, function) if isinstance(function, str) else function
        if not _depends((args, kwargs)):
            known = _known((args, kwargs))
            return Constant(torch.as_tensor(called(*known[0], **known[1])))
        given, named = self._nodes(args), self._nodes(kwargs)
        kind = "call_method" if isinstance(function, str) else "call_function"
        node = self.builder.graph.create_node(
            kind, function, given, named, name=readable(self.node.name.strip("/").removeprefix("node_"))
        )
        self._samples[node] = tuple(
            called(*self._on(given, trial), **self._on(named, trial)) for trial in range(TRIALS)
        )
        return Traced(node)

    def layer(self, name: str, made: nn.Module, x: Value, key: tuple[Any, ...] | None = None) -> Value:
        """Call a module, see `Builder.module`."""
        node = self.builder.module(name, made, self.tensor(x), key)
        called = made.eval()
        self._samples[node] = tuple(called(each) for each in self.samples(x))
        return Traced(node)

    def _nodes(self, argument: Any) -> Any:
        """Arguments of a call with nodes for the values in them."""
        if isinstance(argument, Constant | Traced | Sizes):
            return self.tensor(argument)
        if isinstance(argument, dict):
            return {name: self._nodes(each) for name, each in argument.items()}
        if isinstance(argument, list | tuple):
            return type(argument)(self._nodes(each) for each in argument)
        return argument

    @property
    def _plain_name(self) -> str:
        """The node's own name, as that of a variable."""
        return readable(self.node.name.strip("/").removeprefix("node_").lower())

    def tensor(self, value: Value, *, tuned: bool = False) -> fx.Node:
        """The node of a value that is a tensor.

        Args:
            value: A constant becomes a tensor of the network.
            tuned: Whether, if it is an initializer of real numbers, it is one that is tuned.
        """
        if isinstance(value, Traced):
            return value.node
        if isinstance(value, Sizes):
            raise UnsupportedError("it computes with the sizes of the inputs in a way that is not known here")
        own = tuned and value.tensor.numel() > 1 and not _GENERATED.match(value.name) and bool(value.name)
        name = value.name if value.name and not _GENERATED.match(value.name) else f"constants.{self.title()}"
        held = self.parameter(value) if own else value.tensor
        node = self.builder.tensor(name, held)
        self._samples[node] = (held.detach(),) * TRIALS
        return node

    def parameter(self, value: Value, *, turned: bool = False) -> Tensor:
        """A constant as a parameter, or its transpose as one.

        The same initializer of two dimensions or more gives the same one each time. Vectors do not: exporters take
        equal ones (biases of zero) for one.

        Raises:
            UnsupportedError: It is no constant.
        """
        tensor = self.constant(value)
        source = value.turned if isinstance(value, Constant) else None
        if source is not None:
            tensor, turned = source, not turned
        made = self._parameters.get((id(tensor), turned))
        if made is None:
            made = parameter((tensor.t() if turned else tensor).contiguous().clone())
            if tensor.dim() > 1:
                self._held.append(tensor)
                self._parameters[id(tensor), turned] = made
        return made

    def key(self, *parts: Any) -> tuple[Any, ...]:
        """What tells a layer from others: options, and the constants that are its weights."""
        found: list[Any] = []
        for part in parts:
            if isinstance(part, Constant):
                self._held.append(part.tensor if part.turned is None else part.turned)
                found.append((id(self._held[-1]), part.turned is None))
            else:
                found.append(repr(part))
        return tuple(found)

    def constant(self, value: Value | None) -> Tensor:
        """The tensor of a constant.

        Raises:
            UnsupportedError: It is none.
        """
        if not isinstance(value, Constant):
            raise UnsupportedError("one of its inputs is computed, where only a constant can be imported")
        return value.tensor

    def ints(self, value: Value | None) -> list[int | fx.Node]:
        """Whole numbers, some of which may depend on the sizes of the inputs.

        Raises:
            UnsupportedError: They are computed from data.
        """
        if isinstance(value, Sizes):
            return list(value.items)
        return [int(each) for each in self.constant(value).flatten().tolist()]

    def sizes(self, items: Sequence[int | fx.Node], *, scalar: bool = False) -> Value:
        """Numbers as a value; a constant where all of them are known."""
        if all(isinstance(each, int) for each in items):
            known = torch.tensor(list(items), dtype=torch.int64)
            return Constant(known[0] if scalar else known)
        return Sizes(tuple(items), scalar)

    def size(self, x: Value, dim: int) -> int | fx.Node:
        """The size of a dimension: a number where it is fixed."""
        one, two = (each.shape[dim] for each in self.samples(x))
        return int(one) if one == two else self.number("size", self.tensor(x), dim)

    def number(self, function: Callable[..., Any] | str, *args: Any) -> fx.Node:
        """A call that gives a whole number."""
        made = self.call(function, *args)
        if not isinstance(made, Traced):
            raise UnsupportedError("a size that does not depend on the inputs is computed in an odd way")
        return made.node

    def known(self, item: int | fx.Node) -> tuple[int, ...]:
        """A size on the trial batches."""
        return (item,) * TRIALS if isinstance(item, int) else self._samples[item]

    def device(self) -> fx.Node:
        """Where the network's first input is."""
        first = next(node for node in self.builder.graph.nodes if node.op == "placeholder")
        node = self.builder.graph.call_function(getattr, (first, "device"))
        self._samples[node] = (torch.device("cpu"),) * TRIALS
        return node

    def title(self, *weights: Value | None) -> str:
        """A name for a layer: by the module that it was, or by its weights, as far as the file tells."""
        module = self.node.scope
        for weight in weights:
            if isinstance(weight, Constant) and weight.name and not _GENERATED.match(weight.name):
                own = layer_name(weight.name)
                if weight.tensor.dim() > 1 or own.startswith(module):  # equal vectors are of any of several layers
                    return own
        return module or self._plain_name


def _depends(argument: Any) -> bool:
    """Whether something in the arguments of a call depends on the inputs."""
    if isinstance(argument, dict):
        return any(map(_depends, argument.values()))
    if isinstance(argument, list | tuple):
        return any(map(_depends, argument))
    if isinstance(argument, slice):
        return any(map(_depends, (argument.start, argument.stop, argument.step)))
    return isinstance(argument, Traced | Sizes | fx.Node)


def _known(argument: Any) -> Any:
    """Arguments of a call with the tensors of the constants in them."""
    if isinstance(argument, Constant):
        return argument.tensor
    if isinstance(argument, dict):
        return {name: _known(each) for name, each in argument.items()}
    if isinstance(argument, list | tuple):
        return type(argument)(_known(each) for each in argument)
    return argument
