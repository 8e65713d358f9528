"""Watches where the outputs of layers go: by what each torch function makes of what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from diminuendo.engine import tree
from diminuendo.engine.counting import buffers_kept, every_module_called
from diminuendo.engine.modules import evaluating
from diminuendo.engine.search.wiring import ENDS, Wiring, reached

_READS = frozenset(
    {
        "__array__", "__bool__", "__contains__", "__float__", "__index__", "__int__", "allclose", "equal", "is_nonzero",
        "item", "numpy", "tolist",
    }
)  # fmt: skip
"""Functions by which values leave tensors: where they go from there is not seen."""


def wiring_of(model: nn.Module, names: Sequence[str], inputs: Any) -> Wiring:
    """What layers take from each other in a forward in eval mode.

    Args:
        model: Left as it was, buffers included.
        names: Of the layers.
        inputs: (N, ...) inputs of a few samples, as `tree` has them.

    Returns:
        Empty where it cannot be told: values are read out of tensors, a tensor comes from nowhere, or a layer has no
        way to it from the input, or none from it to the output.
    """
    layers = {name: model.get_submodule(name) for name in names}
    tracer = _Tracer()
    for tensor in (*model.parameters(), *model.buffers(), *_attributes(model)):
        tracer.note(tensor, frozenset())
    for leaf in tree.leaves(inputs):
        tracer.note(leaf, frozenset({ENDS}))
    taken: dict[str, frozenset[str]] = dict.fromkeys(names, frozenset())

    def takes(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            taken[name] |= tracer.sources((args, kwargs))

        return hook

    def gives(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            for leaf in tree.leaves(output):
                tracer.note(leaf, frozenset({name}))

        return hook

    handles = [layer.register_forward_pre_hook(takes(name), with_kwargs=True) for name, layer in layers.items()]
    handles += [layer.register_forward_hook(gives(name), prepend=True) for name, layer in layers.items()]
    try:
        with evaluating(model), buffers_kept(model), every_module_called(), torch.no_grad(), tracer:
            outputs = tree.call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    found = ((ENDS, tracer.sources(outputs)), *taken.items())
    wiring = tuple((name, tuple(sorted(sources))) for name, sources in found)
    if tracer.lost or not all(sources for _, sources in found) or reached(wiring, ()) != {ENDS, *names}:
        return ()
    return wiring


def _attributes(model: nn.Module) -> Iterator[Tensor]:
    """Tensors that modules have in plain attributes."""
    for module in model.modules():
        for name, value in vars(module).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                yield from tree.leaves(value)


class _Tracer(TorchFunctionMode):
    """Knows of every tensor what it was made from.

    Tensors in the same memory are one: what is written through a view of it comes from there.

    Attributes:
        lost: Whether something went a way that was not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lost = False
        self._sources: dict[int, frozenset[str]] = {}
        self._held: list[Tensor] = []  # so that no memory is used twice

    def note(self, tensor: Tensor, sources: frozenset[str]) -> None:
        """What is in this memory comes from there."""
        self._held.append(tensor)
        self._sources[_place(tensor)] = sources

    def sources(self, value: Any) -> frozenset[str]:
        """What the tensors of a value come from."""
        found: frozenset[str] = frozenset()
        for leaf in tree.leaves(value):
            known = self._sources.get(_place(leaf))
            self.lost |= known is None and leaf.numel() > 0
            found |= known or frozenset()
        return found

    def __torch_function__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Note what comes from what, and go on."""
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        shaped = name.endswith("_like") or name.startswith("new_")  # the first one tells no more than its shape
        given = self.sources((args[1:] if shaped else args, kwargs or {}))
        self.lost |= bool(given) and name in _READS
        changed = [result, (kwargs or {}).get("out")]
        if name == "__setitem__":
            changed.append(args[0])
        for leaf in tree.leaves(changed):
            self.note(leaf, given | self._sources.get(_place(leaf), frozenset()))
        return result


def _place(tensor: Tensor) -> int:
    """The memory that a tensor is in; itself where that cannot be told."""
    if tensor.is_nested or tensor.layout is not torch.strided:
        return id(tensor)
    try:
        return tensor.untyped_storage().data_ptr() or id(tensor)
    except (RuntimeError, NotImplementedError):  # it is made of others
        return id(tensor)
