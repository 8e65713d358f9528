"""Which BatchNorms come after a layer, and which layers' outputs one takes up whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from diminuendo.engine import tree
from diminuendo.engine.counting import buffers_kept, every_module_called
from diminuendo.engine.modules import evaluating
from diminuendo.engine.plan import LayerSpec


@dataclass(frozen=True, slots=True)
class Norms:
    """Layers and the BatchNorms after them, by name.

    Attributes:
        absorbing: Layers of which every output goes straight into a BatchNorm, and nowhere else.
        after: BatchNorms that are called after a layer's first call, in order.
    """

    absorbing: frozenset[str]
    after: Mapping[str, tuple[str, ...]]


@dataclass
class _Trace:
    """What was called so far: layer's outputs that no BatchNorm took yet, and who took what."""

    waiting: dict[int, tuple[str, Tensor]]  # the tensors are kept, so that no id is used twice
    calls: dict[str, int]
    taken: dict[str, int]  # by layer: how many of its outputs a BatchNorm took
    after: dict[str, list[str]]
    outputs: dict[int, tuple[str, Tensor]] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)


class _Elsewhere(TorchFunctionMode):
    """Notes the layers whose outputs anything but a BatchNorm computes with: a shift would reach it."""

    def __init__(self, trace: _Trace) -> None:
        super().__init__()
        self._trace = trace

    def __torch_function__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is not functional.batch_norm and next(tree.leaves(result), None) is not None:
            for tensor in tree.leaves((args, kwargs or {})):
                if id(tensor) in self._trace.outputs:
                    self._trace.elsewhere.add(self._trace.outputs[id(tensor)][0])
        return result


def follow(model: nn.Module, specs: Sequence[LayerSpec], inputs: Any) -> Norms:
    """Run the network once in eval mode, and see what BatchNorms are given.

    Args:
        model: Left as it was, buffers included.
        specs: Layers, as `discover` found them.
        inputs: (N, ...) inputs of a few samples, as `tree` has them.
    """
    names = [spec.name for spec in specs]
    trace = _Trace({}, dict.fromkeys(names, 0), dict.fromkeys(names, 0), {name: [] for name in names})
    handles = [model.get_submodule(name).register_forward_hook(_gave(trace, name), prepend=True) for name in names]
    norms = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    handles += [module.register_forward_pre_hook(_took(trace, name)) for name, module in norms]
    try:
        with evaluating(model), buffers_kept(model), every_module_called(), torch.no_grad(), _Elsewhere(trace):
            tree.call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    absorbing = {name for name in names if trace.calls[name] and trace.taken[name] == trace.calls[name]}
    after = {name: tuple(found) for name, found in trace.after.items()}
    return Norms(frozenset(absorbing - trace.elsewhere), after)


def _gave(trace: _Trace, name: str) -> Any:
    """Forward hook of a layer, before any other: what another hook gives in its place is not this output."""

    def hook(_: nn.Module, __: object, output: Tensor) -> None:
        trace.outputs[id(output)] = name, output
        trace.waiting[id(output)] = (name, output)
        trace.calls[name] += 1

    return hook


def _took(trace: _Trace, name: str) -> Any:
    """Forward pre-hook of a BatchNorm."""

    def hook(_: nn.Module, args: tuple[object, ...]) -> None:
        layer, _tensor = trace.waiting.pop(id(args[0]), ("", None)) if args else ("", None)
        if layer:
            trace.taken[layer] += 1
        for other, calls in trace.calls.items():
            if calls and name not in trace.after[other]:
                trace.after[other].append(name)

    return hook
