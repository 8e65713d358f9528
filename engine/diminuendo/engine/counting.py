"""Counts a network: its params and bytes, and what the calls of its modules in one forward add up to.

The rules are `diminuendo.engine.profile`'s.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, is_lazy

from diminuendo.engine import tree
from diminuendo.engine.macs import TRANSPARENT, module_macs
from diminuendo.engine.modules import evaluating

_QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")
"""Packages of torch whose modules give their packed weight and bias by a call."""


@torch.no_grad()
def materialised(model: nn.Module, sample: Any) -> nn.Module:
    """The network; when a lazy layer was never run, a copy that was."""
    lazy = [t for m in model.modules() for t in (*m._parameters.values(), *m._buffers.values()) if _is_lazy(t)]
    if not lazy:
        return model
    # Torch copies lazy parameters, but refuses to copy lazy buffers.
    buffers = [t for t in lazy if isinstance(t, UninitializedBuffer)]
    memo: dict[int, object] = {}
    for buffer in buffers:
        memo[id(buffer)] = UninitializedBuffer(device=buffer.device, dtype=buffer.dtype)  # type: ignore[call-arg]
    model = copy.deepcopy(model, memo).eval()
    tree.call(model, sample)
    return model


def _is_lazy(tensor: Tensor | None) -> bool:
    """Whether it has no shape yet."""
    return tensor is not None and is_lazy(tensor)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Each trainable parameter once, also when modules share it."""
    return [p for p in model.parameters() if p.requires_grad]


def stored_bytes(model: nn.Module) -> int:
    """Bytes of the trainable parameters, and of the packed weights of quantized modules, which are no parameters."""
    packed = 0
    for module in model.modules():
        if _is_quantized(module):
            values = [getattr(module, name)() for name in ("weight", "bias") if callable(getattr(module, name, None))]
            packed += sum(v.numel() * v.element_size() for v in values if isinstance(v, Tensor))
    return packed + sum(p.numel() * p.element_size() for p in trainable(model))


def _is_quantized(module: nn.Module) -> bool:
    return type(module).__module__.startswith(_QUANTIZED)


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _has_parameters(module: nn.Module) -> bool:
    """Whether it has parameters of its own, trainable or not."""
    return next(module.parameters(recurse=False), None) is not None


def _layer_name(name: str) -> str:
    """The layer that a module of this name belongs to: parametrizations are part of theirs."""
    parts = name.split(".")
    return ".".join(parts[: parts.index("parametrizations")]) if "parametrizations" in parts else name


def own_params(model: nn.Module) -> dict[str, int]:
    """Trainable elements of each module itself; a shared parameter is its first owner's."""
    known: set[int] = set()
    own: dict[str, int] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in known:
                known.add(id(parameter))
                own[_layer_name(name)] = own.get(_layer_name(name), 0) + parameter.numel()
    return own


@dataclass
class Counts:
    """What the calls of one forward add up to.

    Attributes:
        macs: Of each module.
        shapes: Of the first tensor of each module's last output.
        elements: Of the outputs that count for memory.
        uncounted: See `Profile`.
    """

    macs: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    elements: int = 0
    uncounted: set[str] = field(default_factory=set)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a module's output; empty when it was not called."""
        return self.shapes.get(name, ())

    def add(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """Count one call."""
        first = next(tree.leaves(inputs), None)
        self.shapes[name] = next((tuple(leaf.shape) for leaf in tree.leaves(output)), ())
        if not isinstance(module, TRANSPARENT):
            self.elements += tree.elements(output)
        count = module_macs(module, 0 if first is None else first.numel(), tree.elements(output))
        if count is not None:
            self.macs[name] = self.macs.get(name, 0) + count
        elif _is_leaf(module) or _has_parameters(module) or _is_quantized(module):
            self.uncounted.add(type(module).__name__)


@torch.no_grad()
def count(model: nn.Module, sample: Any) -> Counts:
    """Count every call of every module in a forward of one sample."""
    counts = Counts()

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            counts.add(name, module, (args, kwargs), output)

        return module.register_forward_hook(hook, with_kwargs=True)

    watched = [(name, module) for name, module in model.named_modules() if _layer_name(name) == name]
    # Scripted modules take no hooks.
    handles = [watch(name, module) for name, module in watched if not isinstance(module, torch.jit.ScriptModule)]
    try:
        with evaluating(model), buffers_kept(model), every_module_called():
            tree.call(model, sample)
    finally:
        for handle in handles:
            handle.remove()
    for name, module in watched:
        if name not in counts.shapes and _has_parameters(module):
            counts.uncounted.add(f"{type(module).__name__} (not called)")
    return counts


@contextmanager
def every_module_called() -> Iterator[None]:
    """Without the fused transformer encoder layer, which in eval mode calls none of the modules in it."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Buffers that forwards change or replace are afterwards what they were."""
    kept = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, content in kept:
                if module._buffers.get(name) is not buffer:
                    module._buffers[name] = buffer
                if buffer.shape != content.shape:  # an observer that saw its first values
                    buffer.resize_(content.shape)
                if not torch.equal(buffer, content):
                    buffer.copy_(content)
