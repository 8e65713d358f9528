"""Layers with data, and their moments taken by hand: what the tests of formats start from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diminuendo.engine.formats import Moments
from diminuendo.engine.plan import LayerSpec


@dataclass(frozen=True)
class Case:
    spec: LayerSpec
    layer: nn.Linear | nn.Conv2d
    inputs: Tensor
    moments: Moments

    @property
    def weight(self) -> Tensor:
        return self.layer.weight.detach()

    @property
    def bias(self) -> Tensor | None:
        return None if self.layer.bias is None else self.layer.bias.detach()

    def outputs(self) -> Tensor:
        """(P, O): the layer's outputs, bias included, a row for each position."""
        return rows(self.layer(self.inputs).detach())


def rows(tensor: Tensor) -> Tensor:
    """Channels last, a row for each position."""
    return tensor.movedim(1, -1).flatten(0, -2)


def covariance(data: Tensor) -> Tensor:
    centred = data - data.mean(dim=0)
    return centred.T @ centred / len(data)


def moments_of(layer: nn.Linear | nn.Conv2d, inputs: Tensor, *, absorbs_mean: bool) -> Moments:
    outputs = rows(layer(inputs).detach())
    if layer.bias is not None:
        outputs = outputs - layer.bias.detach()
    sources = rows(inputs)
    return Moments(
        output_mean=outputs.mean(dim=0),
        output_covariance=covariance(outputs),
        input_mean=sources.mean(dim=0),
        input_covariance=covariance(sources),
        output_count=len(outputs),
        input_count=len(sources),
        absorbs_mean=absorbs_mean,
    )


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
    """A float64 convolution on 40 correlated 8x8 images whose mean is far from zero."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Conv2d(
        in_channels,
        out_channels,
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        bias=bias,
        dtype=torch.float64,
    )
    for parameter in layer.parameters():
        nn.init.normal_(parameter, generator=generator)
    mix = torch.randn(in_channels, in_channels, generator=generator, dtype=torch.float64)
    images = torch.randn(40, in_channels, 8, 8, generator=generator, dtype=torch.float64) + 1.0
    inputs = torch.einsum("ij,njhw->nihw", mix, images)
    height, width = layer(inputs).shape[2:]
    spec = LayerSpec(
        name="conv",
        kind="conv2d",
        out_channels=out_channels,
        in_channels=in_channels,
        kernel=(layer.kernel_size[0], layer.kernel_size[1]),
        bias=bias,
        positions=height * width,
        input_positions=64,
    )
    return Case(spec, layer, inputs, moments_of(layer, inputs, absorbs_mean=absorbs_mean))


def linear(out_features: int, in_features: int, *, bias: bool = True, absorbs_mean: bool = True) -> Case:
    """A float64 linear layer on 500 correlated vectors whose mean is far from zero."""
    generator = torch.Generator().manual_seed(1)
    layer = nn.Linear(in_features, out_features, bias=bias, dtype=torch.float64)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, generator=generator)
    mix = torch.randn(in_features, in_features, generator=generator, dtype=torch.float64)
    inputs = (torch.randn(500, in_features, generator=generator, dtype=torch.float64) + 1.0) @ mix.T
    spec = LayerSpec("linear", "linear", out_features, in_features, (1, 1), bias, 1, 1)
    return Case(spec, layer, inputs, moments_of(layer, inputs, absorbs_mean=absorbs_mean))
