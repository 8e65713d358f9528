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
from diminuendo.engine.counting import buffers_kept, every_module_called
from diminuendo.engine.formats import layers
from diminuendo.engine.formats.moments import Moments, needs
from diminuendo.engine.modules import evaluating, unwrapped
from diminuendo.engine.plan import LayerSpec
from diminuendo.engine.survey.norms import follow
from diminuendo.engine.survey.observe import only_input
from diminuendo.engine.task import TaskError

_BLOCK_ROWS = 2048
_SEPARATOR = "|"
_COUNTS = "counts"
_FIELDS = ("output_mean", "output_covariance", "input_mean", "input_covariance", "input_lags")


def _summed(values: Tensor) -> Tensor:
    """(B, P, R, C) -> (C,) float64: sums of samples in their own precision, summed in float64."""
    return values.sum(dim=(1, 2)).sum(dim=0, dtype=torch.float64)


def _summed_product(here: Tensor, there: Tensor) -> Tensor:
    """(B, n, C) twice -> (C, C) float64: products of blocks of rows in their own precision, summed in float64."""
    batch, count, channels = here.shape
    if count < min(channels, _BLOCK_ROWS):  # many small products would take more memory than the values
        rows = batch * count
        size = min(_BLOCK_ROWS, max(1, rows))
        whole = rows // size * size
        first, second = here.reshape(rows, channels), there.reshape(rows, channels)
        rest = (first[whole:].mT @ second[whole:]).to(torch.float64)
        here, there = first[:whole].reshape(-1, size, channels), second[:whole].reshape(-1, size, channels)
        return (here.mT @ there).sum(dim=0, dtype=torch.float64) + rest
    return (here.mT @ there).sum(dim=0, dtype=torch.float64)


class _Gram:
    """Mean and covariances of channels that come in batches, in float64, one group of channels beside the other.

    Values are taken about the mean of the first batch, so that the subtraction at the end loses no digits. Sums of one
    sample and products of a few thousand rows are taken in the values' precision (at least float32), and added up in
    float64.

    Attributes:
        lags: Distances along the first spatial axis, at which covariances are taken: 0, then others.
        count: Rows taken in.
    """

    def __init__(self, groups: int, lags: Sequence[int], *, squares: bool) -> None:
        self.lags = lags
        self.count = 0
        self._groups = groups
        self._squares = squares
        self._centre = torch.empty(0)
        self._sum = torch.empty(0)
        self._pairs: list[_Pairs] = []

    def add(self, values: Tensor) -> bool:
        """Take in (B, P, R, C), not empty, of any floating-point type, P along the first axis; False if not finite."""
        values = values.detach().to(torch.promote_types(values.dtype, torch.float32))
        if self.count == 0:
            self._start(values)
        values = values - self._centre.to(values.dtype)
        self.count += values.shape[:3].numel()
        total = _summed(values)
        self._sum += total
        for lag, pairs in zip(self.lags, self._pairs, strict=self._squares):
            pairs.add(values, total, lag)
        return bool(torch.isfinite(self._sum).all())

    def _start(self, values: Tensor) -> None:
        self._centre = _summed(values) / values.shape[:3].numel()
        self._sum = torch.zeros_like(self._centre)
        self._pairs = [_Pairs(self._groups, self._centre) for _ in self.lags if self._squares]

    @property
    def mean(self) -> Tensor:
        """(C,), or (G, C / G)."""
        return self._shaped(layers.by_group(self._centre + self._sum / self.count, self._groups))

    def covariances(self) -> list[Tensor] | None:
        """For each lag (C, C), or (G, C / G, C / G), divided by the count; None when they were not taken."""
        if not self._squares:
            return None
        shift = layers.by_group(self._sum / self.count, self._groups)
        found = [pairs.about(shift) / self.count for pairs in self._pairs]
        found[0] = (found[0] + found[0].mT) / 2
        return [self._shaped(each) for each in found]

    def _shaped(self, grouped: Tensor) -> Tensor:
        return grouped if self._groups > 1 else grouped[0]


class _Pairs:
    """Products of rows with the rows a lag further on, group by group, and what it takes to move their origin."""

    def __init__(self, groups: int, like: Tensor) -> None:
        width = len(like) // groups
        self._squares = like.new_zeros(groups, width, width)
        self._here = like.new_zeros(groups, width)
        self._there = like.new_zeros(groups, width)
        self._count = 0

    def add(self, values: Tensor, total: Tensor, lag: int) -> None:
        """Take in (B, P, R, C) with its sum (C,) over rows."""
        size = values.shape[1]
        kept = max(size - lag, 0)
        self._squares += self._product(values[:, :kept], values[:, lag:])
        self._here += (total - _summed(values[:, kept:])).view_as(self._here)
        self._there += (total - _summed(values[:, :lag])).view_as(self._there)
        self._count += values[:, :kept].shape[:3].numel()

    def _product(self, here: Tensor, there: Tensor) -> Tensor:
        """(B, P, R, C) twice -> (G, C / G, C / G) float64."""
        if len(self._here) == 1:
            return _summed_product(here.flatten(1, 2), there.flatten(1, 2)).unsqueeze(0)
        first, second = (rows.reshape(-1, *self._here.shape).movedim(1, 0).to(torch.float64) for rows in (here, there))
        return first.mT @ second

    def about(self, origin: Tensor) -> Tensor:
        """(G, C / G, C / G) sum of the products of rows less an origin (G, C / G)."""
        crossed = self._here.unsqueeze(2) * origin.unsqueeze(1) + origin.unsqueeze(2) * self._there.unsqueeze(1)
        return self._squares - crossed + self._count * origin.unsqueeze(2) * origin.unsqueeze(1)


def collect(model: nn.Module, specs: Sequence[LayerSpec], inputs: Any, batch_size: int = 250) -> dict[str, Moments]:
    """Moments of the layers' outputs (without bias) and input channels, over samples and positions.

    Args:
        model: Run in eval mode; left as it was, buffers included.
        specs: Layers, as `discover` found them. One that no sample reaches is taken to see white noise.
        inputs: (N, ...) training inputs, as `tree` has them, on the model's device.
        batch_size: Samples in one forward; changes results only by rounding.

    Raises:
        TaskError: A layer's input or output is not finite, or there are no samples.
    """
    if tree.count(inputs) == 0:
        raise TaskError("train: there are no samples; give at least one")
    model = unwrapped(model)
    norms = follow(model, specs, tree.take(inputs, slice(0, 2)))
    absorbing = norms.absorbing | {spec.name for spec in specs if spec.bias}
    takers = {spec.name: _Taker(spec, model.get_submodule(spec.name)) for spec in specs}
    handles = [
        model.get_submodule(name).register_forward_hook(taker, prepend=True, with_kwargs=True)
        for name, taker in takers.items()
    ]
    try:
        with evaluating(model), buffers_kept(model), every_module_called(), torch.no_grad():
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
        self._layer = layer
        self._source = _Gram(spec.groups, [dilation * step for step in steps], squares=needed.input)
        self._output = _Gram(spec.groups, [0], squares=needed.output)

    def __call__(self, layer: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: Tensor) -> None:
        given = only_input(args, kwargs)
        if given is None:
            raise TaskError(f"layer {self._spec.name!r}: it is called with one tensor at times and with more at others")
        if isinstance(layer, layers.Conv) and self._spec.kernel_size == 1:  # positions that a stride skips do not count
            steps: list[Any] = [slice(None, None, step) for step in layer.stride]
            given = given[(..., *steps)]
        self._take(self._source, given, self._spec.in_channels, "input")
        bias = layer._parameters.get("bias")
        self._take(self._output, output, self._spec.out_channels, "output", bias)

    def _take(self, gram: _Gram, value: Tensor, channels: int, side: str, bias: Tensor | None = None) -> None:
        if value.numel() == 0:
            return
        dims = len(self._spec.kernel)
        size = value.shape[value.dim() - dims :]
        last = value.movedim(-1 - dims, -1) if dims else value
        rows = last.reshape(-1, size[0] if dims else 1, math.prod(size[1:]), channels)
        if not gram.add(rows if bias is None else rows.to(torch.float64) - bias.detach()):
            raise TaskError(
                f"layer {self._spec.name!r}: its {side} is NaN or infinite on training samples; "
                "check the inputs and the weights of the network"
            )

    def moments(self, *, absorbs_mean: bool) -> Moments:
        """What was taken in."""
        if self._source.count == 0:
            return white(self._spec, self._layer, absorbs_mean=absorbs_mean)
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


def white(spec: LayerSpec, layer: nn.Module, *, absorbs_mean: bool) -> Moments:
    """Moments as of white noise, from a layer's weights alone: for one that no sample reaches (an idle expert)."""
    kernel = layers.by_group(layers.kernel_of(layer).to(torch.float64).flatten(1), spec.groups)
    inner, need = spec.in_channels // spec.groups, needs(spec)
    eye = torch.eye(inner, dtype=kernel.dtype, device=kernel.device).expand(spec.groups, -1, -1)

    def shaped(grouped: Tensor) -> Tensor:
        return grouped if spec.groups > 1 else grouped[0]

    return Moments(
        output_mean=shaped(kernel.new_zeros(kernel.shape[:2])),
        output_covariance=shaped(kernel @ kernel.mT) if need.output else None,
        input_mean=shaped(eye.new_zeros(spec.groups, inner)),
        input_covariance=shaped(eye) if need.input else None,
        input_lags=shaped(eye.new_zeros(spec.groups, spec.kernel[0] - 1, inner, inner)) if need.lags else None,
        output_count=0,
        input_count=0,
        absorbs_mean=absorbs_mean,
    )


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
