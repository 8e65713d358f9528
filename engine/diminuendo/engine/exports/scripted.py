"""TorchScript files: a trace of the program whose BatchNorms are folded, or of the network as it is.

Never frozen: `torch.jit.freeze` folds BatchNorms of layers that are used elsewhere, too, and then computes another
network.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diminuendo.engine import tree
from diminuendo.engine.exports.border import Call, Shell, forward_of, refilled
from diminuendo.engine.exports.program import SAMPLES, Traced, exported, few
from diminuendo.engine.exports.reasons import ExportError, is_control_flow

_NORM = "aten::batch_norm"


@dataclass(frozen=True)
class Script:
    """What was written: how it is called, and how many BatchNorms it has."""

    call: Call
    norms: int


class _Module(nn.Module):
    """A network whose forward is a file's."""

    def __init__(self, network: nn.Module, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.network = network
        self.forward = forward


def write_program(found: Traced, path: Path) -> None:
    """Write the trace of a program."""
    module = found.program.module(check_guards=False)  # its forward, since its hooks check shapes, which are traced
    _save(_trace(_Module(module, module.forward), found.call), path)


def write_network(network: nn.Module, inputs: Any, dtype: torch.dtype, path: Path, *, dynamic: bool) -> Script:
    """Write the trace of a network; scripted, where it decides by the values of its data.

    Args:
        network: On the CPU, in eval mode, its floating-point weights of `dtype`.
        inputs: As it takes them; (N, ...).
        dtype: That it computes in; the file's inputs and outputs are float32.
        path: Where to.
        dynamic: Whether it is made on several samples.

    Raises:
        ExportError: It decides by the values of its data, and cannot be scripted.
    """
    example = few(inputs, SAMPLES if dynamic else 1)
    call = Call.of(network, example)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        made = _trace(_Module(network, forward_of(network, example, call, dtype)), call)
    branches = [w for w in told if "Python boolean" in str(w.message)]  # of values, or of shapes alone
    if branches and _decides_by_values(network, example, call, dtype):
        made = _scripted(network, dtype, f"{branches[0].filename}:{branches[0].lineno}")
    _save(made, path)
    graph = made.inlined_graph  # kept: its nodes end with it
    return Script(call, len(graph.findAllNodes(_NORM, recurse=True)))


def _trace(module: nn.Module, call: Call) -> Any:
    inputs: dict[str, Any] = {"example_kwarg_inputs": call.kwargs} if call.kwargs else {"example_inputs": call.args}
    with torch.no_grad():
        return torch.jit.trace(module, **inputs, strict=False, check_trace=False)  # type: ignore[no-untyped-call]


def _scripted(network: nn.Module, dtype: torch.dtype, line: str) -> Any:
    told = (
        f"the network's forward ({line}) decides by the values of its data what it computes, which a trace cannot "
        "follow, and torch.jit.script does not take it; write that with torch.where"
    )
    if dtype != torch.float32 or tree.FORWARD in vars(network):
        raise ExportError(told)
    try:
        return torch.jit.script(network)
    except Exception as error:
        raise ExportError(told) from error


def _decides_by_values(network: nn.Module, example: Any, call: Call, dtype: torch.dtype) -> bool:
    """Whether a forward goes another way for other values, which `torch.export` finds out."""
    try:
        exported(Shell.of(network, forward_of(network, example, call, dtype)), call)
    except Exception as error:  # noqa: BLE001 - whatever it is, only its kind is asked for
        return is_control_flow(error)
    return False


def _save(made: Any, path: Path) -> None:
    torch.jit.save(made, str(path))


def runner(path: Path, call: Call) -> Callable[[list[Tensor]], list[Tensor]]:
    """Runs a TorchScript file on plain tensors."""
    module: Any = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]

    def run(leaves: list[Tensor]) -> list[Tensor]:
        args, kwargs = refilled((call.args, call.kwargs), leaves)
        with torch.no_grad():
            return list(tree.leaves(module(*args, **kwargs)))

    return run
