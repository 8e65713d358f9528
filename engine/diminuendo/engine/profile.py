"""Profiles a network: params, MACs, size, memory footprint and time, by rules that are written down.

Rules (batch 1):
    params: elements of parameters with requires_grad, shared ones once. Buffers do not count.
    size: bytes of those elements, and of the weights that quantized modules hold; MB is 2^20 bytes.
    MACs (multiply-adds) of each call of a module: convolution ``k k C_in C_out / groups`` for each output position
    (of a transposed one: for each input position), one more for each output with a bias; linear ``in out``, and
    ``out`` with a bias; BatchNorm twice its outputs; ReLU its outputs; pooling its inputs. Functional calls count
    nothing. Kinds without a rule count nothing and are named in `Profile.uncounted`.
    memory: size and 4 bytes for each element of the input and of every module's output, but for Sequential and
    ModuleList.

What computes a parametrized weight (weight norm, spectral norm) is part of its layer: its params are the layer's.
"""

from __future__ import annotations

import platform
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diminuendo.engine import tree
from diminuendo.engine.cost import ACTIVATION_BYTES, Cost
from diminuendo.engine.counting import buffers_kept, count, materialised, own_params, stored_bytes, trainable
from diminuendo.engine.modules import evaluating, unwrapped
from diminuendo.engine.stopwatch import Clock, Race, clock_of, interleaved, race, threads_set

MB = 2**20
WARM_UPS = 5


@dataclass(frozen=True, slots=True)
class LayerProfile:
    """One module that has trainable parameters of its own or does counted work.

    Attributes:
        name: As in named_modules().
        kind: Class name.
        params: Elements of its own trainable parameters; those of a shared parameter are its first owner's.
        macs: Multiply-adds of one sample, over all calls.
        output_shape: Of the first tensor of its last call, N included; empty when it was not called.
    """

    name: str
    kind: str
    params: int
    macs: int
    output_shape: tuple[int, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Profile:
    """A network's figures for one sample.

    Attributes:
        params: Trainable elements.
        macs: Multiply-adds of one sample.
        size_mb: Of the trainable parameters and quantized weights, in 2^20 bytes.
        elements: Of the input and of the outputs that count for memory.
        memory_mb: Footprint at batch 1, in 2^20 bytes.
        time_ms: Median milliseconds of a forward at batch 1 with the current number of threads; None if not asked.
        layers: In the network's order.
        uncounted: Kinds of modules that were called and for which there is no rule; ``KIND (not called)`` for those
            with parameters that no call of theirs accounts for, because other code reads them or nothing does.
    """

    params: int
    macs: int
    size_mb: float
    memory_mb: float
    time_ms: float | None
    layers: tuple[LayerProfile, ...]
    uncounted: tuple[str, ...]
    elements: int = 0

    @property
    def cost(self) -> Cost:
        """The same as a cost."""
        return Cost(self.params, self.macs, round(self.size_mb * MB), self.elements)


def profile(
    model: nn.Module, example: Any, *, time: bool = True, runs: int = 10, threads: int | None = None
) -> Profile:
    """Profile a network, in eval mode.

    What `torch.compile` and DataParallel put around it is left out, of the time as well. Lazy layers that were never
    run are given weights in a copy.

    Args:
        model: Any module; left as it was, modes, hooks and buffers included.
        example: Inputs on the model's device as `tree` has them, of which the first sample is used.
        time: Whether to measure the time of a forward.
        runs: Timed forwards, after 5 to warm up.
        threads: Torch's threads for the timed forwards; None: as many as it has now. Restored afterwards.
    """
    sample = tree.take(example, slice(0, 1))
    model = materialised(unwrapped(model), sample)
    counts = count(model, sample)
    own = own_params(model)
    size = stored_bytes(model) / MB
    elements = tree.elements(sample) + counts.elements
    return Profile(
        params=sum(p.numel() for p in trainable(model)),
        macs=sum(counts.macs.values()),
        size_mb=size,
        memory_mb=size + elements * ACTIVATION_BYTES / MB,
        time_ms=time_ms(model, sample, runs=runs, threads=threads) if time else None,
        layers=tuple(
            LayerProfile(name, type(module).__name__, own.get(name, 0), counts.macs.get(name, 0), counts.shape(name))
            for name, module in model.named_modules()
            if own.get(name, 0) or counts.macs.get(name, 0)
        ),
        uncounted=tuple(sorted(counts.uncounted)),
        elements=elements,
    )


@torch.no_grad()
def time_ms(
    model: nn.Module, inputs: Any, *, runs: int = 10, threads: int | None = None, clock: Clock | None = None
) -> float:
    """Median milliseconds of a forward, after 5 to warm up, synchronised with the device of `inputs`.

    Args:
        model: Run in eval mode; its buffers are left as they were.
        inputs: As `tree.call` takes them.
        runs: Timed forwards, at least 1.
        threads: As in `profile`.
        clock: What tells the time; None: that of the device.
    """
    with threads_set(threads), evaluating(model), buffers_kept(model):
        forward = [lambda: tree.call(model, inputs)]
        taken = interleaved(forward, clock or clock_of(inputs), rounds=runs, warm_ups=WARM_UPS)
    return statistics.median(taken[0])


@torch.no_grad()
def race_networks(
    models: Sequence[nn.Module], inputs: Any, *, threads: int | None = None, clock: Clock | None = None, **how: Any
) -> Race:
    """Time networks against the first of them, as `stopwatch.race` does.

    Args:
        models: Run in eval mode; their buffers are left as they were.
        inputs: As `tree.call` takes them, on the device of all of them.
        threads: As in `profile`.
        clock: What tells the time; None: that of the device.
        how: As `stopwatch.race` takes them.
    """
    with threads_set(threads), ExitStack() as stack:
        for model in models:
            stack.enter_context(evaluating(model))
            stack.enter_context(buffers_kept(model))
        forwards = [partial(tree.call, model, inputs) for model in models]
        return race(forwards, clock or clock_of(inputs), **how)


def machine(model: nn.Module, example: Any, *, threads: int | None = None) -> str:
    """What the time of a network is measured on: device, threads, batch, dtype, version."""
    facts = device_facts(model, example)
    return (
        f"{facts['device']}, {threads or facts['threads']} thread(s), batch 1, {facts['dtype']}, torch {facts['torch']}"
    )


def device_facts(model: nn.Module, example: Any) -> dict[str, object]:
    """Everything that the time of a network depends on beside the network: plain JSON."""
    leaf = next(tree.leaves(example), None)
    on_gpu = leaf is not None and leaf.is_cuda
    told = {} if on_gpu else _cpuinfo()
    dtype = next((str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.is_floating_point()), "float32")
    return {
        "device": torch.cuda.get_device_name(leaf.device) if on_gpu and leaf is not None else _processor(told),
        # Virtual machines give many processors one name.
        "kind": [told.get(name, "") for name in ("cpu family", "model", "stepping", "cache size")],
        "capability": "" if on_gpu else torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "dtype": dtype,
        "torch": torch.__version__,
    }


def _processor(told: Mapping[str, str]) -> str:
    """The processor's name where the system says it, else its architecture."""
    return told.get("model name") or platform.machine()


def _cpuinfo() -> dict[str, str]:
    """What the system says of its first processor; nothing where it says nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
