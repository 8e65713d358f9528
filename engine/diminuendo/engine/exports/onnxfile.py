"""ONNX files: written from an exported program, named, and run by ONNX Runtime on the CPU."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diminuendo.engine.exports.border import output_names
from diminuendo.engine.exports.program import Traced
from diminuendo.engine.exports.reasons import ExportError

MOST_BYTES = 2**31 - 2**20
"""Of the weights in one file: protobuf takes no more, and a little is needed for the rest."""

BATCH = "batch"
"""Name of the dimension that counts the samples."""


def write(found: Traced, outputs: Any, path: Path, opset: int) -> None:
    """Write an ONNX file.

    Args:
        found: Its program is used up.
        outputs: Bare outputs of the network, for their names.
        path: Where to.
        opset: Of the standard operators.

    Raises:
        ExportError: The weights are too large, or the network has no form in this opset.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in found.program.state_dict.values())
    if size > MOST_BYTES:
        raise ExportError(f"the weights have {size / 2**30:.1f} GB, and one ONNX file holds 2; give pt2")
    made: Any = torch.onnx.export(found.program, dynamo=True, opset_version=opset, verbose=False, external_data=False)
    written = made.model.opset_imports.get("", opset)
    if written != opset:
        raise ExportError(
            f"opset {opset}: the network has no form in it, only in {written}; give opset={written}, or leave it out"
        )
    for node in made.model.graph:
        node.metadata_props.clear()  # of the exporter, the owner's code among it
    _name(made.model.graph, found.call.input_names(), output_names(outputs))
    made.save(str(path), external_data=False)


def _name(graph: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give inputs, outputs and the dimension of the samples names for people."""
    ours = {id(value) for value in (*graph.inputs, *graph.outputs)}
    values = [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    taken = {value.name for value in values if id(value) not in ours}
    _name_batch(graph.inputs, values)
    for value, name in zip((*graph.inputs, *graph.outputs), (*inputs, *outputs), strict=True):
        while name in taken:
            name += "_"
        value.name = name
        taken.add(name)


def _name_batch(inputs: Sequence[Any], values: Sequence[Any]) -> None:
    symbols = {str(value.shape[0].value) for value in inputs if len(value.shape or ()) and _is_symbol(value.shape[0])}
    if not symbols:
        return
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, sorted(symbols)))})\b")
    for value in values:
        if not any(_is_symbol(size) for size in value.shape or ()):
            continue
        shape = value.shape.copy()  # its own may be frozen, where the exporter shares it among values
        for place, size in enumerate(shape):
            if _is_symbol(size):
                shape[place] = pattern.sub(BATCH, str(size.value))
        value.shape = shape


def _is_symbol(size: Any) -> bool:
    return not isinstance(size, int) and getattr(size, "value", None) is not None


def runner(path: Path) -> Callable[[list[Tensor]], list[Tensor]]:
    """Runs an ONNX file on plain tensors, with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(leaves: list[Tensor]) -> list[Tensor]:
        given = {name: leaf.contiguous().numpy() for name, leaf in zip(names, leaves, strict=True)}
        return [torch.as_tensor(found) for found in session.run(None, given)]

    return run
