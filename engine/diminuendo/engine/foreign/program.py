"""Imports programs of torch.export (``.pt2``): graphs of ATen operators with the weights that they use."""

from __future__ import annotations

import dataclasses
import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, InputSpec, OutputKind, TensorArgument
from torch.utils import _pytree

from diminuendo.engine import tree
from diminuendo.engine.foreign.builder import Builder, parameter
from diminuendo.engine.foreign.fixed import SAMPLES, Rebatching, Repeated, Trial, is_recurrent
from diminuendo.engine.foreign.inputs import Imported, NetworkInput, random_inputs
from diminuendo.engine.foreign.lift import Lifter, without_effect
from diminuendo.engine.foreign.verify import first_line, fixed_batch
from diminuendo.engine.task import TaskError

aten: Any = torch.ops.aten

_CALLS: dict[Any, tuple[str, Any]] = {
    aten.view.default: ("call_function", torch.reshape),
    aten._unsafe_view.default: ("call_function", torch.reshape),
    aten.reshape.default: ("call_function", torch.reshape),
    aten.expand.default: ("call_method", "expand"),
    aten.sym_size.int: ("call_method", "size"),
}
"""Calls in whose place others come. A view fits the layout of the export alone: in channels-last order it would be
refused. And through operators themselves torch.jit.trace does not follow sizes."""

_HELD = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


def imported(path: Path) -> Imported:
    """The network of a program.

    Raises:
        TaskError: The file is damaged, was exported in training mode, or its inputs cannot be taken.
    """
    program = _loaded(path)
    inputs, batch = _inputs(program, path)
    network = _Import(program, inputs, batch, path).network()
    return Imported(
        network=network,
        inputs=inputs,
        reference=_reference(program),
        batch=batch,
        sizes={each.name: size for each, size in zip(inputs, _sizes(program), strict=True)},
        tops=_tops(network),
    )


def inputs_of(path: Path) -> tuple[NetworkInput, ...]:
    """What a program takes; see `imported`."""
    return _inputs(_loaded(path), path)[0]


def _loaded(path: Path) -> ExportedProgram:
    told: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        told.append(record.getMessage())
        return False

    log = logging.getLogger("torch.export")
    log.addFilter(keep)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.load(path)
    except Exception as error:
        unknown = re.search(r"Deserializing (\S+) in pytree is not registered", "\n".join(told))
        if unknown:
            raise TaskError(
                f"model: {path}: its inputs or outputs are of class {unknown[1]}, which is not known without its code; "
                "export a module that takes and gives tensors, tuples and dicts"
            ) from error
        raise TaskError(
            f"model: {path} is no program that torch {torch.__version__} can load ({type(error).__name__}: "
            f"{first_line(error)}); write it with "
            "torch.export.save(torch.export.export(model.eval(), example, dynamic_shapes=...), path)"
        ) from error
    finally:
        log.removeFilter(keep)


def _reference(program: ExportedProgram) -> Any:
    module = program.module()

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        given = list(inputs)
        positional, named = _structure(program, given)
        return list(tree.leaves(_plain(module(*positional, **named))))

    return run


def _user_inputs(program: ExportedProgram) -> list[InputSpec]:
    return [spec for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]


def _structure(program: ExportedProgram, tensors: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of the program from the values of those that are tensors."""
    rest = iter(tensors)
    leaves = [
        spec.arg.value if isinstance(spec.arg, ConstantArgument) else next(rest) for spec in _user_inputs(program)
    ]
    structure: tuple[tuple[Any, ...], dict[str, Any]] = _pytree.tree_unflatten(leaves, program.call_spec.in_spec)
    return structure


def _placeholders(program: ExportedProgram) -> list[fx.Node]:
    names = {spec.arg.name for spec in _user_inputs(program) if isinstance(spec.arg, TensorArgument)}
    return [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]


def _inputs(program: ExportedProgram, path: Path) -> tuple[tuple[NetworkInput, ...], int | None]:
    """What it takes, and the number of samples that it is made for; None for any number."""
    odd = [spec.arg for spec in _user_inputs(program) if not isinstance(spec.arg, TensorArgument | ConstantArgument)]
    positional, named = _structure(program, _placeholders(program))
    nested = [value for value in (*positional, *named.values()) if isinstance(value, list | tuple | Mapping)]
    if odd or nested or not _placeholders(program):
        raise TaskError(
            f"model: {path}: its inputs are not plain tensors; export a module whose forward takes one tensor for each "
            "argument"
        )
    found, batches = [], set()
    for node in _placeholders(program):
        value = node.meta["val"]
        sizes = [size if isinstance(size, int) else None for size in value.shape]
        if not sizes:
            raise TaskError(
                f"model: {path}: input {node.name!r} is a single number; the first dimension of every input must count "
                "the samples"
            )
        batches.add(sizes[0])
        found.append(NetworkInput(node.name, (None, *sizes[1:]), value.dtype))
    if len(batches) > 1:
        raise TaskError(
            f"model: {path}: the first dimensions of its inputs are {', '.join(map(str, sorted(batches, key=str)))} "
            "(None: any); export it with the samples as the first dimension of every input, all dynamic: "
            'dynamic_shapes={"INPUT": {0: torch.export.Dim("batch")}}'
        )
    return tuple(found), batches.pop()


def _sizes(program: ExportedProgram) -> list[tuple[int, ...]]:
    """Sizes of each input that the program can be run with: those of its example."""
    examples = [tensor for tensor in _pytree.tree_leaves(program.example_inputs) if isinstance(tensor, Tensor)]
    nodes = _placeholders(program)
    if len(examples) == len(nodes):
        return [tuple(tensor.shape) for tensor in examples]
    return [tuple(_hint(size) for size in node.meta["val"].shape) for node in nodes]


def _hint(size: Any) -> int:
    """What a size was in the example; 16 where that is not known."""
    hint = size if isinstance(size, int) else getattr(size.node, "hint", None)
    return hint if isinstance(hint, int) else 16


def _tops(network: fx.GraphModule) -> dict[str, int]:
    """By input: the rows of the smallest embedding that it is looked up in."""
    found: dict[str, int] = {}
    for node in network.graph.nodes:
        module = network.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.Embedding):
            source = node.args[0]
            while isinstance(source, fx.Node) and source.op != "placeholder" and len(source.all_input_nodes) == 1:
                source = source.all_input_nodes[0]
            if isinstance(source, fx.Node) and source.op == "placeholder":
                found[source.name] = min(module.num_embeddings, found.get(source.name, module.num_embeddings))
    return found


class _Import:
    """Makes the network of a program."""

    def __init__(self, program: ExportedProgram, inputs: Sequence[NetworkInput], batch: int | None, path: Path) -> None:
        self.program, self.path, self.batch = program, path, batch
        self.builder = Builder()
        self.nodes: dict[fx.Node, Any] = {}
        self.tensors = _tensors(program)
        self.lifter = Lifter(self.builder, self.tensors, self.node)
        self.trial: Trial | None = None
        self.rebatching: Rebatching | None = None
        if batch is not None:
            sizes = {each.name: size for each, size in zip(inputs, _sizes(program), strict=True)}
            self.trial = Trial(self.builder, random_inputs(inputs, batch + 1, sizes, {}, 0))
            self.rebatching = Rebatching(batch, lambda node: self._tried(node))

    def network(self) -> fx.GraphModule:
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "call_function":
                self._called(node)
            elif node.op == "get_attr":
                self.nodes[node] = self._attribute(node)
            elif node.op == "output":
                self.builder.graph.output(self._outputs(node))
        return self.builder.finish()

    def node(self, node: fx.Node) -> Any:
        """What stands for a node of the program in the network."""
        if node not in self.nodes and node in self.tensors:
            name, value = self.tensors[node]
            self.nodes[node] = self.builder.tensor(name, value)
        return self.nodes[node]

    def _placeholder(self, node: fx.Node) -> None:
        spec = next(spec for spec in self.program.graph_signature.input_specs if spec.arg.name == node.name)
        if spec.kind is InputKind.USER_INPUT:
            constant = isinstance(spec.arg, ConstantArgument)
            self.nodes[node] = spec.arg.value if constant else self.builder.graph.placeholder(node.name)
        elif spec.kind not in _HELD:
            raise TaskError(
                f"model: {self.path}: its input {node.name!r} is a {spec.kind.name.lower()}, which cannot be "
                "imported; write the bundle's task.py with the network's code"
            )

    def _attribute(self, node: fx.Node) -> fx.Node:
        """A graph inside the graph (of ``torch.no_grad`` and the like), as it is."""
        value: Any = self.program.graph_module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        self.builder.root.add_module(str(node.target), value)
        return self.builder.graph.get_attr(str(node.target))

    def _tried(self, node: fx.Node) -> tuple[int, ...]:
        """Shape of what the network gives for a node of the program on another number of samples."""
        return () if self.trial is None else self.trial.shape(self.node(node))

    def _called(self, node: fx.Node) -> None:
        try:
            with torch.no_grad():
                self._call(node)
                if self.trial is not None:
                    self.trial.run()
        except (RuntimeError, IndexError, ValueError) as error:
            if self.batch is None or isinstance(error, TaskError):
                raise
            raise fixed_batch(self.path, self.batch, f"{node.name} fails on others: {first_line(error)}") from error

    def _call(self, node: fx.Node) -> None:
        if without_effect(node):
            return
        if self.batch is not None and is_recurrent(node):
            raise fixed_batch(self.path, self.batch, f"has a recurrent layer ({node.name})")
        if self.lifter.training(node):
            raise TaskError(
                f"model: {self.path} was exported in training mode ({node.name}); call model.eval() before "
                "torch.export.export"
            )
        made = self.lifter.lifted(node)
        if made is None:
            args, kwargs = (node.args, node.kwargs) if self.rebatching is None else self.rebatching.arguments(node)
            args, kwargs = self._renewed(args), self._renewed(kwargs)
            kind, target = _CALLS.get(node.target, ("call_function", node.target))
            made = self.builder.graph.create_node(kind, target, args, kwargs, name=node.name)
        self.nodes[node] = made

    def _renewed(self, arguments: Any) -> Any:
        """Arguments of a node, with the network's own nodes in them."""
        return fx.node.map_aggregate(arguments, self._value)

    def _value(self, each: Any) -> Any:
        if isinstance(each, fx.Node):
            return self.node(each)
        if each is SAMPLES:
            first = self.nodes[_placeholders(self.program)[0]]
            return self.builder.graph.call_method("size", (first, 0))
        if isinstance(each, torch.device):  # where it was exported is not where it is run
            return self._device()
        if isinstance(each, Repeated):
            dims = len(each.node.meta["val"].shape)
            sizes = [self._value(SAMPLES), *([-1] * (dims - 1))]
            return self.builder.graph.call_method("expand", (self.node(each.node), sizes))
        return each

    def _device(self) -> fx.Node:
        """Where the network's first input is."""
        first = self.nodes[_placeholders(self.program)[0]]
        return self.builder.graph.call_function(getattr, (first, "device"))

    def _outputs(self, node: fx.Node) -> Any:
        specs = self.program.graph_signature.output_specs
        given: Any = node.args[0]
        values = [
            self.node(value) if isinstance(value, fx.Node) else value
            for spec, value in zip(specs, given, strict=True)
            if spec.kind is OutputKind.USER_OUTPUT
        ]
        return _plain(_pytree.tree_unflatten(values, self.program.call_spec.out_spec))


def _tensors(program: ExportedProgram) -> dict[fx.Node, tuple[str, Tensor]]:
    """Name and value of the placeholders that stand for weights; the same value for weights that are shared."""
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    found: dict[fx.Node, tuple[str, Tensor]] = {}
    known: dict[tuple[Any, ...], Tensor] = {}
    for node in program.graph.nodes:
        spec = specs.get(node.name) if node.op == "placeholder" else None
        if spec is None or spec.kind not in _HELD:
            continue
        name = str(spec.target)
        value: Any = program.state_dict.get(name)
        value = program.constants[name] if value is None else value
        place = (value.data_ptr(), value.shape, value.stride(), value.dtype) if value.numel() else (id(value),)
        if place not in known:
            own = value.detach().clone()
            known[place] = parameter(own) if spec.kind is InputKind.PARAMETER else own
        found[node] = name, known[place]
    return found


def _plain(value: Any) -> Any:
    """Outputs in tuples, lists and dicts: what is a mapping or a dataclass of its own kind becomes a dict."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        items = [_plain(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value
