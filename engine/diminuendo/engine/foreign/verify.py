"""Checks an imported network against its file, run by itself on random inputs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from diminuendo.engine import tree
from diminuendo.engine.foreign.inputs import Imported, random_inputs
from diminuendo.engine.task import TaskError

TOLERANCE = 1e-3
"""Largest difference of an output, relative to its largest value: another order of sums is far below it."""

DYNAMIC = (
    "export it for any number of samples (torch.export.export or torch.onnx.export with "
    'dynamic_shapes={"INPUT": {0: torch.export.Dim("batch")}})'
)
"""The remedy for a file that takes one number of samples alone."""

_SEED = 0
_COUNTS = (2, 1)


def check(found: Imported, path: Path) -> None:
    """Refuse a network that does not give what its file gives, on batches of two samples and of one.

    A file for a fixed number of samples is run on batches of that number, whose rows are compared.

    Raises:
        TaskError: It cannot be run on such batches, or its outputs differ; names the largest difference.
    """
    given = random_inputs(found.inputs, max(_COUNTS), found.sizes, found.tops, _SEED)
    whole = _reference(found, given, path)
    for count in _COUNTS:
        inputs = [each[:count] for each in given]
        expected = whole if count == max(_COUNTS) else _reference(found, inputs, path)
        _compare(_run(found, inputs, path), expected, path, found.batch)


def _run(found: Imported, inputs: list[Tensor], path: Path) -> list[Tensor]:
    try:
        with torch.no_grad():
            return list(tree.leaves(found.network(*inputs)))
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise TaskError(
            f"model: {path}: the imported network cannot be run on {len(inputs[0])} samples ({first_line(error)}); "
            f"{_remedy(found.batch)}"
        ) from error


def _reference(found: Imported, inputs: list[Tensor], path: Path) -> list[Tensor]:
    """The file's outputs for some samples, however many it takes at a time."""
    count = len(inputs[0])
    size = found.batch or count
    parts = []
    for start in range(0, count, size):
        rows = torch.arange(start, start + size).clamp(max=count - 1)  # the last sample fills the batch up
        parts.append(_outputs(found, [each[rows] for each in inputs], path))
    joined = [torch.cat(tensors) if tensors[0].dim() else tensors[0] for tensors in zip(*parts, strict=True)]
    return [tensor[:count] if tensor.dim() else tensor for tensor in joined]


def _outputs(found: Imported, inputs: list[Tensor], path: Path) -> list[Tensor]:
    try:
        with torch.no_grad():
            return found.reference(inputs)
    except Exception as error:
        raise TaskError(
            f"model: {path}: the file itself cannot be run on random inputs ({type(error).__name__}: "
            f"{first_line(error)}); export the network again, on the CPU and in eval mode"
        ) from error


def _compare(outputs: list[Tensor], expected: list[Tensor], path: Path, batch: int | None) -> None:
    shapes = [tuple(tensor.shape) for tensor in outputs], [tuple(tensor.shape) for tensor in expected]
    if shapes[0] != shapes[1]:
        raise TaskError(
            f"model: {path}: the imported network gives outputs of shapes {shapes[0]} where the file gives "
            f"{shapes[1]}; {_remedy(batch)}"
        )
    for place, (output, wanted) in enumerate(zip(outputs, expected, strict=True)):
        worst = difference(output, wanted)
        if not worst <= TOLERANCE:
            raise TaskError(
                f"model: {path}: output {place} of the imported network differs from the file's by {worst:.2g} of its "
                f"largest value, so its operators could not be imported faithfully; {_remedy(batch)}"
            )


def difference(output: Tensor, wanted: Tensor) -> float:
    """Largest difference relative to the largest wanted value; infinite where only one of them is finite."""
    ours, theirs = output.to(torch.float64), wanted.to(torch.float64)
    same = (ours == theirs) | (ours.isnan() & theirs.isnan())
    if bool(same.all()):
        return 0.0
    gap = torch.where(same, 0.0, (ours - theirs).abs())
    largest = torch.where(theirs.isfinite(), theirs.abs(), 0.0).max()
    worst = float(gap.max() / largest.clamp(min=1e-30))
    return worst if worst == worst else float("inf")


def _remedy(batch: int | None) -> str:
    if batch is not None:
        return f"the file is made for batches of {batch}: {DYNAMIC}"
    return "write the bundle's task.py with the network's code, or export it again in eval mode"


def fixed_batch(path: Path, batch: int, reason: str) -> TaskError:
    """The error of a file that is made for a fixed number of samples."""
    return TaskError(f"model: {path} is made for batches of {batch} and {reason}; {DYNAMIC}")


def first_line(error: Exception) -> str:
    """Of what an error says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
