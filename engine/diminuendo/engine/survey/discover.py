"""Which layers of a network can be compressed, and why the others cannot."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from diminuendo.engine.formats.layers import geometry
from diminuendo.engine.plan import LayerSpec

NORM_LAYERS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)
"""Layers whose few weights are no matter for compression: they are not reported as left dense."""

_NOT_REPORTED = (*NORM_LAYERS, parametrize.ParametrizationList)


@dataclass(frozen=True, slots=True)
class Discovery:
    """What a network is made of, to one who compresses it.

    Attributes:
        layers: Layers that can be compressed, in the order of the network's modules.
        left_dense: (module name, reason) for modules with weights that cannot.
    """

    layers: tuple[LayerSpec, ...]
    left_dense: tuple[tuple[str, str], ...]


@dataclass
class _Seen:
    """What one module did during a forward."""

    calls: int = 0
    input_elements: int = 0
    output_elements: int = 0


def discover(model: nn.Module, example: Tensor) -> Discovery:
    """Find the layers that can be compressed by running the network once, in eval mode.

    Args:
        model: Left as it was: parameters, buffers, mode of every module, hooks.
        example: (N, ...) inputs; positions are counted per sample.

    Returns:
        `nn.Linear` and `nn.Conv2d` (themselves, no subclasses) that are called, ungrouped, padded with zeros, and
        own their trainable weight alone, without a parametrization.
    """
    seen = _observe(model, example)
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    layers: list[LayerSpec] = []
    left: list[tuple[str, str]] = []
    for name, module in model.named_modules():
        if isinstance(module, _NOT_REPORTED) or not list(_own_weights(module)):
            continue
        reason = _obstacle(name, module, seen.get(name, _Seen()), owners)
        if reason:
            left.append((name, reason))
        else:
            layers.append(_spec(name, module, seen[name], len(example)))
    return Discovery(tuple(layers), tuple(left))


def _observe(model: nn.Module, example: Tensor) -> dict[str, _Seen]:
    """Count calls and elements of every module during one forward."""
    seen: dict[str, _Seen] = {}

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            record = seen.setdefault(name, _Seen())
            record.calls += 1
            if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
                record.input_elements += inputs[0].numel()
                record.output_elements += output.numel()

        return module.register_forward_hook(hook)

    handles = [watch(name, module) for name, module in model.named_modules()]
    try:
        with evaluating(model), torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return seen


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every module in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _own_weights(module: nn.Module) -> Iterator[Tensor]:
    """Weights that belong to this module itself, also such as are hidden behind a parametrization."""
    yield from module.parameters(recurse=False)
    if parametrize.is_parametrized(module):
        yield from module.parametrizations.parameters()  # type: ignore[union-attr]


def _obstacle(name: str, module: nn.Module, seen: _Seen, owners: Counter[int]) -> str:
    """Why this module cannot be compressed, in words; empty if it can."""
    kind = type(module).__name__
    if parametrize.is_parametrized(module):
        return f"its {kind} weights are parametrized"
    if type(module) not in (nn.Linear, nn.Conv2d):
        base = next((b.__name__ for b in (nn.Linear, nn.Conv2d) if isinstance(module, b)), None)
        return f"{kind} is a subclass of {base} and may do something else" if base else f"no format for {kind}"
    if name == "":
        return "it is the whole network; wrap it in nn.Sequential"
    weight = module._parameters.get("weight")
    if weight is None:
        return "its weight is computed by a hook, not a parameter of its own"
    if isinstance(module, nn.Conv2d) and module.groups != 1:
        return f"it is grouped (groups={module.groups})"
    if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
        return f"its padding mode is {module.padding_mode!r}, not 'zeros'"
    if any(owners[id(p)] > 1 for p in module.parameters(recurse=False)):
        return "it shares weights with another module"
    if not weight.requires_grad:
        return "its weight is frozen (requires_grad is False)"
    if not weight.dtype.is_floating_point:
        return f"its weight is {weight.dtype}, not a floating-point type"
    if seen.calls == 0 or seen.output_elements == 0:
        return "it is not called in a forward"
    return ""


def _spec(name: str, module: nn.Module, seen: _Seen, samples: int) -> LayerSpec:
    """A layer that can be compressed, with its positions per sample."""
    bare = geometry(name, module)
    return dataclasses.replace(
        bare,
        positions=seen.output_elements // (bare.out_channels * samples),
        input_positions=seen.input_elements // (bare.in_channels * samples),
    )
