"""A network as a program of `torch.export`: the .pt2 file, and what ONNX files are made from."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from diminuendo.engine import tree
from diminuendo.engine.exports.border import Call, Shell, forward_of, refilled
from diminuendo.engine.exports.fold import fold

SAMPLES = 5
"""In the batch that a program with a dynamic batch is made on; a size that no other dimension of a network has a reason
to be equal to."""

KEPT = 2
"""Samples of the example inputs that a file carries."""


@dataclass(frozen=True)
class Traced:
    """A network's program.

    Attributes:
        call: What it was made on.
        dynamic: Whether it takes any number of samples.
        folded: BatchNorms that became part of the layer before them.
        unfolded: Those that are left.
    """

    program: ExportedProgram
    call: Call
    dynamic: bool
    folded: int
    unfolded: int


def traced(network: nn.Module, inputs: Any, dtype: torch.dtype, precise: dict[str, Tensor], *, dynamic: bool) -> Traced:
    """The program of a network, with what BatchNorms can be folded.

    Args:
        network: On the CPU, in eval mode, its floating-point weights of `dtype`.
        inputs: As it takes them; (N, ...), of which a few samples are used.
        dtype: That it computes in; the program's inputs and outputs are float32.
        precise: Its weights by name before they were rounded to `dtype`.
        dynamic: Whether the program is to take any number of samples; one that cannot takes one.
    """
    example = few(inputs, SAMPLES if dynamic else 1)
    call = Call.of(network, example)
    shell = Shell.of(network, forward_of(network, example, call, dtype))
    shapes = call.shaped(lambda tensor: {0: Dim.AUTO} if dynamic and tensor.dim() else None)
    program = exported(shell, call, shapes)
    if dynamic and not _is_dynamic(program):
        return traced(network, inputs, dtype, precise, dynamic=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # where its owner's code lies is nobody's business
    folded = fold(program, precise)
    return Traced(folded.program, call, dynamic, folded.folded, folded.unfolded)


def exported(shell: nn.Module, call: Call, shapes: Any = None) -> ExportedProgram:
    """`torch.export`, which prints the graph so far when it fails: here it does not."""
    with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):
        return torch.export.export(shell, call.args, call.kwargs, dynamic_shapes=shapes)


def few(inputs: Any, count: int) -> Any:
    """So many samples: the first ones, over and over where there are not as many."""
    return tree.take(inputs, torch.arange(count) % tree.count(inputs))


def _is_dynamic(program: ExportedProgram) -> bool:
    """Whether no input's number of samples was fixed on the way."""
    names = set(program.graph_signature.user_inputs)
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    return all(isinstance(value.shape[0], torch.SymInt) for value in values if isinstance(value, Tensor))


def save(found: Traced, path: Path) -> None:
    """Write a .pt2 file. The example inputs in it are made up: nobody's data leaves with a network."""
    call = found.call.refilled(stand_in(leaf[:KEPT] if found.dynamic else leaf) for leaf in found.call.leaves)
    found.program.example_inputs = (call.args, call.kwargs)
    with path.open("wb") as file:
        torch.export.save(found.program, file)


def stand_in(values: Tensor) -> Tensor:
    """Made-up values of the same shape and kind: normal ones of the same mean and deviation, or drawn from those."""
    generator = torch.Generator().manual_seed(0)
    if not values.is_floating_point():
        flat = values.flatten()
        if not flat.numel():
            return values
        return flat[torch.randint(len(flat), flat.shape, generator=generator)].reshape(values.shape)
    spread = values.std(correction=0) if values.numel() else 0.0
    return torch.randn(values.shape, generator=generator).to(values.dtype) * spread + values.mean()


def opened(path: Path) -> ExportedProgram:
    """The program of a .pt2 file."""
    with path.open("rb") as file:
        return torch.export.load(file)


def runner(path: Path, call: Call) -> Callable[[list[Tensor]], list[Tensor]]:
    """Runs a .pt2 file on plain tensors."""
    module = opened(path).module()

    def run(leaves: list[Tensor]) -> list[Tensor]:
        args, kwargs = refilled((call.args, call.kwargs), leaves)
        return list(tree.leaves(module(*args, **kwargs)))

    return run
