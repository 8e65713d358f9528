"""Watches a network at work: how its layers are called, and who else uses their weights.

Legend: N samples.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from diminuendo.engine import tree
from diminuendo.engine.counting import buffers_kept, every_module_called
from diminuendo.engine.modules import evaluating
from diminuendo.engine.plan import Call

_PROPERTY = "__get__"


@dataclass
class Seen:
    """What one module did during a forward.

    Attributes:
        calls: How often it was called.
        shapes: Shapes of input and output, call by call, where it took one tensor and gave one.
        odd: Whether it was called with anything besides one plain tensor, or gave anything else.
        used_by: A torch function that used its weights outside of its forward, in words; empty if none did.
    """

    calls: int = 0
    shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    odd: bool = False
    used_by: str = ""

    def sizes(self, dims: int, in_channels: int) -> tuple[Call, ...]:
        """Calls with their spatial sizes, equal ones together, as of one sample."""
        counted: Counter[tuple[tuple[int, ...], tuple[int, ...]]] = Counter()
        for given, returned in self.shapes:
            if 0 in given or 0 in returned:
                continue
            inputs = given[len(given) - dims :]
            times = math.prod(given) // (in_channels * math.prod(inputs))
            counted[inputs, returned[len(returned) - dims :]] += times
        return tuple(Call(times, *sizes) for sizes, times in counted.items())


def observe(model: nn.Module, inputs: Any, layers: Mapping[str, nn.Module]) -> dict[str, Seen]:
    """Run the network once in eval mode, and see what its layers do.

    Args:
        model: Left as it was, buffers included.
        inputs: Of one sample.
        layers: Modules to watch, by name.
    """
    seen = {name: Seen() for name in layers}
    uses = Uses({name: tuple(layer.parameters(recurse=False)) for name, layer in layers.items()})
    handles: list[Any] = []
    for name, layer in layers.items():
        handles.append(layer.register_forward_pre_hook(uses.enter(name)))
        handles.append(layer.register_forward_hook(_record(seen[name]), prepend=True, with_kwargs=True))
        handles.append(layer.register_forward_hook(uses.leave(name), prepend=True, always_call=True))
    try:
        with evaluating(model), buffers_kept(model), every_module_called(), torch.no_grad(), uses:
            tree.call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    for name, function in uses.found.items():
        seen[name].used_by = function
    return seen


def _record(seen: Seen) -> Callable[..., None]:
    """Forward hook that notes the shapes of a call."""

    def hook(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> None:
        given = only_input(args, kwargs)
        seen.calls += 1
        if given is not None and isinstance(output, Tensor) and _is_plain(output):
            seen.shapes.append((tuple(given.shape), tuple(output.shape)))
        else:
            seen.odd = True

    return hook


def only_input(args: tuple[object, ...], kwargs: Mapping[str, object]) -> Tensor | None:
    """The one tensor that a layer was called with; None when there was anything else."""
    values = (*args, *kwargs.values())
    return values[0] if len(values) == 1 and _is_plain(values[0]) else None  # type: ignore[return-value]


def _is_plain(value: object) -> bool:
    """Whether it is a tensor that has one size in each dimension."""
    return isinstance(value, Tensor) and not value.is_nested


class Uses(TorchFunctionMode):
    """Notes every torch function that is given tensors, or views of them, of owners that are not at work.

    Attributes:
        found: The first such function of each owner, by name.
    """

    def __init__(self, owned: Mapping[str, Iterable[Tensor]]) -> None:
        """Watch tensors by their owner's name."""
        super().__init__()
        self.found: dict[str, str] = {}
        self._ranges: dict[int, list[tuple[int, int, str]]] = {}
        self._running: Counter[str] = Counter()
        for name, tensors in owned.items():
            for tensor in tensors:
                storage, start, end = _extent(tensor)
                self._ranges.setdefault(storage, []).append((start, end, name))

    def enter(self, name: str) -> Callable[..., None]:
        """Forward pre-hook of an owner: it is at work from here on."""

        def hook(*_: object) -> None:
            self._running[name] += 1

        return hook

    def leave(self, name: str) -> Callable[..., None]:
        """Forward hook of an owner."""

        def hook(*_: object) -> None:
            self._running[name] -= 1

        return hook

    def __torch_function__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Note who uses what, and go on."""
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", str(func))
        if name == _PROPERTY:
            if not isinstance(result, Tensor):
                return result  # its shape, its dtype
            name = str(getattr(getattr(func, "__self__", None), "__name__", name))
        for tensor in tree.leaves((args, kwargs or {})):
            for owner in self._owners(tensor):
                if not self._running[owner]:
                    self.found.setdefault(owner, name)
        return result

    def _owners(self, tensor: Tensor) -> Iterator[str]:
        storage, start, end = _extent(tensor)
        for first, last, name in self._ranges.get(storage, ()) if end > start else ():
            if start < last and first < end:
                yield name


def _extent(tensor: Tensor) -> tuple[int, int, int]:
    """Address of the tensor's storage, and of its own first and last byte in it; zeros where it has none."""
    if tensor.is_nested or tensor.layout is not torch.strided:
        return 0, 0, 0
    try:
        storage, start = tensor.untyped_storage().data_ptr(), tensor.data_ptr()
    except (RuntimeError, NotImplementedError):  # it is made of others
        return 0, 0, 0
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return storage, start, start + (reach + 1) * tensor.element_size() if tensor.numel() and storage else start
