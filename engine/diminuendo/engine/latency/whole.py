"""The original network at work: what it takes, what each of its layers takes of that, and on which inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from diminuendo.engine import tree
from diminuendo.engine.counting import buffers_kept, every_module_called
from diminuendo.engine.modules import evaluating
from diminuendo.engine.stopwatch import Clock, interleaved, middle, spread, typical
from diminuendo.engine.survey.observe import only_input

ROUNDS = 15
"""Timed runs of each form, and of the whole network."""

LIMIT_S = 5.0
"""After so many seconds with the network, or with a group of forms, there are no further rounds but for the first."""

_REST, _WHOLE = "(what is no layer)", "(everything)"


@dataclass(frozen=True, slots=True)
class OriginalTimes:
    """The whole original network, with its layers where they stand.

    Attributes:
        whole_ms: Of a forward.
        layer_ms: Of each layer, over all its calls.
        spread: See `stopwatch.spread`, of the whole forward.
    """

    whole_ms: float
    layer_ms: Mapping[str, float]
    spread: float


@contextmanager
def at_work(model: nn.Module) -> Iterator[None]:
    """Forwards inside are as in use, and leave the network as it was."""
    with evaluating(model), buffers_kept(model), torch.no_grad():
        yield


def time_original(model: nn.Module, layers: Sequence[str], example: Any, clock: Clock) -> OriginalTimes:
    """Time a network and its layers in it: forwards that are watched in turn with ones that are not.

    Args:
        model: Left as it was.
        layers: Names of the layers to watch.
        example: Inputs of one sample.
        clock: Of the device that both are on.
    """
    watched: list[dict[str, float]] = []

    def forward() -> None:
        tree.call(model, example)

    def watch() -> None:
        with _watching(model, layers, clock) as marks, every_module_called():
            start = clock.mark()
            forward()
            ms = clock.ms(start, clock.mark())
        run = {name: sum(clock.ms(*each) for each in own) for name, own in marks.items()}
        watched.append(run | {_REST: max(0.0, ms - sum(run.values())), _WHOLE: ms})

    with at_work(model):
        whole, _ = interleaved([forward, watch], clock, rounds=ROUNDS, limit_s=LIMIT_S)
    runs = [run for run in watched[len(watched) - len(whole) :] if run[_WHOLE] > 0]  # without those to warm up
    # Shares of a run add up to one, whatever disturbed it; times that each are the least of several do not.
    shares = {name: middle([run[name] / run[_WHOLE] for run in runs]) for name in (*layers, _REST)}
    every = sum(shares.values()) or 1.0
    ms = typical([run[_WHOLE] for run in runs]) if runs else 0.0
    return OriginalTimes(typical(whole), {name: shares[name] / every * ms for name in layers}, spread(whole))


@contextmanager
def _watching(model: nn.Module, layers: Sequence[str], clock: Clock) -> Iterator[dict[str, list[tuple[Any, Any]]]]:
    """The beginning and the end of each layer's calls inside."""
    marks: dict[str, list[tuple[Any, Any]]] = {name: [] for name in layers}
    begun: dict[str, Any] = {}
    handles = []
    for name in layers:

        def begin(*_: object, name: str = name) -> None:
            begun[name] = clock.mark()

        def end(*_: object, name: str = name) -> None:
            marks[name].append((begun[name], clock.mark()))

        layer = model.get_submodule(name)
        handles += [layer.register_forward_pre_hook(begin), layer.register_forward_hook(end, prepend=True)]
    try:
        yield marks
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class LayerInputs:
    """Inputs that a layer was seen to take: one of each shape and layout, and how many there were like it."""

    tensors: dict[tuple[tuple[int, ...], tuple[int, ...]], Tensor] = field(default_factory=dict)
    times: Counter[tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=Counter)

    def add(self, given: Tensor) -> None:
        """Note one call."""
        key = tuple(given.shape), tuple(given.stride())
        if key not in self.tensors:
            self.tensors[key] = given.detach().clone(memory_format=torch.preserve_format)
        self.times[key] += 1

    def give(self, module: Callable[[Tensor], object]) -> None:
        """Make the calls of a whole forward."""
        for key, tensor in self.tensors.items():
            for _ in range(self.times[key]):
                module(tensor)

    @property
    def facts(self) -> list[object]:
        """Shape, strides, and how often."""
        return [[list(shape), list(strides), self.times[shape, strides]] for shape, strides in self.tensors]


def inputs_of(model: nn.Module, layers: Sequence[str], example: Any) -> dict[str, LayerInputs]:
    """What each layer takes in a forward.

    Args:
        model: Left as it was.
        layers: Names of the layers.
        example: Inputs of one sample.
    """
    seen = {name: LayerInputs() for name in layers}
    handles = []
    for name, inputs in seen.items():

        def note(_: nn.Module, args: Any, kwargs: Any, inputs: LayerInputs = inputs) -> None:
            given = only_input(args, kwargs)
            if given is not None and given.numel():
                inputs.add(given)

        handles.append(model.get_submodule(name).register_forward_pre_hook(note, with_kwargs=True))
    try:
        with at_work(model), every_module_called():
            tree.call(model, example)
    finally:
        for handle in handles:
            handle.remove()
    return seen
