"""Profiles a network: params, MACs, size, memory footprint and time, by rules that are written down.

Rules (batch 1):
    params: elements of parameters with requires_grad, shared ones once. Buffers do not count.
    size: bytes of those elements; MB is 2^20 bytes.
    MACs (multiply-adds) of each call of a module: convolution ``k k C_in C_out / groups`` for each output position
    (of a transposed one: for each input position), one more for each output with a bias; linear ``in out``, and
    ``out`` with a bias; BatchNorm twice its outputs; ReLU its outputs; pooling its inputs. Functional calls count
    nothing. Kinds without a rule count nothing and are named in `Profile.uncounted`.
    memory: size and 4 bytes for each element of the input and of every module's output, but for Sequential and
    ModuleList.
"""

from __future__ import annotations

import math
import statistics
import time as clock
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diminuendo.engine.modules import evaluating

MB = 2**20
WARM_UPS = 5
_BYTES = 4

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_POOLINGS = (
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)
_TRANSPARENT = (nn.Sequential, nn.ModuleList)
_FREE = (*_TRANSPARENT, nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd)


@dataclass(frozen=True, slots=True)
class LayerProfile:
    """One module that has trainable parameters of its own or does counted work.

    Attributes:
        name: As in named_modules().
        kind: Class name.
        params: Elements of its own trainable parameters; those of a shared parameter are its first owner's.
        macs: Multiply-adds of one sample, over all calls.
    """

    name: str
    kind: str
    params: int
    macs: int


@dataclass(frozen=True, slots=True)
class Profile:
    """A network's figures for one sample.

    Attributes:
        params: Trainable elements.
        macs: Multiply-adds of one sample.
        size_mb: Of the trainable parameters, in 2^20 bytes.
        memory_mb: Footprint at batch 1, in 2^20 bytes.
        time_ms: Median milliseconds of a forward at batch 1 with the current number of threads; None if not asked.
        layers: In the network's order.
        uncounted: Kinds of modules that were called and for which there is no rule.
    """

    params: int
    macs: int
    size_mb: float
    memory_mb: float
    time_ms: float | None
    layers: tuple[LayerProfile, ...]
    uncounted: tuple[str, ...]


def profile(model: nn.Module, example: Tensor, *, time: bool = True, runs: int = 10) -> Profile:
    """Profile a network, in eval mode.

    Args:
        model: Left as it was.
        example: (N, ...) inputs on the model's device, of which the first is used.
        time: Whether to measure the time of a forward.
        runs: Timed forwards, after 5 to warm up.
    """
    sample = example[:1]
    macs, elements, uncounted = _count(model, sample)
    own = _own_params(model)
    trainable = list(_trainable(model))
    size = sum(p.numel() * p.element_size() for p in trainable) / MB
    layers = tuple(
        LayerProfile(name, type(module).__name__, own.get(name, 0), macs.get(name, 0))
        for name, module in model.named_modules()
        if own.get(name, 0) or macs.get(name, 0)
    )
    return Profile(
        params=sum(p.numel() for p in trainable),
        macs=sum(macs.values()),
        size_mb=size,
        memory_mb=size + (sample.numel() + elements) * _BYTES / MB,
        time_ms=time_ms(model, sample, runs=runs) if time else None,
        layers=layers,
        uncounted=tuple(sorted(uncounted)),
    )


@torch.no_grad()
def time_ms(model: nn.Module, inputs: Tensor, *, runs: int = 10) -> float:
    """Median milliseconds of a forward, after 5 to warm up, synchronised with the device of `inputs`."""
    synchronise: Callable[[], None] = torch.cuda.synchronize if inputs.is_cuda else _nothing
    taken: list[float] = []
    with evaluating(model):
        for turn in range(WARM_UPS + runs):
            synchronise()
            start = clock.perf_counter()
            model(inputs)
            synchronise()
            if turn >= WARM_UPS:
                taken.append((clock.perf_counter() - start) * 1e3)
    return statistics.median(taken)


def _nothing() -> None:
    """On the CPU a forward is over when it returns."""


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    """Each trainable parameter once, also when modules share it."""
    return [p for p in model.parameters() if p.requires_grad]


def _own_params(model: nn.Module) -> dict[str, int]:
    """Trainable elements of each module itself; a shared parameter is its first owner's."""
    known: set[int] = set()
    own: dict[str, int] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in known:
                known.add(id(parameter))
                own[name] = own.get(name, 0) + parameter.numel()
    return own


def _count(model: nn.Module, sample: Tensor) -> tuple[dict[str, int], int, set[str]]:
    """MACs of each module, elements of the outputs that count for memory, and kinds without a rule."""
    macs: dict[str, int] = {}
    elements = 0
    uncounted: set[str] = set()

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            nonlocal elements
            if not isinstance(module, _TRANSPARENT):
                elements += _elements(output)
            count = module_macs(module, _elements(inputs), _elements(output))
            if count is not None:
                macs[name] = macs.get(name, 0) + count
            elif next(module.children(), None) is None or next(module.parameters(recurse=False), None) is not None:
                uncounted.add(type(module).__name__)

        return module.register_forward_hook(hook)

    handles = [watch(name, module) for name, module in model.named_modules()]
    try:
        with evaluating(model), torch.no_grad():
            model(sample)
    finally:
        for handle in handles:
            handle.remove()
    return macs, elements, uncounted


def module_macs(module: nn.Module, input_elements: int, output_elements: int) -> int | None:
    """Multiply-adds of one call of a module itself, without its children; None where there is no rule."""
    if isinstance(module, _CONVOLUTIONS):
        work = math.prod(module.kernel_size) * module.in_channels // module.groups
        return output_elements * (work + (module.bias is not None))
    if isinstance(module, _TRANSPOSED):
        work = math.prod(module.kernel_size) * module.out_channels // module.groups
        return input_elements * work + output_elements * (module.bias is not None)
    if isinstance(module, nn.Linear):
        return output_elements * (module.in_features + (module.bias is not None))
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return 2 * output_elements
    if isinstance(module, nn.ReLU):
        return output_elements
    if isinstance(module, _POOLINGS):
        return input_elements
    return 0 if isinstance(module, _FREE) else None


def _elements(value: object) -> int:
    """Elements of all tensors in a nested value."""
    if isinstance(value, Tensor):
        return value.numel()
    if isinstance(value, list | tuple):
        return sum(_elements(item) for item in value)
    if isinstance(value, dict):
        return sum(_elements(item) for item in value.values())
    return 0
