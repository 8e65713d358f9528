"""A convolution's kernel in coordinates in which squares are variance on the data, for formats fitted by iteration.

Legend: O outputs, I inputs, K kernel elements; o and j directions of output and input that are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diminuendo.engine.formats.ladder import NEGLIGIBLE_ENERGY
from diminuendo.engine.formats.projection import pad
from diminuendo.engine.formats.rank_one import Sum
from diminuendo.engine.formats.sides import Sides

_LARGE_WORK = 1e8
_TAIL = 1e-3
"""Of larger kernels than that, directions that carry this share together are left out: that halves the fit's time."""

_RIDGE = 1e-3
"""Variance of the kernel's positions at least, as a share of the largest."""

_GAIN_LIMIT = 1e4
"""Measured over modelled variance of an output direction at most, and at least its inverse."""


@dataclass(frozen=True, slots=True)
class Metric:
    """The kernel in coordinates in which squares are variance on the data.

    Attributes:
        tensor: (o, K, j) with the directions of output and input that carry more than rounding.
        outputs: (O, o) what one unit of each output direction is.
        positions: (K, K) the same of the kernel.
        inputs: (I, j) the same of the input.
        variance: Of the whole kernel.
        dropped: Of the directions left out.
    """

    tensor: Tensor
    outputs: Tensor
    positions: Tensor
    inputs: Tensor
    variance: float
    dropped: float

    @classmethod
    def of(cls, sides: Sides, *, most: int) -> Metric:
        """Inputs by the roots of their variances, positions by the root of their correlation, outputs by their gain.

        Covariance of channels times correlation of positions says less than was measured where both hang together.
        What was measured of each output direction is known: its row is scaled by the fourth root of measured over
        modelled variance, half way between the two on a log scale.

        Args:
            sides: A convolution without groups.
            most: Components of the largest sum that will be fitted.
        """
        outputs, inputs = sides.outputs, sides.inputs
        stacked = inputs.left.reshape(len(sides.kernel), sides.spec.kernel_size, -1)  # (O, K, R)
        root, inverse = position_roots(autocorrelation(sides), sides.spec.kernel)
        tensor = torch.einsum("or,okj,kn->rnj", outputs.left, stacked, root) * inputs.spectrum.sqrt()
        modelled = tensor.square().sum(dim=(1, 2))
        ratio = torch.where(modelled > 0, outputs.spectrum / modelled, torch.ones_like(modelled))
        gain = ratio.clamp(1 / _GAIN_LIMIT, _GAIN_LIMIT).pow(0.25)
        tensor = tensor * gain[:, None, None]
        squares = tensor.square()
        large = tensor.numel() * most > _LARGE_WORK
        tail = _TAIL if large else 0.1 * NEGLIGIBLE_ENERGY
        rows, columns = _kept(squares.sum(dim=(1, 2)), tail), _kept(squares.sum(dim=(0, 1)), tail)
        kept = tensor[rows][:, :, columns]
        variance = float(squares.sum())
        return cls(
            tensor=kept,
            outputs=(outputs.left / gain)[:, rows],
            positions=inverse,
            inputs=(inputs.right / inputs.spectrum.sqrt().clamp_min(torch.finfo(torch.float64).tiny)[:, None])[
                columns
            ].T,
            variance=variance,
            dropped=max(0.0, variance - float(kept.square().sum())),
        )

    def undone(self, parts: Sum) -> Sum:
        """A sum of components in the kernel's own coordinates: (O, r), (K, r), (I, r)."""
        output, kernel, inner = parts
        return self.outputs @ output, self.positions @ kernel, self.inputs @ inner


def _kept(energy: Tensor, tail: float) -> Tensor:
    """Indices of the directions that carry all but this share."""
    order = energy.argsort(descending=True, stable=True)
    rest = energy.sum() - energy[order].cumsum(dim=0) + energy[order]
    chosen: Tensor = order[rest > tail * energy.sum()].sort().values
    return chosen


def autocorrelation(sides: Sides) -> Tensor:
    """(k_1,) correlation of the input with itself 0, 1, ... steps further, of all channels together."""
    moments = sides.moments
    found = sides.kernel.new_zeros(sides.spec.kernel[0])
    found[0] = 1.0
    if moments.input_covariance is None or moments.input_lags is None:
        return found
    shift = 0.0 if moments.absorbs_mean else float(moments.input_mean.square().sum())
    own = float(moments.input_covariance.diagonal().sum()) + shift
    if own > 0:
        lags = moments.input_lags.diagonal(dim1=1, dim2=2).sum(dim=1)
        found[1 : len(lags) + 1] = (lags.to(found) + shift) / own
    return found


def position_moment(correlation: Tensor, kernel: Sequence[int]) -> Tensor:
    """(K, K) correlation of a window's positions: along every axis as it was measured along the first."""
    moment = correlation.new_ones(1, 1)
    for size in kernel:
        along = pad(correlation[:size], (max(size, len(correlation)),))
        steps = torch.arange(size, device=correlation.device)
        moment = torch.kron(moment, along[(steps[:, None] - steps).abs()])
    return moment


def position_roots(correlation: Tensor, kernel: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(K, K) S with ``S S^T`` the moment of the positions, and the inverse of ``S^T``, float64."""
    values, vectors = torch.linalg.eigh(position_moment(correlation.to(torch.float64), kernel))
    spread = values.clamp_min(_RIDGE * float(values.max())).sqrt()
    return vectors * spread, vectors / spread
