"""Watches a network at work: how its layers are called, and who else uses their weights.

Legend: N samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from diminuendo.engine import tree
from diminuendo.engine.modules import evaluating
from diminuendo.engine.plan import Call

_PROPERTY = "__get__"


@dataclass
class Seen:
    """What one module did during a forward.

    Attributes:
        calls: How often it was called.
        shapes: Shapes of input and output, call by call, where it took one tensor and gave one.
        odd: Whether it was called with anything besides one tensor, or gave anything else.
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
            inputs = given[len(given) - dims :]
            times = _product(given) // (in_channels * _product(inputs))
            counted[inputs, returned[len(returned) - dims :]] += times
        return tuple(Call(times, *sizes) for sizes, times in counted.items())


def observe(model: nn.Module, inputs: Any, layers: Mapping[str, nn.Module]) -> dict[str, Seen]:
    """Run the network once in eval mode, and see what its layers do.

    Args:
        model: Left as it was.
        inputs: Of one sample.
        layers: Modules to watch, by name.
    """
    seen = {name: Seen() for name in layers}
    watch = _Watch(layers, seen)
    handles: list[Any] = []
    for name, layer in layers.items():
        handles.append(layer.register_forward_pre_hook(watch.enter(name)))
        handles.append(layer.register_forward_hook(_record(seen[name]), prepend=True, with_kwargs=True))
        handles.append(layer.register_forward_hook(watch.leave(name), always_call=True))
    try:
        with evaluating(model), torch.no_grad(), watch:
            tree.call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _record(seen: Seen) -> Callable[..., None]:
    """Forward hook that notes the shapes of a call."""

    def hook(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> None:
        given = only_input(args, kwargs)
        seen.calls += 1
        if given is not None and isinstance(output, Tensor):
            seen.shapes.append((tuple(given.shape), tuple(output.shape)))
        else:
            seen.odd = True

    return hook


def only_input(args: tuple[object, ...], kwargs: Mapping[str, object]) -> Tensor | None:
    """The one tensor that a layer was called with; None when there was anything else."""
    values = (*args, *kwargs.values())
    return values[0] if len(values) == 1 and isinstance(values[0], Tensor) else None


class _Watch(TorchFunctionMode):
    """Notes every torch function that is given a layer's weight while that layer's forward is not running."""

    def __init__(self, layers: Mapping[str, nn.Module], seen: Mapping[str, Seen]) -> None:
        super().__init__()
        self._owners = {
            id(tensor): name for name, layer in layers.items() for tensor in layer.parameters(recurse=False)
        }
        self._seen = seen
        self._running: Counter[str] = Counter()

    def enter(self, name: str) -> Callable[..., None]:
        """Forward pre-hook of a layer."""

        def hook(*_: object) -> None:
            self._running[name] += 1

        return hook

    def leave(self, name: str) -> Callable[..., None]:
        """Forward hook of a layer."""

        def hook(*_: object) -> None:
            self._running[name] -= 1

        return hook

    def __torch_function__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Note who uses what, and go on."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        if name != _PROPERTY:
            for tensor in _tensors((*args, *kwargs.values())):
                owner = self._owners.get(id(tensor))
                if owner is not None and not self._running[owner]:
                    self._seen[owner].used_by = self._seen[owner].used_by or name
        return func(*args, **kwargs)


def _tensors(values: Iterable[object]) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (item for item in value if isinstance(item, Tensor))


def _product(sizes: Iterable[int]) -> int:
    found = 1
    for size in sizes:
        found *= size
    return found
