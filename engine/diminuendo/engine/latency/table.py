"""The table: times of a layer's forms, from ratios to the layer that are known or timed now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from diminuendo.engine.formats import Factors, get
from diminuendo.engine.formats.layers import kernel_of
from diminuendo.engine.latency.cache import Facts, LatencyCache
from diminuendo.engine.latency.whole import (
    LIMIT_S,
    ROUNDS,
    LayerInputs,
    OriginalTimes,
    at_work,
    inputs_of,
    time_original,
)
from diminuendo.engine.plan import Choice, LayerSpec
from diminuendo.engine.profile import device_facts, machine
from diminuendo.engine.search import isotonic
from diminuendo.engine.search.work import LayerTime, Option
from diminuendo.engine.stopwatch import Clock, clock_of, interleaved, spread, typical
from diminuendo.engine.survey.calibrate import rungs_to_measure

POINTS = 16
"""Rungs of each format that are timed: processors compute channels in blocks, so that time rises by steps."""

GROUP, GROUP_BYTES = 24, 256 * 2**20
"""Most forms that are timed in turn with one layer, and most bytes of their weights."""


@dataclass
class Timetable:
    """Times a network and forms of its layers.

    Attributes:
        model: The original network, in the layout that it runs in; not changed.
        layers: Names of the layers that can be compressed.
        example: Inputs of one sample, on the model's device.
        layout: Puts a form into the layout that the network runs in.
        clock: What tells the time; None: that of the device.
        cache: What was timed before.
    """

    model: nn.Module
    layers: Sequence[str]
    example: Any
    layout: Callable[[nn.Module], nn.Module] = lambda form: form
    clock: Clock | None = None
    cache: LatencyCache = field(default_factory=lambda: LatencyCache(None))
    _originals: dict[int, OriginalTimes] = field(default_factory=dict, repr=False)

    def timed(
        self, spec: LayerSpec, factors: Mapping[str, Factors], options: Sequence[Option]
    ) -> tuple[tuple[Option, ...], LayerTime]:
        """Options of a layer with their latencies, and what those rest on.

        Args:
            spec: The layer.
            factors: Of this layer, by format.
            options: Its forms, each format's by ascending params.

        Returns:
            Within a format latency never falls while MACs rise: where it was measured to, neighbours share their
            mean. Between the rungs that were timed it is straight in MACs.
        """
        original = self.original
        dense_ms = original.layer_ms[spec.name]
        ladders: dict[str, list[Option]] = {}
        for option in options:
            ladders.setdefault(option.choice.format, []).append(option)
        points = {name: [ladder[i] for i in rungs_to_measure(len(ladder), POINTS)] for name, ladder in ladders.items()}
        ratios, widest = self._ratios(spec, factors, [o.choice for ladder in points.values() for o in ladder])
        timed = []
        for name, ladder in ladders.items():
            curve = isotonic.fit([o.cost.macs for o in points[name]], [ratios[str(o.choice)] for o in points[name]])
            for option in ladder:
                latency_ns = round(1e6 * dense_ms * curve(option.cost.macs))
                timed.append(replace(option, cost=replace(option.cost, latency_ns=latency_ns)))
        return tuple(timed), LayerTime(
            dense_ns=round(1e6 * dense_ms),
            whole_ns=round(1e6 * original.whole_ms),
            spread=max(original.spread, widest),
            machine=machine(self.model, self.example),
        )

    @property
    def original(self) -> OriginalTimes:
        """The network with torch's current number of threads, timed once for each."""
        threads = torch.get_num_threads()
        if threads not in self._originals:
            self._originals[threads] = time_original(self.model, self.layers, self.example, self._clock)
        return self._originals[threads]

    @property
    def _clock(self) -> Clock:
        return self.clock or clock_of(self.example)

    @cached_property
    def _inputs(self) -> dict[str, LayerInputs]:
        return inputs_of(self.model, self.layers, self.example)

    def _ratios(
        self, spec: LayerSpec, factors: Mapping[str, Factors], wanted: Sequence[Choice]
    ) -> tuple[dict[str, float], float]:
        """Time of each form relative to the layer's, and the widest spread of what was timed now."""
        layer, inputs = self.model.get_submodule(spec.name), self._inputs[spec.name]
        if not inputs.tensors:  # the sample does not reach it
            return {str(choice): 1.0 for choice in wanted}, 0.0
        device, facts = device_facts(self.model, self.example), layer_facts(layer, spec, inputs)
        known = self.cache.read(device, facts)
        widest, found = 0.0, dict[str, float]()
        for group in _groups([choice for choice in wanted if str(choice) not in known], layer, spec):
            ratios, own = self._timed_beside(layer, spec, inputs, factors, group)
            widest, found = max(widest, own), found | ratios
        self.cache.add(device, facts, found)
        return known | found, widest

    def _timed_beside(
        self,
        layer: nn.Module,
        spec: LayerSpec,
        inputs: LayerInputs,
        factors: Mapping[str, Factors],
        group: Sequence[Choice],
    ) -> tuple[dict[str, float], float]:
        """Forms timed in turn with their layer: ratios, and the layer's own spread."""
        forms = [self._form(layer, spec, factors[choice.format], choice) for choice in group]
        # Not by calling the layer: its hooks are the owner's, and may count.
        modules: list[Callable[[Tensor], object]] = [layer.forward, *forms]
        runs = [partial(inputs.give, module) for module in modules]
        with at_work(self.model):
            dense, *others = interleaved(runs, self._clock, rounds=ROUNDS, limit_s=LIMIT_S)
        own = typical(dense)
        ratios = [typical(times) / own if own > 0 else 1.0 for times in others]
        return {str(choice): ratio for choice, ratio in zip(group, ratios, strict=True)}, spread(dense)

    def _form(self, layer: nn.Module, spec: LayerSpec, factors: Factors, choice: Choice) -> nn.Module:
        form = get(choice.format)
        module = form.build(layer, choice.ranks)
        form.load(module, spec, factors, choice.ranks)
        return self.layout(module.eval())


def _groups(choices: Sequence[Choice], layer: nn.Module, spec: LayerSpec) -> Iterator[list[Choice]]:
    """Choices in groups that are timed together."""
    item_bytes, room = kernel_of(layer).element_size(), GROUP_BYTES
    group: list[Choice] = []
    for choice in choices:
        size = get(choice.format).cost(spec, choice.ranks, item_bytes=item_bytes).size_bytes
        if group and (size > room or len(group) == GROUP):
            yield group
            group, room = [], GROUP_BYTES
        group.append(choice)
        room -= size
    if group:
        yield group


def layer_facts(layer: nn.Module, spec: LayerSpec, inputs: LayerInputs) -> Facts:
    """Everything about a layer that its time and that of its forms depend on, but not its name: plain JSON."""
    kernel, names = kernel_of(layer), ("stride", "padding", "dilation", "output_padding", "padding_mode")
    options = {name: getattr(layer, name) for name in names if hasattr(layer, name)}
    return {
        "kind": spec.kind,
        "channels": [spec.out_channels, spec.in_channels, spec.groups],
        "kernel": list(spec.kernel),
        "bias": spec.bias,
        "options": {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()},
        "dtype": str(kernel.dtype).removeprefix("torch."),
        "layout": [axis for _, axis in sorted((-stride, axis) for axis, stride in enumerate(kernel.stride()))],
        "inputs": inputs.facts,
    }
