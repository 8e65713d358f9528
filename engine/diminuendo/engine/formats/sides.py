"""A layer's leading directions at each place where formats cut it, each decomposed once for all formats.

Legend: G groups, O output and I input channels of one group, k_1, k_2, ... kernel, K its elements, R directions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from diminuendo.engine.formats.layers import by_group, geometry, kernel_of
from diminuendo.engine.formats.moments import Moments
from diminuendo.engine.formats.projection import Product, output_directions, product_directions
from diminuendo.engine.plan import LayerSpec

_TENSORS = ("output_mean", "output_covariance", "input_mean", "input_covariance", "input_lags")


class Sides:
    """One layer, what was seen of it on the data, and its directions, computed when first asked for.

    Attributes:
        spec: Geometry.
        kernel: (G O, I, k_1, ..., k_d) or (O, I), float64.
        bias: (G O,) float64, or None.
        moments: Of the layer.
        dtype: Of the layer's weight.
    """

    def __init__(
        self, spec: LayerSpec, kernel: Tensor, bias: Tensor | None, moments: Moments, dtype: torch.dtype
    ) -> None:
        """Of a kernel in the formats' layout."""
        self.spec = spec
        self.kernel = kernel.to(torch.float64)
        self.bias = None if bias is None else bias.detach().to(torch.float64)
        self.moments = moments
        self.dtype = dtype

    @classmethod
    def of(cls, layer: nn.Module, moments: Moments, spec: LayerSpec | None = None) -> Sides:
        """Of a PyTorch layer."""
        kernel, bias = kernel_of(layer), layer.bias
        return cls(
            spec or geometry("", layer), kernel, bias if isinstance(bias, Tensor) else None, moments, kernel.dtype
        )

    def for_each_group(self, function: Callable[[Sides], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What a function finds of each group of channels, put together along a leading dimension G."""
        groups = self.spec.groups
        if groups == 1:
            return function(self)
        found = {name: getattr(self.moments, name) for name in _TENSORS}
        tensors = {name: value for name, value in found.items() if value is not None}
        tensors["kernel"] = by_group(self.kernel, groups)
        if self.bias is not None:
            tensors["bias"] = by_group(self.bias, groups)
        spec = dataclasses.replace(
            self.spec,
            out_channels=self.spec.out_channels // groups,
            in_channels=self.spec.in_channels // groups,
            groups=1,
        )

        def one(own: dict[str, Tensor]) -> dict[str, Tensor]:
            changed: dict[str, Any] = {name: own.get(name) for name in _TENSORS}
            moments = dataclasses.replace(self.moments, **changed)
            return function(Sides(spec, own["kernel"], own.get("bias"), moments, self.dtype))

        return torch.vmap(one)(tensors)

    # --- means ---------------------------------------------------------------------------------------------

    @property
    def output_mean(self) -> Tensor:
        """(O,) mean of the output without bias that the form keeps; zeros where a shift is not corrected."""
        mean = self.moments.output_mean.to(self.kernel)
        return mean if self.moments.absorbs_mean else torch.zeros_like(mean)

    @property
    def input_mean(self) -> Tensor:
        """(I,) mean of the input channels; zeros where a shift is not corrected.

        Scaled by the share of the kernel that an output position sees, see `_share`.
        """
        mean = self.moments.input_mean.to(self.kernel)
        return mean * self._share if self.moments.absorbs_mean else torch.zeros_like(mean)

    @property
    def inside_mean(self) -> Tensor:
        """(O,) mean of the output as the input's mean makes it, were there no borders."""
        return self.kernel.flatten(2).sum(dim=2) @ self.input_mean if self.kernel.dim() > 2 else self.output_mean

    def between_ends(self) -> dict[str, Tensor]:
        """What the bias is made of in forms that narrow both ends; nothing for a layer without.

        ``bias`` (O,) with the output's mean in it, ``shift`` (R,) of the output's directions, what borders do to that
        mean, and ``input_mean`` (R,) of the input's.
        """
        if self.bias is None:
            return {}
        return {
            "bias": self.bias + self.output_mean,
            "shift": self.outputs.left.T @ (self.output_mean - self.inside_mean),
            "input_mean": self.inputs.right @ self.input_mean,
        }

    # --- directions ----------------------------------------------------------------------------------------

    @cached_property
    def outputs(self) -> Product:
        """Of the output: left (O, R), right (R, I K)."""
        matrix = self.kernel.flatten(1)
        if self.moments.output_covariance is not None:
            return output_directions(matrix, self._about_zero(self.moments.output_covariance, self.moments.output_mean))
        return product_directions(matrix, self._eye(matrix.shape[1]), self._input_moment)

    @cached_property
    def inputs(self) -> Product:
        """Of the input: left (O K, R), right (R, I).

        The kernel, stacked, is a map on the input's channels; its directions are those of that map's output when
        every kernel element sees the input's covariance. So a direction counts by what the kernel makes of it, not
        merely by its own variance.
        """
        stacked = self.kernel.movedim(1, -1).flatten(0, -2)  # (O K, I)
        return product_directions(stacked, self._eye(stacked.shape[1]), self._input_moment)

    @cached_property
    def halves(self) -> Product:
        """Between the kernel's first axis and the others: left (O k_2 ..., R), right (R, I k_1).

        The map from windows along the first axis to what each element of the other axes makes of them. Windows have
        the covariance that `Moments.input_lags` tells; without it their positions count as uncorrelated.
        """
        channels, first = self.kernel.shape[1:3]
        matrix = self.kernel.flatten(3).movedim(3, 1).flatten(0, 1).flatten(1)  # (O k_2 ..., I k_1)
        moment = self._window_moment(first).reshape(channels * first, channels * first)
        if matrix.shape[0] <= matrix.shape[1]:
            return output_directions(matrix, matrix @ moment @ matrix.T)
        return product_directions(matrix, self._eye(matrix.shape[1]), moment)

    @property
    def _share(self) -> float:
        """Share of the kernel that an output position sees.

        1 but for transposed convolutions that give more positions than they take: with stride s along an axis, one in
        s elements falls on each output.
        """
        if self.spec.kind != "conv_transpose" or not self.moments.output_count:
            return 1.0
        return min(1.0, self.moments.input_count / self.moments.output_count)

    @property
    def _input_moment(self) -> Tensor:
        """(I, I) about the mean, or about zero where outputs see different shares of the kernel.

        Then the input's mean gives each of them another mean, and no bias takes up an error in that.
        """
        covariance, mean = self.moments.input_covariance, self.moments.input_mean
        if covariance is None:
            raise ValueError(f"layer {self.spec.name!r}: the covariance of its input was not taken")
        if self._share < 1.0:
            return covariance.to(self.kernel) + torch.outer(mean, mean).to(self.kernel)
        return self._about_zero(covariance, mean)

    def _window_moment(self, length: int) -> Tensor:
        """(I, length, I, length) second moment of windows of the input along the kernel's first axis."""
        lags = [self._input_moment]
        if self.moments.input_lags is not None:
            lags += [self._about_zero(lag, self.moments.input_mean) for lag in self.moments.input_lags.unbind(0)]
        lags += [torch.zeros_like(lags[0])] * (length - len(lags))
        rows = [[lags[b - a] if b >= a else lags[a - b].T for b in range(length)] for a in range(length)]
        return torch.stack([torch.stack(row, dim=2) for row in rows], dim=1)

    def _about_zero(self, covariance: Tensor, mean: Tensor) -> Tensor:
        """The second moment about the mean, or about zero where a shift would stay."""
        moment, mean = covariance.to(self.kernel), mean.to(self.kernel)
        return moment if self.moments.absorbs_mean else moment + torch.outer(mean, mean)

    def _eye(self, size: int) -> Tensor:
        return torch.eye(size, dtype=self.kernel.dtype, device=self.kernel.device)
