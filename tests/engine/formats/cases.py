"""Layers with data, and their moments taken by hand: what the tests of formats start from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from diminuendo.engine.formats import Format, Moments, Sides, layers
from diminuendo.engine.formats.moments import needs
from diminuendo.engine.plan import Call, LayerSpec


@dataclass(frozen=True)
class Case:
    spec: LayerSpec
    layer: nn.Module
    inputs: Tensor
    moments: Moments

    @property
    def weight(self) -> Tensor:
        """In the formats' layout."""
        return layers.kernel_of(self.layer)

    @property
    def bias(self) -> Tensor | None:
        bias = self.layer.bias
        return bias.detach() if isinstance(bias, Tensor) else None

    @cached_property
    def sides(self) -> Sides:
        return Sides.of(self.layer, self.moments, self.spec)

    def outputs(self) -> Tensor:
        """(P, O): the layer's outputs, bias included, a row for each position."""
        return self.rows(self.layer(self.inputs).detach())

    def rows(self, tensor: Tensor) -> Tensor:
        return rows(tensor, linear=self.spec.kind == "linear")

    def error(self, module: nn.Module) -> float:
        """Mean squared error of a row of outputs."""
        return float((self.rows(module(self.inputs).detach()) - self.outputs()).pow(2).sum(dim=1).mean())

    def share(self, module: nn.Module, *, about_mean: bool = True) -> float:
        """Share of the output's second moment, about its mean or about zero, that a module loses."""
        outputs = self.outputs()
        lost = self.rows(module(self.inputs).detach()) - outputs
        if about_mean:
            lost, outputs = lost - lost.mean(dim=0), outputs - outputs.mean(dim=0)
        return float(lost.pow(2).sum() / outputs.pow(2).sum())

    def retaken(self) -> Case:
        """With the moments of the layer as it is now."""
        moments = moments_of(self.layer, self.inputs, self.spec, absorbs_mean=self.moments.absorbs_mean)
        return dataclasses.replace(self, moments=moments)


def rows(tensor: Tensor, *, linear: bool = False) -> Tensor:
    """A row of channels for each position."""
    return (tensor if linear else tensor.movedim(1, -1)).flatten(0, -2)


def moments_of(layer: nn.Module, inputs: Tensor, spec: LayerSpec, *, absorbs_mean: bool) -> Moments:
    """By the definitions in `Moments`, a matrix of all positions at once."""
    linear, groups, needed = spec.kind == "linear", spec.groups, needs(spec)
    outputs = rows(layer(inputs).detach(), linear=linear).double()
    if isinstance(layer.bias, Tensor):
        outputs = outputs - layer.bias.detach()
    sources = rows(inputs, linear=linear).double()
    centred = inputs.double() - sources.mean(dim=0).reshape(-1, *[1] * len(spec.kernel)) if needed.lags else sources
    steps = range(1, spec.kernel[0]) if needed.lags else ()
    lags = [_crossed(centred, step * _dilation(layer), len(sources)) for step in steps]
    return Moments(
        output_mean=_by_group(outputs.mean(dim=0), groups),
        output_covariance=_by_group(covariance(outputs), groups) if needed.output else None,
        input_mean=_by_group(sources.mean(dim=0), groups),
        input_covariance=_by_group(covariance(sources), groups) if needed.input else None,
        input_lags=_by_group(torch.stack(lags), groups) if lags else None,
        output_count=len(outputs),
        input_count=len(sources),
        absorbs_mean=absorbs_mean,
    )


def covariance(data: Tensor) -> Tensor:
    centred = data - data.mean(dim=0)
    return centred.T @ centred / len(data)


def _dilation(layer: nn.Module) -> int:
    assert isinstance(layer, layers.Conv)
    return layer.dilation[0]


def _crossed(images: Tensor, step: int, count: int) -> Tensor:
    """(I, I): products of each position with the one `step` further down, zero beyond the border."""
    here, there = images[:, :, : images.shape[2] - step], images[:, :, step:]
    return rows(here).T @ rows(there) / count


def _by_group(value: Tensor, groups: int) -> Tensor:
    """(C,), (C, C) or (k - 1, C, C) -> the same of each group, which do not mix."""
    if groups == 1:
        return value
    size = value.shape[-1] // groups
    chosen = [slice(g * size, (g + 1) * size) for g in range(groups)]
    return torch.stack([value[own] if value.dim() == 1 else value[..., own, own] for own in chosen])


def of(
    layer: nn.Module, size: Sequence[int] = (8, 8), *, batch: int = 40, absorbs_mean: bool = True, seed: int = 0
) -> Case:
    """A layer with normal weights on correlated data whose mean is far from zero, in the layer's dtype.

    Args:
        layer: Its weights are overwritten.
        size: Of the images; of a linear layer's input the dimensions between batch and features.
        batch: Samples.
        absorbs_mean: As in `Moments`.
        seed: Of weights and data.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    spec = layers.geometry("layer", layer)
    channels = spec.in_channels
    mix = torch.randn(channels, channels, generator=generator, dtype=torch.float64)
    data = torch.randn(batch, *size, channels, generator=generator, dtype=torch.float64) + 1.0
    data = data @ mix.T / math.sqrt(channels)
    inputs = (data if spec.kind == "linear" else data.movedim(-1, 1)).to(next(layer.parameters()).dtype).contiguous()
    outputs = layer(inputs)
    dims = len(spec.kernel)
    call = Call(1, tuple(size), tuple(outputs.shape[2:])) if dims else Call(math.prod(size))
    spec = dataclasses.replace(spec, calls=(call,))
    return Case(spec, layer, inputs, moments_of(layer, inputs, spec, absorbs_mean=absorbs_mean))


def conv(
    out_channels: int,
    in_channels: int,
    kernel: int | tuple[int, int] = 3,
    *,
    bias: bool = True,
    stride: int = 1,
    padding: int = 1,
    dilation: int = 1,
    absorbs_mean: bool = True,
    seed: int = 0,
) -> Case:
    """A float64 convolution on 40 correlated 8x8 images."""
    layer = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, bias=bias, dtype=torch.float64)
    return of(layer, absorbs_mean=absorbs_mean, seed=seed)


def linear(out_features: int, in_features: int, *, bias: bool = True, absorbs_mean: bool = True) -> Case:
    """A float64 linear layer on 500 correlated vectors."""
    layer = nn.Linear(in_features, out_features, bias=bias, dtype=torch.float64)
    return of(layer, (), batch=500, absorbs_mean=absorbs_mean, seed=1)


def white(layer: nn.Module) -> Case:
    """A layer on white noise of variance 1: inputs uncorrelated, moments as they follow from that, no data.

    What a format does with these is what it does without any: its plain algebra.
    """
    spec = layers.geometry("layer", layer)
    matrix = layers.kernel_of(layer).flatten(1).double()
    eye = torch.eye(spec.in_channels, dtype=torch.float64)
    moments = Moments(
        output_mean=torch.zeros(spec.out_channels, dtype=torch.float64),
        output_covariance=matrix @ matrix.T,
        input_mean=torch.zeros(spec.in_channels, dtype=torch.float64),
        input_covariance=eye,
        input_lags=None,
        output_count=1,
        input_count=1,
        absorbs_mean=True,
    )
    return Case(spec, layer, torch.empty(0), moments)


def formed(
    form: Format, case: Case, ranks: Sequence[int], factors: Mapping[str, Tensor] | None = None
) -> nn.Sequential:
    """The form at some ranks, from the case's factors."""
    module = form.build(case.layer, ranks)
    form.load(module, case.spec, form.factor(case.sides) if factors is None else factors, ranks)
    return module


def resized(
    form: Format, case: Case, module: nn.Module, ranks: Sequence[int], factors: Mapping[str, Tensor] | None = None
) -> nn.Sequential:
    """A module at other ranks, warm-started from a tuned one."""
    child = form.build(case.layer, ranks)
    known = form.factor(case.sides) if factors is None else factors
    child.load_state_dict(form.resize(case.layer, module.state_dict(), ranks, known))
    return child


def tuned(module: nn.Sequential, amount: float = 0.5, seed: int = 3) -> nn.Sequential:
    """Change all weights at random by a share of their spread."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            weight.add_(amount * weight.abs().mean() * noise)
    return module
