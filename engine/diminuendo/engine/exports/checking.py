"""Compares what a file computes with the network in PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diminuendo.engine import tree
from diminuendo.engine.counting import buffers_kept
from diminuendo.engine.exports.reasons import ExportError
from diminuendo.engine.modules import evaluating

COMPARED = 256
"""Samples that outputs are compared on, at most."""

BATCH = 32
TOLERANCE = 1e-2
"""Largest difference of a file in float32, relative to the largest output: rounding stays far below it."""


@dataclass
class Difference:
    """Between two networks' outputs.

    Attributes:
        largest: Of floating-point outputs; of others where there are none.
        relative: The same, each output by its own largest value.
        samples: Compared.
    """

    largest: float = 0.0
    relative: float = 0.0
    samples: int = 0


def compare(file: nn.Module, network: nn.Module, inputs: Any) -> Difference:
    """Run both on the same samples: one first, then batches, so that a dynamic batch is seen to be one.

    Raises:
        ExportError: The file gives other shapes, or values that are not finite where the network's are.
    """
    found = Difference()
    with evaluating(network), buffers_kept(network), torch.no_grad():
        for batch in _batches(inputs):
            expected = list(tree.leaves(tree.call(network, batch)))
            got = list(tree.leaves(tree.call(file, batch)))
            _compare(found, expected, got)
            found.samples += tree.count(batch)
    return found


def _batches(inputs: Any) -> Iterator[Any]:
    count = min(COMPARED, tree.count(inputs))
    yield tree.take(inputs, slice(0, 1))
    for start in range(1, count, BATCH):
        yield tree.take(inputs, slice(start, min(count, start + BATCH)))


def _compare(found: Difference, expected: list[Tensor], got: list[Tensor]) -> None:
    if [tuple(each.shape) for each in expected] != [tuple(each.shape) for each in got]:
        raise ExportError(
            f"the file gives shapes {_shapes(got)} where the network gives {_shapes(expected)}; let the network's "
            "outputs have one row for each sample"
        )
    floating = any(each.is_floating_point() for each in expected)
    for wanted, given in zip(expected, got, strict=True):
        if wanted.numel() and (wanted.is_floating_point() or not floating):
            _compare_one(found, wanted.cpu().to(torch.float64), given.cpu().to(torch.float64))


def _compare_one(found: Difference, wanted: Tensor, given: Tensor) -> None:
    finite = wanted.isfinite()
    odd = ~finite & ~((wanted == given) | (wanted.isnan() & given.isnan()))
    if not bool(given[finite].isfinite().all()) or bool(odd.any()):
        raise ExportError(
            "the file gives outputs that are not finite where the network's are; its values are out of this type's "
            "range: give bf16, which has float32's range, or fp32"
        )
    if bool(finite.any()):
        apart = float((wanted - given)[finite].abs().max())
        found.largest = max(found.largest, apart)
        found.relative = max(found.relative, apart / max(float(wanted[finite].abs().max()), 1e-6))


def _shapes(tensors: list[Tensor]) -> str:
    return ", ".join(str(tuple(each.shape)) for each in tensors)
