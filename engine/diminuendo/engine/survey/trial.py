"""Tries whether layers can be replaced: the network with another module in their place must give the same.

Code may look at a layer from outside: read its weight, ask for its class, hold it in a closure. None of that can be
told from the modules alone, so it is tried: each layer is put inside an `nn.Sequential`, as its forms will be, in a
copy made as candidates are made.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from diminuendo.engine import tree
from diminuendo.engine.modules import CopyError, avoid_fast_paths, copied, evaluating, take_place
from diminuendo.engine.survey.observe import Uses
from diminuendo.engine.task import TaskError

_SEED = 0
_TOLERANCE = 1e-4
"""Largest difference between the two runs, relative to the largest output: they compute the same, but a GPU may order
its sums differently."""


_MASK = 1e18


@dataclass
class Trial:
    """A network, an input and its output on it.

    Attributes:
        model: The original; not changed.
        inputs: Of a few samples.
    """

    model: nn.Module
    inputs: Any

    def __post_init__(self) -> None:
        """Take the outputs of copies, which start from the same state as those that are tried.

        Raises:
            TaskError: There is no copy, it runs modules or uses weights of the original, or gives no tensors.
        """
        self._check_copies()
        outputs = _run(self._copied({}), self.inputs)
        self._reference = {False: tensors_of(outputs)}
        if not self._reference[False]:
            raise TaskError(
                f"model: there is no tensor in what it returns ({type(outputs).__name__}); return a tensor, or a "
                "tuple, mapping or dataclass of tensors"
            )

        try:
            self._reference[True] = tensors_of(_run(self._copied({}), self.inputs, training=True))
        except Exception:  # noqa: BLE001 - BatchNorm takes no single sample, and other code may take no training
            return

    def _check_copies(self) -> None:
        """Refuse a network of which a copy runs modules or uses trainable weights of the original."""
        uses = Uses({name: (p,) for name, p in self.model.named_parameters() if p.requires_grad})
        candidate = self._copied({})
        with _counted(dict(self.model.named_modules())) as strays, uses:
            _run(candidate, self.inputs)
        stray = next((name or "the network" for name, count in strays.items() if count), next(iter(uses.found), ""))
        if stray:
            raise TaskError(
                f"model: a copy of the network uses {stray!r} of the original (a lambda or a closure holds it); "
                "refer to modules and weights as attributes of self, so that the network can be copied"
            )

    def obstacles(self, names: Sequence[str]) -> dict[str, str]:
        """Why layers cannot be replaced, in words, for those that cannot.

        All are tried at once; where that fails, halves of them, down to the layers that are the cause.
        """
        reason = self._fails(names) if names else ""
        if not reason:
            return {}
        if len(names) == 1:
            return {names[0]: reason}
        middle = len(names) // 2
        found = self.obstacles(names[:middle]) | self.obstacles(names[middle:])
        rest = [name for name in names if name not in found]
        if rest and (reason := self._fails(rest)):  # each by itself would do
            found |= dict.fromkeys(rest, f"{reason} (together with other layers)")
        return found

    def _fails(self, names: Sequence[str]) -> str:
        """Why the network with these layers wrapped does not give what the original gives; empty if it does."""
        return next((reason for training in self._reference if (reason := self._fails_in(names, training))), "")

    def _fails_in(self, names: Sequence[str], training: bool) -> str:
        """The same in one mode."""
        memo: dict[int, object] = {}
        layers = {name: self.model.get_submodule(name) for name in names}
        counted = {name: _Counted(bare(layer)) for name, layer in layers.items()}
        wrapped = {name: nn.Sequential(counted[name]) for name in names}
        memo |= {id(layers[name]): wrapped[name] for name in names}
        candidate = self._copied(memo)
        for name in names:
            take_place(layers[name], wrapped[name], memo)
        avoid_fast_paths(candidate)
        when = " in training" if training else ""
        try:
            outputs = tensors_of(_run(candidate, self.inputs, training=training))
        except Exception as error:  # noqa: BLE001 - the network's own code
            return f"code outside of it depends on what it is{when}: {type(error).__name__}: {_first_line(error)}"
        if not training and not all(each.calls for each in counted.values()):
            return "the network reaches it by another way than its modules"
        alike = same(self._reference[training], outputs)
        return "" if alike else f"the network gives other outputs{when} when it is replaced"

    def _copied(self, memo: dict[int, object]) -> nn.Module:
        try:
            return copied(self.model, memo)
        except CopyError as error:
            raise TaskError(f"model: {error}") from error


def tensors_of(outputs: Any) -> list[Tensor]:
    """Those of a network's outputs; of an object of its own kind, its attributes."""
    return list(tree.leaves(outputs)) or list(tree.leaves(getattr(outputs, "__dict__", None)))


def _run(model: nn.Module, inputs: Any, *, training: bool = False) -> Any:
    """Outputs in eval or training mode, with the same random numbers each time."""
    devices = sorted({t.get_device() for t in model.parameters() if t.is_cuda})
    state, array_state = random.getstate(), numpy.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices), evaluating(model), torch.no_grad():
            model.train(training)
            torch.manual_seed(_SEED)
            random.seed(_SEED)
            numpy.random.seed(_SEED)
            return tree.call(model, inputs)
    finally:
        random.setstate(state)
        numpy.random.set_state(array_state)


class _Counted(nn.Module):
    """Counts its calls without a hook: with hooks some networks compute in other ways."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.calls = 0

    def forward(self, input: Tensor) -> Any:
        self.calls += 1
        return self.layer(input)


def bare(layer: nn.Module) -> nn.Module:
    """The same layer, sharing its weights, without hooks."""
    bare = copy.copy(layer)
    for name, value in vars(nn.Module()).items():
        if name.endswith(("hooks", "hooks_with_kwargs", "hooks_always_called")):
            vars(bare)[name] = copy.copy(value)
    return bare


@contextmanager
def _counted(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, int]]:
    """Calls of modules while inside, by name."""
    calls = dict.fromkeys(modules, 0)

    def count(name: str) -> Any:
        def hook(*_: object) -> None:
            calls[name] += 1

        return hook

    hookable = [(name, module) for name, module in modules.items() if not isinstance(module, torch.jit.ScriptModule)]
    handles = [module.register_forward_pre_hook(count(name)) for name, module in hookable]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def same(reference: Sequence[Tensor], outputs: Sequence[Tensor]) -> bool:
    """Whether two runs gave the same, to rounding."""
    return len(reference) == len(outputs) and all(_close(a, b) for a, b in zip(reference, outputs, strict=True))


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if torch.equal(a, b) or not a.is_floating_point():
        return torch.equal(a, b)
    sizes = a.abs()
    sizes = sizes[sizes < _MASK]  # neither NaN nor what stands for minus infinity
    scale = float(sizes.max()) if sizes.numel() else 0.0
    return torch.allclose(a, b, rtol=0.0, atol=_TOLERANCE * scale, equal_nan=True)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]
