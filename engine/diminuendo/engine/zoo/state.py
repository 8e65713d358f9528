"""Reads trained weights of the zoo's networks from safetensors, and says what does not fit."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from diminuendo.engine.task import TaskError
from diminuendo.engine.zoo.catalog import Source, training_command

_OPTIONAL = "num_batches_tracked"
"""BatchNorm's counter says nothing of a network that is not trained on: files may lack it."""


def load_weights(model: nn.Module, path: Path, source: Source) -> None:
    """Put the weights of a file into a network; they are cast to the network's types.

    Args:
        model: The architecture of `source`; changed in place, and only when all tensors fit.
        path: Safetensors file.
        source: What the network is called in messages.

    Raises:
        TaskError: The file is not there, is no safetensors file, or has tensors that do not fit.
    """
    if not path.is_file():
        raise TaskError(
            f"weights: {path} is not there; give a safetensors file, or train one with `{training_command(source)}`"
        )
    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise TaskError(f"weights: {path} is no safetensors file that can be read ({error})") from error
    expected = model.state_dict()
    _check_classes(model, path, source, found)
    for name, tensor in expected.items():
        if name in found:
            _check(path, source, name, tensor, found[name])
        elif not name.endswith(_OPTIONAL):
            raise TaskError(
                f"weights: {path} lacks {name!r}, which {source} has {_described(tensor)}; it has "
                f"{_some(found)}: give a file trained for this network, with its names"
            )
    extra = [name for name in found if name not in expected]
    if extra:
        raise TaskError(
            f"weights: {path} has {extra[0]!r}, which {source} has not; give a file trained for this network"
        )
    with torch.no_grad():
        for name, tensor in found.items():
            expected[name].copy_(tensor)


def _check(path: Path, source: Source, name: str, expected: Tensor, found: Tensor) -> None:
    if found.shape != expected.shape:
        raise TaskError(
            f"weights: {path}: {name!r} has shape {tuple(found.shape)}, {source} expects {tuple(expected.shape)}; "
            "give a file trained for this network"
        )
    if expected.is_floating_point() and not found.is_floating_point():
        raise TaskError(
            f"weights: {path}: {name!r} is {str(found.dtype).removeprefix('torch.')}, {source} expects floating point; "
            "give the weights as they were before quantization"
        )
    if found.is_floating_point() and not bool(torch.isfinite(found).all()):
        raise TaskError(f"weights: {path}: {name!r} has values that are not finite; train it again")


def _check_classes(model: nn.Module, path: Path, source: Source, found: dict[str, Tensor]) -> None:
    """Say so when the file is of the same network at another number of classes."""
    last = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    weight = found.get(f"{last[0]}.weight")
    if weight is None or weight.dim() != 2 or weight.shape[1] != last[1].in_features:
        return
    if len(weight) != source.classes:
        raise TaskError(
            f"weights: {path} was trained for {len(weight)} classes ({last[0] + '.weight'!r} has shape "
            f"{tuple(weight.shape)}), {source} has {source.classes}; say zoo:{source.entry.name}?classes={len(weight)}"
        )


def _described(tensor: Tensor) -> str:
    return f"with shape {tuple(tensor.shape)}"


def _some(found: dict[str, Tensor]) -> str:
    names = sorted(found)
    return "no tensors" if not names else f"{', '.join(map(repr, names[:3]))}{', ...' if len(names) > 3 else ''}"
