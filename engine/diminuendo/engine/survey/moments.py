"""First and second moments of every layer on training samples: all that data-aware factors need of the data.

Legend: B samples of a batch, P positions, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diminuendo.engine import tree
from diminuendo.engine.formats import layers
from diminuendo.engine.formats.moments import Moments, needs
from diminuendo.engine.modules import evaluating
from diminuendo.engine.plan import LayerSpec
from diminuendo.engine.survey.observe import only_input
from diminuendo.engine.task import TaskError

_SEPARATOR = "|"
_COUNTS = "counts"
_FIELDS = ("output_mean", "output_covariance", "input_mean", "input_covariance", "input_lags")


class _Gram:
    """Mean and covariances of channels that come in batches, in float64, one group of channels beside the other.

    Values are taken about the mean of the first batch, so that the subtraction at the end loses no digits.

    Attributes:
        lags: Distances along the first spatial axis, at which covariances are taken: 0, then others.
    """

    def __init__(self, groups: int, lags: Sequence[int], *, squares: bool) -> None:
        self.lags = lags
        self.count = 0
        self._groups = groups
        self._centre = torch.empty(0)
        self._sum = torch.empty(0)
        self._squares: list[Tensor] | None = [] if squares else None

    def add(self, values: Tensor) -> bool:
        """Take in (B, P, R, C) of any floating-point type, P along the first axis; False when it is not finite."""
        values = values.detach().to(torch.float64)
        rows = values.flatten(0, 2)
        if self.count == 0:
            self._centre = rows.mean(dim=0)
            self._sum = torch.zeros_like(self._centre)
            width = len(self._centre) // self._groups
            if self._squares is not None:
                self._squares = [self._sum.new_zeros(self._groups, width, width) for _ in self.lags]
        values = values - self._centre
        self.count += len(rows)
        self._sum += values.sum(dim=(0, 1, 2))
        for lag, squares in zip(self.lags, self._squares or (), strict=bool(self._squares)):
            here, there = (values, values) if lag == 0 else (values[:, :-lag], values[:, lag:])
            squares += self._grouped(here).mT @ self._grouped(there)
        return bool(torch.isfinite(self._sum).all())

    def _grouped(self, values: Tensor) -> Tensor:
        """(B, P, R, C) -> (G, B P R, C / G)."""
        rows = values.flatten(0, 2)
        return rows.unsqueeze(0) if self._groups == 1 else rows.reshape(len(rows), self._groups, -1).movedim(1, 0)

    @property
    def mean(self) -> Tensor:
        """(C,), or (G, C / G)."""
        return self._shaped(layers.by_group(self._centre + self._sum / self.count, self._groups))

    def covariances(self) -> list[Tensor] | None:
        """For each lag (C, C), or (G, C / G, C / G), divided by the count; None when they were not taken."""
        if self._squares is None:
            return None
        shift = layers.by_group(self._sum / self.count, self._groups)
        outer = shift.unsqueeze(2) * shift.unsqueeze(1)
        found = [squares / self.count - outer for squares in self._squares]
        found[0] = (found[0] + found[0].mT) / 2
        return [self._shaped(each) for each in found]

    def _shaped(self, grouped: Tensor) -> Tensor:
        return grouped if self._groups > 1 else grouped[0]


def collect(model: nn.Module, specs: Sequence[LayerSpec], inputs: Any, batch_size: int = 250) -> dict[str, Moments]:
    """Moments of the layers' outputs (without bias) and input channels, over samples and positions.

    Args:
        model: Run in eval mode, left as it was.
        specs: Layers, as `discover` found them.
        inputs: (N, ...) training inputs, as `tree` has them, on the model's device.
        batch_size: Samples in one forward; changes results only by rounding.

    Raises:
        TaskError: A layer's input or output is not finite, or there are no samples.
    """
    if tree.count(inputs) == 0:
        raise TaskError("train: there are no samples; give at least one")
    absorbing = _absorbing(model, specs, tree.take(inputs, slice(0, 2)))
    takers = {spec.name: _Taker(spec, model.get_submodule(spec.name)) for spec in specs}
    handles = [
        model.get_submodule(name).register_forward_hook(taker, prepend=True, with_kwargs=True)
        for name, taker in takers.items()
    ]
    try:
        with evaluating(model), torch.no_grad():
            for batch in tree.batches(inputs, batch_size):
                tree.call(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: taker.moments(absorbs_mean=name in absorbing) for name, taker in takers.items()}


class _Taker:
    """Forward hook that takes in a layer's input and output."""

    def __init__(self, spec: LayerSpec, layer: nn.Module) -> None:
        needed = needs(spec)
        dilation = layer.dilation[0] if isinstance(layer, layers.Conv) else 1
        steps = range(spec.kernel[0]) if needed.lags else range(1)
        self._spec = spec
        self._source = _Gram(spec.groups, [dilation * step for step in steps], squares=needed.input)
        self._output = _Gram(spec.groups, [0], squares=needed.output)

    def __call__(self, layer: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: Tensor) -> None:
        given = only_input(args, kwargs)
        if given is None:
            raise TaskError(f"layer {self._spec.name!r}: it is called with one tensor at times and with more at others")
        self._take(self._source, given, self._spec.in_channels, "input")
        bias = layer._parameters.get("bias")
        self._take(self._output, output, self._spec.out_channels, "output", bias)

    def _take(self, gram: _Gram, value: Tensor, channels: int, side: str, bias: Tensor | None = None) -> None:
        dims = len(self._spec.kernel)
        size = value.shape[value.dim() - dims :]
        last = value.movedim(-1 - dims, -1) if dims else value
        rows = last.reshape(-1, size[0] if dims else 1, math.prod(size[1:]), channels)
        if not gram.add(rows if bias is None else rows - bias.detach()):
            raise TaskError(
                f"layer {self._spec.name!r}: its {side} is NaN or infinite on training samples; "
                "check the inputs and the weights of the network"
            )

    def moments(self, *, absorbs_mean: bool) -> Moments:
        """What was taken in."""
        outputs, inputs = self._output.covariances(), self._source.covariances()
        lags = inputs[1:] if inputs else []
        return Moments(
            output_mean=self._output.mean,
            output_covariance=outputs[0] if outputs else None,
            input_mean=self._source.mean,
            input_covariance=inputs[0] if inputs else None,
            input_lags=torch.stack(lags, dim=-3) if lags else None,
            output_count=self._output.count,
            input_count=self._source.count,
            absorbs_mean=absorbs_mean,
        )


def _absorbing(model: nn.Module, specs: Sequence[LayerSpec], inputs: Any) -> set[str]:
    """Layers after which a constant shift is corrected: by their own bias, or by the BatchNorm that follows.

    A BatchNorm follows when it is given the very tensor that the layer returned, at every call.
    """
    names = {id(model.get_submodule(spec.name)): spec.name for spec in specs}
    returned: dict[int, tuple[str, Tensor]] = {}  # the tensors are kept, so that no id is used twice
    pending: dict[str, int] = {spec.name: 0 for spec in specs}

    def remember(module: nn.Module, _: tuple[object, ...], output: Tensor) -> None:
        name = names[id(module)]
        returned[id(output)] = (name, output)
        pending[name] += 1

    def match(_: nn.Module, args: tuple[object, ...]) -> None:
        found = returned.pop(id(args[0]), None) if args else None
        if found is not None:
            pending[found[0]] -= 1

    handles = [model.get_submodule(spec.name).register_forward_hook(remember) for spec in specs]
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    handles += [module.register_forward_pre_hook(match) for module in norms]
    try:
        with evaluating(model), torch.no_grad():
            tree.call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {spec.name for spec in specs if spec.bias or pending[spec.name] == 0}


def to_tensors(moments: Mapping[str, Moments]) -> dict[str, Tensor]:
    """A flat mapping for safetensors: ``layer|field`` to tensor."""
    flat: dict[str, Tensor] = {}
    for layer, own in moments.items():
        counts = torch.tensor([own.output_count, own.input_count, int(own.absorbs_mean)], dtype=torch.int64)
        fields = {name: getattr(own, name) for name in _FIELDS} | {_COUNTS: counts}
        flat |= {f"{layer}{_SEPARATOR}{name}": t.contiguous() for name, t in fields.items() if t is not None}
    return flat


def from_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Moments]:
    """The moments back from what `to_tensors` made."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        layer, _, name = key.rpartition(_SEPARATOR)
        found.setdefault(layer, {})[name] = tensor
    return {layer: _one_from(found[layer]) for layer in sorted(found)}


def _one_from(tensors: Mapping[str, Tensor]) -> Moments:
    output_count, input_count, absorbs = tensors[_COUNTS].tolist()
    return Moments(
        output_mean=tensors["output_mean"],
        output_covariance=tensors.get("output_covariance"),
        input_mean=tensors["input_mean"],
        input_covariance=tensors.get("input_covariance"),
        input_lags=tensors.get("input_lags"),
        output_count=output_count,
        input_count=input_count,
        absorbs_mean=bool(absorbs),
    )
