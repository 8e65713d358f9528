"""Files of a training: checkpoints that are whole or not there, and the weights at its end."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor

from diminuendo.engine.task import TaskError


def write(path: Path, state: dict[str, Any]) -> None:
    """Write a state in the place of the last one; at every moment the file is whole."""
    _replace(path, lambda file: torch.save(state, file))


def read(path: Path) -> dict[str, Any]:
    """The state of a checkpoint; it may hold tensors and plain values only.

    Raises:
        TaskError: The file cannot be read, or is something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        first = str(error).partition("\n")[0]
        raise TaskError(f"checkpoint: {path} cannot be read ({first}); name another one or remove it") from error
    if not isinstance(state, dict):
        raise TaskError(f"checkpoint: {path} holds a {type(state).__name__}, no training; name another one")
    return state


def write_weights(path: Path, state: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write weights as safetensors.

    Args:
        path: Replaced when it is there.
        state: Tensors of any layout.
        metadata: What to remember with them.
    """
    content = save_safetensors({name: tensor.cpu().contiguous() for name, tensor in state.items()}, metadata)
    content = _ordered(content) if metadata else content
    _replace(path, lambda file: file.write(content))


def _ordered(content: bytes) -> bytes:
    """The same safetensors file with its metadata in order: the library writes it in an order of its own each time."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def halved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices and convolutions as float16; the rest, a few percent, as it is."""
    return {
        name: tensor.to(torch.float16) if tensor.dim() > 1 and tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }


def _replace(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Put a new content in the place of a file, at once."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with beside.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
