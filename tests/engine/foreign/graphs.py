"""ONNX files of a few nodes, made by hand, and what onnxruntime computes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

Node = tuple[str, str, str, dict[str, Any]]
"""Operator, names of its inputs and of its outputs (by blanks; ``-`` for one left out), attributes."""

TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}


def written(
    path: Path,
    nodes: Sequence[Node],
    shape: Sequence[int | str],
    constants: Mapping[str, NDArray[Any]] | None = None,
    *,
    dtype: str = "float32",
    opset: int = 18,
    outputs: Sequence[str] = ("y",),
) -> Path:
    """A file with the input ``x`` of a shape, texts for sizes that vary."""
    made = [
        helper.make_node(
            op,
            ["" if name == "-" else name for name in inputs.split()],
            results.split(),
            name=f"n{place}",
            **attributes,
        )
        for place, (op, inputs, results, attributes) in enumerate(nodes)
    ]
    graph = helper.make_graph(
        made,
        "graph",
        [helper.make_tensor_value_info("x", TYPES[dtype], list(shape))],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, str(path))
    return path


def run(path: Path, x: Tensor) -> list[Tensor]:
    """Outputs by onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(each) for each in session.run(None, {"x": x.numpy()})]
