"""sha256 of nested values: of every tensor's bytes and every plain value, each with its place. Nothing is pickled."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor

from diminuendo.engine import tree

BUNDLES = "diminuendo_bundle_"
"""How the names of modules begin that are the code of bundles."""

_PLAIN = (str, int, float, bool, bytes, type(None), torch.dtype, torch.device)


class Digest:
    """A running sha256."""

    def __init__(self, start: str) -> None:
        """Begin with some text."""
        self._hash = hashlib.sha256(start.encode())

    def add(self, name: str, value: Any) -> None:
        """Take in a nested value under a name. Of an object that is neither tensor nor plain, its class is taken in."""
        for path, leaf in tree.entries(value, name):
            if isinstance(leaf, Tensor):
                self._add_tensor(path, leaf.detach())
            else:
                said = repr(leaf) if isinstance(leaf, _PLAIN) else named(type(leaf))
                self._hash.update(f"{path}={said}".encode())

    def add_code(self, name: str, value: Any) -> None:
        """Take in a function of an owner's, as far as it can be told: its name, its code and what it holds.

        Of an object that is called, its class and its plain attributes are taken in.
        """
        for part in _code(value, ()):
            self.add(name, part)

    def _add_tensor(self, path: str, tensor: Tensor) -> None:
        """Shape, type and bytes of a tensor, whatever its layout."""
        if tensor.is_quantized:
            self._hash.update(_scales(tensor).encode())
            tensor = tensor.int_repr()
        elif tensor.layout != torch.strided:
            tensor = tensor.to_dense()
        self._hash.update(f"{path}{tuple(tensor.shape)}{tensor.dtype}".encode())
        plain = tensor.resolve_conj().resolve_neg().cpu().contiguous().flatten()
        self._hash.update(plain.view(torch.uint8).numpy().tobytes())

    def hexdigest(self) -> str:
        """Lower-case hex."""
        return self._hash.hexdigest()


def named(thing: Any) -> str:
    """Module and name of a class or function. A bundle's module is not named: it is called by where it lies."""
    module = getattr(thing, "__module__", None) or ""
    return f"{'' if module.startswith(BUNDLES) else module}.{thing.__qualname__}"


def _code(value: Any, above: tuple[int, ...]) -> Iterator[Any]:
    """What tells one piece of code from another, plain or a tensor: no addresses."""
    if id(value) in above:
        return
    above = (*above, id(value))
    parts: Iterable[Any] = ()
    if isinstance(value, CodeType):
        yield value.co_code, value.co_names
        parts = value.co_consts
    elif isinstance(value, FunctionType):
        yield named(value)
        cells = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
        parts = (value.__code__, value.__defaults__, value.__kwdefaults__, *cells)
    elif isinstance(value, MethodType):
        parts = (value.__func__, value.__self__)
    elif isinstance(value, functools.partial):
        parts = (value.func, value.args, value.keywords)
    elif isinstance(value, frozenset):
        yield sorted(map(repr, value))  # sets of strings come in another order in every process
    elif isinstance(value, tuple | list | dict):
        parts = [part for item in value.items() for part in item] if isinstance(value, dict) else value
    elif isinstance(value, (*_PLAIN, Tensor)):
        yield value
    elif callable(value) and not isinstance(value, type) and not isinstance(value, BuiltinFunctionType):
        yield named(type(value))
        parts = [item for item in getattr(value, "__dict__", {}).items() if isinstance(item[1], _PLAIN)]
    else:
        yield named(value if hasattr(value, "__qualname__") else type(value))
    for part in parts:
        yield from _code(part, above)


def _filled(cell: CellType) -> bool:
    """Whether a closure's variable has a value."""
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _scales(tensor: Tensor) -> str:
    """What the integers of a quantized tensor stand for."""
    if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return f"{tensor.q_scale()},{tensor.q_zero_point()}"
    scales, zeros = tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()
    return f"{scales.tolist()},{zeros.tolist()},{tensor.q_per_channel_axis()}"
