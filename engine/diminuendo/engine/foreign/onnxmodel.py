"""Imports ONNX files: reads them, runs the importer over their graph, and runs the file itself by onnxruntime.

It needs onnx and onnxruntime, the extra ``diminuendo[export]``.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from diminuendo.engine.foreign import (  # noqa: F401 - operators register themselves
    ops_elementwise,
    ops_indexing,
    ops_layers,
    ops_pictures,
    ops_reduce,
    ops_sizes,
    ops_views,
)
from diminuendo.engine.foreign.dtypes import torch_dtype
from diminuendo.engine.foreign.importer import TRIALS, Importer
from diminuendo.engine.foreign.inputs import Imported, NetworkInput, argument, random_inputs
from diminuendo.engine.foreign.values import OPERATORS, Constant, OnnxNode, UnsupportedError
from diminuendo.engine.foreign.verify import DYNAMIC
from diminuendo.engine.task import TaskError

_SIZES = ((16, 24), (64, 96), (8, 12), (32, 64), (224, 256), (4, 6))
"""What dimensions that vary are tried with, on the two trial batches; pictures are tried with the second first."""

_SEED = 1


def imported(path: Path) -> Imported:
    """The network of an ONNX file.

    Raises:
        TaskError: A package is missing, or the file is damaged or holds what cannot be imported.
    """
    file = _File(path)
    pairs = [_SIZES[1], _SIZES[0], *_SIZES[2:]] if any(len(each.shape) > 3 for each in file.inputs) else list(_SIZES)
    varying = any(size is None for each in file.inputs for size in each.shape[1:])
    problem: TaskError | None = None
    for pair in pairs if varying else pairs[:1]:
        try:
            network = _network(file, pair)
        except TaskError as error:
            problem = problem or error
        else:
            sizes = {each.name: (0, *[pair[0]] * (len(each.shape) - 1)) for each in file.inputs}
            return Imported(network, file.inputs, file.run, file.batch, sizes, file.tops)
    raise problem if problem is not None else TaskError(f"model: {path} cannot be imported")


def inputs_of(path: Path) -> tuple[NetworkInput, ...]:
    """What an ONNX file takes; see `imported`."""
    return _File(path).inputs


def _network(file: _File, pair: tuple[int, int]) -> fx.GraphModule:
    """Run the importer over the graph."""
    g = Importer(file.opset, file.batch, file.nodes, file.outputs)
    trials = []
    for trial in range(TRIALS):
        sizes = {each.name: (0, *[pair[trial]] * (len(each.shape) - 1)) for each in file.inputs}
        trials.append(random_inputs(file.inputs, 2 + trial, sizes, file.tops, _SEED))
    for place, (name, each) in enumerate(zip(file.names, file.inputs, strict=True)):
        g.placeholder(name, each.name, tuple(trial[place] for trial in trials))
    g.values.update({name: Constant(tensor, name) for name, tensor in file.tensors.items()})
    with torch.no_grad():
        for node in file.nodes:
            try:
                g.run(node)
            except UnsupportedError as error:
                raise TaskError(
                    f"model: {file.path}: node {node.name!r} ({node.op}) cannot be imported: {error}; {_remedy(file)}"
                ) from error
        found = {argument(name): g.tensor(g.values[name]) for name in file.outputs}
        g.builder.graph.output(found if len(found) > 1 else next(iter(found.values())))
    return g.builder.finish()


def _remedy(file: _File) -> str:
    if file.batch is not None:
        return f"the file is made for batches of {file.batch}: {DYNAMIC}"
    return "write the bundle's task.py with the network's code, or export the network as a .pt2 program"


class _File:
    """An ONNX file, read.

    Attributes:
        path: Its path.
        opset: Version of ONNX's operators.
        nodes: In order.
        tensors: Initializers by name.
        names: Of its inputs.
        inputs: What they are.
        outputs: Names of its outputs.
        batch: Samples that it is made for; None for any number.
        tops: By input of whole numbers, the first value that is too large.
    """

    def __init__(self, path: Path) -> None:
        """Read it.

        Raises:
            TaskError: See `imported`.
        """
        self.path = path
        self._onnx = _package("onnx")
        model = self._read()
        graph = model.graph
        self.opset = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 1)
        self.nodes = _nodes(self._onnx, graph)
        self._check_operators()
        self.tensors = {each.name: _tensor(self._onnx, each) for each in graph.initializer}
        given = [each for each in graph.input if each.name not in self.tensors]
        self.names = [each.name for each in given]
        self.outputs = [each.name for each in graph.output]
        self.inputs, self.batch = self._inputs(given)
        self.tops = self._tops()
        self._content = model
        self._session: Any = None

    def _read(self) -> Any:
        try:
            model = self._onnx.load(self.path)
            if not model.graph.node:
                raise ValueError("it has no nodes")
            if model.functions:
                model = importlib.import_module("onnx.inliner").inline_local_functions(model)
        except Exception as error:
            said = (str(error).strip().splitlines() or [""])[0][:200]
            raise TaskError(
                f"model: {self.path} is no ONNX file that can be read ({type(error).__name__}: {said}); export it "
                "again, and keep a file with its weights beside it"
            ) from error
        return model

    def _check_operators(self) -> None:
        unknown: dict[str, list[str]] = {}
        for node in self.nodes:
            if node.op not in OPERATORS:
                unknown.setdefault(node.op, []).append(node.name)
        if unknown:
            told = "; ".join(f"{op} ({', '.join(names[:5])})" for op, names in sorted(unknown.items()))
            raise TaskError(
                f"model: {self.path} has operators that cannot be imported: {told}; write the bundle's task.py with "
                "the network's code, or export the network as a .pt2 program"
            )

    def _inputs(self, given: Sequence[Any]) -> tuple[tuple[NetworkInput, ...], int | None]:
        found, batches = [], set()
        for each in given:
            kind = each.type.tensor_type
            sizes = [dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim]
            if not each.type.HasField("tensor_type") or not sizes:
                raise TaskError(
                    f"model: {self.path}: input {each.name!r} has no samples as its first dimension; export a network "
                    "all of whose inputs are tensors of (N, ...)"
                )
            batches.add(sizes[0])
            found.append(NetworkInput(argument(each.name), (None, *sizes[1:]), self._dtype(each.name, kind.elem_type)))
        if len(batches) != 1:
            said = ", ".join(map(str, sorted(batches, key=str))) or "none"
            raise TaskError(
                f"model: {self.path}: the first dimensions of its inputs are {said} (None: any); export it with the "
                "samples as the first dimension of every input, all of one size"
            )
        return tuple(found), batches.pop()

    def _dtype(self, name: str, number: int) -> torch.dtype:
        try:
            return torch_dtype(number)
        except UnsupportedError as error:
            raise TaskError(f"model: {self.path}: input {name!r}: {error}; export it with floats or integers") from None

    def _tops(self) -> dict[str, int]:
        """By input: the rows of the smallest table that it is looked up in."""
        found: dict[str, int] = {}
        sources = {name: name for name in self.names}
        for node in self.nodes:
            if node.op in ("Cast", "Identity") and node.inputs[0] in sources:
                sources[node.outputs[0]] = sources[node.inputs[0]]
            if node.op == "Gather" and node.inputs[1] in sources and node.inputs[0] in self.tensors:
                name = argument(sources[node.inputs[1]])
                rows = self.tensors[node.inputs[0]].shape[node.number("axis", 0)]
                found[name] = min(rows, found.get(name, rows))
        return found

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The file's outputs, by onnxruntime."""
        if self._session is None:
            runtime = _package("onnxruntime")
            options = runtime.SessionOptions()
            options.log_severity_level = 4
            options.intra_op_num_threads = torch.get_num_threads()
            self._session = runtime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        given = {name: tensor.numpy() for name, tensor in zip(self.names, inputs, strict=True)}
        return [torch.from_numpy(np.array(each)) for each in self._session.run(self.outputs, given)]


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise TaskError(
            f"model: ONNX files are imported with {name} ({error}); pip install 'diminuendo[export]'"
        ) from error


def _nodes(onnx: Any, graph: Any) -> list[OnnxNode]:
    """Nodes of a graph, each with a name of its own."""
    taken: set[str] = set()
    made = []
    for place, node in enumerate(graph.node):
        op = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        name = node.name if node.name and node.name not in taken else f"{node.name or node.op_type}_{place}"
        taken.add(name)
        attributes = {each.name: _attribute(onnx, each) for each in node.attribute}
        made.append(OnnxNode(op, name, tuple(node.input), tuple(node.output), attributes, _scope(node)))
    return made


def _scope(node: Any) -> str:
    """The module that PyTorch's exporters made a node from.

    The newer one tells it in the node's metadata, the older one in its name: ``/layer1/layer1.0/conv/Conv`` is of
    ``layer1.0.conv``.
    """
    told = next((each.value for each in node.metadata_props if each.key == "pkg.torch.onnx.name_scopes"), None)
    if told is not None:
        scopes = re.findall(r"'([^']*)'", told)
        return scopes[-2] if len(scopes) > 1 else ""
    path = ""
    for part in node.name.split("/")[1:-1] if node.name.startswith("/") else ():
        last = path.rpartition(".")[2]
        path = f"{path.removesuffix(last)}{part}" if last and part.startswith(f"{last}.") else f"{path}.{part}"
        path = path.removeprefix(".")
    return path


def _attribute(onnx: Any, attribute: Any) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return _tensor(onnx, value) if isinstance(value, onnx.TensorProto) else value


def _tensor(onnx: Any, proto: Any) -> Tensor:
    array = np.array(onnx.numpy_helper.to_array(proto))
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
    try:
        return torch.from_numpy(array)
    except TypeError:
        return torch.zeros(())  # of a type that only unused values have: what uses it is refused
