"""Loads a network from a model file, and checks it against the file itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

import diminuendo.engine.foreign.onnxmodel as onnxmodel
import diminuendo.engine.foreign.program as program
from diminuendo.engine.foreign.inputs import Imported, NetworkInput
from diminuendo.engine.foreign.verify import check
from diminuendo.engine.task import TaskError

_KINDS: dict[str, Callable[[Path], Imported]] = {".onnx": onnxmodel.imported, ".pt2": program.imported}
_INPUTS: dict[str, Callable[[Path], tuple[NetworkInput, ...]]] = {
    ".onnx": onnxmodel.inputs_of,
    ".pt2": program.inputs_of,
}

SUFFIXES = tuple(_KINDS)
"""Of the files that are networks."""


def load_network(path: Path | str) -> nn.Module:
    """The network of an ONNX file or of a torch.export program (``.pt2``).

    Its layers are PyTorch's own (``nn.Conv2d``, ``nn.Linear``, ``nn.BatchNorm2d``, ...), named as in the file where the
    file tells, so that they can be compressed and tuned; all else is calls of functions between them. The number of
    samples in a batch may vary, also where the file was made for a fixed one and nothing but reshapes depends on it.
    Whatever was imported is run beside the file on random inputs, and refused when it gives anything else.

    Args:
        path: Ends in ``.onnx`` or ``.pt2``.

    Returns:
        A `torch.fx.GraphModule` in eval mode. It takes the inputs of `network_inputs` by position or by name and gives
        what the file gives: of an ONNX file with several outputs a dict by their names.

    Raises:
        TaskError: The file is missing, damaged, of another kind, or holds what cannot be imported; names the remedy.
    """
    path = _checked(path)
    found = _KINDS[path.suffix](path)
    check(found, path)
    return found.network


def network_inputs(path: Path | str) -> tuple[NetworkInput, ...]:
    """The inputs that the network of a model file takes, in order.

    Raises:
        TaskError: As of `load_network`, as far as it is seen without importing the network.
    """
    path = _checked(path)
    return _INPUTS[path.suffix](path)


def _checked(path: Path | str) -> Path:
    path = Path(path)
    if path.suffix not in _KINDS:
        raise TaskError(f"model: {path} is of no known kind; give a file that ends in {' or '.join(SUFFIXES)}")
    if not path.is_file():
        raise TaskError(f"model: {path} is not there; give the path of a model file")
    return path
