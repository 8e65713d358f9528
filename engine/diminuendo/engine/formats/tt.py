"""The `tt` format: a convolution as four, a tensor train over inputs, both kernel axes and outputs (Oseledets 2011).

``1 x 1, I -> r_1``, ``k_1 x 1, r_1 -> r_2``, ``1 x k_2, r_2 -> r_3``, ``1 x 1, r_3 -> O`` with the bias. Ranks are
``(r_1, r_2, r_3)``.

Each bond of the train is a place where the layer can be cut in two, and `Sides` has the leading directions at each:
``U_1`` of the input (O k_1 k_2, R_1), ``U_2`` between the axes (O k_2, R_2), ``U_3`` of the output (O, R_3). The cores
are ``U_3``, ``U_3^T U_2``, ``U_2^T U_1`` and ``U_1^T W``, so that any leading block of them is the train at lower
ranks: the projections of each bond, one after the other.

Factors:
    ``output`` (O, R_3), ``second`` (R_3, R_2, 1, k_2), ``first`` (R_2, R_1, k_1, 1), ``input`` (R_1, I), their spectra
    ``spectrum_1``, ``spectrum_2``, ``spectrum_3``, and for a layer with a bias ``bias`` (O,), ``shift`` (R_3,) and
    ``input_mean`` (R_1,).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from diminuendo.engine.formats.base import Cut, Factors, Format
from diminuendo.engine.formats.projection import OnData, leading_eigenvectors, on_data, pad
from diminuendo.engine.formats.sides import Sides
from diminuendo.engine.formats.stage import Stage
from diminuendo.engine.plan import LayerSpec

_CUTOFF = 1e-10
"""Directions below this share of the largest are rounding."""


class TensorTrain(Format):
    """Four convolutions, each along at most one axis."""

    name: ClassVar[str] = "tt"

    def supports(self, spec: LayerSpec) -> bool:
        """Ungrouped convolutions with two kernel axes of more than one element."""
        return spec.groups == 1 and len(spec.kernel) == 2 and min(spec.kernel) > 1

    def max_ranks(self, spec: LayerSpec) -> tuple[int, ...]:
        """``min(I, O k_1 k_2)``, ``min(I k_1, O k_2)``, ``min(I k_1 k_2, O)``."""
        first, second = spec.kernel
        outputs, inputs = spec.out_channels, spec.in_channels
        return (
            min(inputs, outputs * first * second),
            min(inputs * first, outputs * second),
            min(inputs * first * second, outputs),
        )

    def stages(self, spec: LayerSpec, ranks: Sequence[int]) -> tuple[Stage, ...]:
        """Narrow, along the first axis, along the second, widen."""
        r_1, r_2, r_3 = ranks
        return (
            Stage(spec.in_channels, r_1),
            Stage(r_1, r_2, (0,)),
            Stage(r_2, r_3, (1,)),
            Stage(r_3, spec.out_channels),
        )

    def decompose(self, sides: Sides) -> dict[str, Tensor]:
        """Cores from the directions of the three bonds."""
        outputs, middle, inputs = sides.outputs, sides.halves, sides.inputs
        channels = sides.kernel.shape[0]
        first, second = sides.spec.kernel
        between = middle.left.reshape(channels, second, -1)  # (O, k_2, R_2)
        narrow = inputs.left.reshape(channels, first, second, -1)  # (O, k_1, k_2, R_1)
        factors = {
            "output": outputs.left,
            "second": torch.einsum("or,ojs->rsj", outputs.left, between).unsqueeze(2),
            "first": torch.einsum("ojs,oijr->sri", between, narrow).unsqueeze(3),
            "input": inputs.right,
            "spectrum_1": inputs.spectrum,
            "spectrum_2": middle.spectrum,
            "spectrum_3": outputs.spectrum,
        }
        return factors | sides.between_ends()

    def spectra(self, factors: Factors) -> tuple[Tensor, ...]:
        """Of the three bonds, from the input's to the output's."""
        return factors["spectrum_1"], factors["spectrum_2"], factors["spectrum_3"]

    def cut(self, factors: Factors, ranks: Sequence[int]) -> Cut:
        """The leading block."""
        r_1, r_2, r_3 = ranks
        first, second = factors["first"][:r_2, :r_1], factors["second"][:r_3, :r_2]
        output, narrow = factors["output"][:, :r_3], factors["input"][:r_1]
        weights = (narrow[:, :, None, None], first, second, output[:, :, None, None])
        bias = None
        if "bias" in factors:
            passed = second.sum(dim=(2, 3)) @ (first.sum(dim=(2, 3)) @ factors["input_mean"][:r_1])
            bias = factors["bias"] - output @ (factors["shift"][:r_3] + passed)
        return Cut(weights, bias)

    def resized(self, old: Cut, new_ranks: Sequence[int], factors: Factors) -> Cut:
        """Bond after bond: truncated by its directions on the data, or grown by such as do nothing yet.

        See `projection.on_data` for how the data are known; a bias takes up what the truncation does to the mean.
        """
        cut = old
        for bond, rank in enumerate(new_ranks):
            if rank < len(cut.weights[bond]):
                cut = _narrowed(cut, bond, rank, self._known(factors, bond, cut))
        weights = list(cut.weights)
        full = self.cut(factors, [len(factors["input"]), *factors["second"].shape[1::-1]])
        for bond, rank in enumerate(new_ranks):
            before, after = weights[bond], weights[bond + 1]
            if rank > len(before):
                fresh = full.weights[bond][len(before) : rank, : before.shape[1]].to(before)
                weights[bond] = torch.cat([before, fresh])
                weights[bond + 1] = pad(after, (after.shape[0], rank, *after.shape[2:]))
        return Cut(tuple(weights), cut.bias)

    def _known(self, factors: Factors, bond: int, cut: Cut) -> OnData:
        """What the tuned stages before a bond give on the data."""
        stored = [factors["input"][:, :, None, None], factors["first"], factors["second"]]
        mean = None
        if "bias" in factors:
            mean = factors["input_mean"].to(torch.float64)
            for stage in stored[1 : bond + 1]:
                mean = stage.to(mean).sum(dim=(2, 3)) @ mean
            mean = mean + factors["shift"].to(mean) if bond == len(stored) - 1 else mean
        tuned, whole = _chained(cut.weights[: bond + 1]), _chained(stored[: bond + 1])
        return on_data(tuned.flatten(1), whole.flatten(1), self.spectra(factors)[bond], mean)


def _chained(stages: Sequence[Tensor]) -> Tensor:
    """One kernel (out, in, k_1, k_2), float64, of stages of which none works along an axis of another."""
    whole = stages[0].to(torch.float64)
    for stage in stages[1:]:
        joined = torch.einsum("orab,ricd->oiacbd", stage.to(torch.float64), whole)
        whole = joined.flatten(2, 3).flatten(3, 4)
    return whole


def _narrowed(cut: Cut, bond: int, rank: int, data: OnData) -> Cut:
    """Fewer channels at a bond: those combinations of them that the stages after it make most of."""
    after = _chained(cut.weights[bond + 1 :])  # (O, r, k ...)
    _, square = torch.linalg.qr(after.movedim(1, -1).flatten(0, -2))  # (q, r)
    _, vectors = leading_eigenvectors(square @ data.moment @ square.T)
    narrow = vectors[:, :rank].T @ square  # (rank, r)
    widen = torch.linalg.pinv(square, rtol=_CUTOFF) @ vectors[:, :rank]  # (r, rank)
    weights = list(cut.weights)
    weights[bond] = torch.einsum("nr,r...->n...", narrow, cut.weights[bond].to(narrow)).to(cut.weights[bond])
    last = cut.weights[bond + 1]
    weights[bond + 1] = torch.einsum("or...,rn->on...", last.to(widen), widen).to(last)
    bias = cut.bias
    if bias is not None:
        bias = bias + (after.sum(dim=(2, 3)) @ (data.mean - widen @ (narrow @ data.mean))).to(bias)
    return Cut(tuple(weights), bias)
