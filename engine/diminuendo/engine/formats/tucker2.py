"""The `tucker2` format: a convolution as three, narrow at both ends of the kernel (Kim et al. 2016).

``1 x 1, I -> r_in``, then ``k x k, r_in -> r_out`` with the original's stride, padding and dilation, then
``1 x 1, r_out -> O`` with the bias. Ranks are ``(r_in, r_out)``.

Factors (legend: O outputs, I inputs, K kernel elements, R_in = min(I, O K), R_out = min(O, I K)):
    ``output`` (O, R_out), ``core`` (R_out, R_in, k_1, ..., k_d), ``input`` (R_in, I), ``output_spectrum`` (R_out,) and
    ``input_spectrum`` (R_in,) float64, and for a layer with a bias ``bias`` (O,), ``shift`` (R_out,) and
    ``input_mean`` (R_in,). Any leading block of them is the form at lower ranks.

The output side is `svd`'s, the input side is `svd_input`'s: see `Sides`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from diminuendo.engine.formats.base import Cut, Factors, Format
from diminuendo.engine.formats.projection import on_data, pad, product_directions
from diminuendo.engine.formats.sides import Sides
from diminuendo.engine.formats.stage import Stage
from diminuendo.engine.plan import LayerSpec


class Tucker2(Format):
    """Three convolutions instead of one, by projections of output and input channels."""

    name: ClassVar[str] = "tucker2"

    def supports(self, spec: LayerSpec) -> bool:
        """Ungrouped convolutions with more than one kernel element."""
        return spec.groups == 1 and spec.kernel_size > 1

    def max_ranks(self, spec: LayerSpec) -> tuple[int, ...]:
        """``(min(I, O K), min(O, I K))``."""
        size = spec.kernel_size
        return (
            min(spec.in_channels, spec.out_channels * size),
            min(spec.out_channels, spec.in_channels * size),
        )

    def stages(self, spec: LayerSpec, ranks: Sequence[int]) -> tuple[Stage, ...]:
        """Narrow, the kernel, widen."""
        r_in, r_out = ranks
        return (
            Stage(spec.in_channels, r_in),
            Stage(r_in, r_out, tuple(range(len(spec.kernel)))),
            Stage(r_out, spec.out_channels),
        )

    def decompose(self, sides: Sides) -> dict[str, Tensor]:
        """Project outputs and inputs; where a constant shift is corrected afterwards, about their means.

        The bias correction is exact where the kernel lies inside the image; at zero-padded borders it is off by
        what the padding takes away from the input's mean.
        """
        kernel, outputs, inputs = sides.kernel, sides.outputs, sides.inputs
        stacked = inputs.left.reshape(kernel.shape[0], *kernel.shape[2:], -1)  # (O, k ..., R_in)
        factors = {
            "output": outputs.left,
            "core": torch.einsum("or,o...j->rj...", outputs.left, stacked),
            "input": inputs.right,
            "output_spectrum": outputs.spectrum,
            "input_spectrum": inputs.spectrum,
        }
        return factors | sides.between_ends()

    def spectra(self, factors: Factors) -> tuple[Tensor, ...]:
        """Of the input's directions, and of the output's."""
        return factors["input_spectrum"], factors["output_spectrum"]

    def cut(self, factors: Factors, ranks: Sequence[int]) -> Cut:
        """The leading block."""
        r_in, r_out = ranks
        output, core = factors["output"][:, :r_out], factors["core"][:r_out, :r_in]
        bias = None
        if "bias" in factors:
            mean = factors["shift"][:r_out] + core.flatten(2).sum(dim=2) @ factors["input_mean"][:r_in]
            bias = factors["bias"] - output @ mean
        return Cut((_pointwise(factors["input"][:r_in], core), core, _pointwise(output, core)), bias)

    def resized(self, old: Cut, new_ranks: Sequence[int], factors: Factors) -> Cut:
        """Each side on its own: truncated by its directions on the data, or grown by such as do nothing yet.

        See `projection.on_data` for how the data are known; a bias takes up what the truncation does to the mean.
        """
        r_in, r_out = new_ranks
        first, core, _ = old.weights
        cut = old
        if r_out < len(core):
            cut = _narrow_output(cut, r_out, factors)
        if r_in < len(first):
            cut = _narrow_input(cut, r_in, factors)
        if r_in > len(cut.weights[0]):  # or the narrowed core sees fewer directions than that
            cut = _widen_input(cut, r_in, factors)
        if r_out > len(core):
            cut = _widen_output(cut, r_out, factors)
        return cut


def _pointwise(matrix: Tensor, like: Tensor) -> Tensor:
    """(M, N) -> (M, N, 1, ...): with a kernel of 1 in as many dimensions as another weight has."""
    return matrix.reshape(*matrix.shape, *[1] * (like.dim() - 2))


def _narrow_input(cut: Cut, rank: int, factors: Factors) -> Cut:
    """Truncate the input side: the map that core and output are on the input's directions."""
    first, core, last = cut.weights
    right = first.flatten(1).to(torch.float64)  # (r_in, I)
    basis, square = torch.linalg.qr(last.flatten(1).to(torch.float64))  # (O, q), (q, r_out)
    moved = torch.einsum("qr,rj...->q...j", square, core.to(torch.float64))  # (q, k ..., r_in)
    data = on_data(right, factors["input"], factors["input_spectrum"], factors.get("input_mean"))
    left = moved.flatten(0, -2)
    product = product_directions(left, right, data.moment)
    kept = min(rank, product.left.shape[1])
    columns = product.left[:, :kept]
    weights = (
        _pointwise(product.right[:kept], first).to(first).contiguous(),
        columns.reshape(*moved.shape[:-1], kept).movedim(-1, 1).to(core).contiguous(),
        _pointwise(basis, last).to(last).contiguous(),
    )
    bias = cut.bias
    if bias is not None:
        mean = left @ data.mean
        lost = (mean - columns @ (columns.T @ mean)).reshape(len(moved), -1).sum(dim=1)
        bias = bias + (basis @ lost).to(bias)
    return Cut(weights, bias)


def _narrow_output(cut: Cut, rank: int, factors: Factors) -> Cut:
    """Truncate the output side: the map that the output is on the core's directions.

    The core is compared with the stored one at the same input directions, which has nearly the same output.
    """
    first, core, last = cut.weights
    r_in = core.shape[1]
    tuned = _compose(core, first.flatten(1))
    stored = _compose(factors["core"][:, :r_in], factors["input"][:r_in])
    data = on_data(tuned, stored, factors["output_spectrum"], _core_mean(factors))
    left = last.flatten(1).to(torch.float64)
    product = product_directions(left, core.flatten(1).to(torch.float64), data.moment)
    columns = product.left[:, :rank]
    weights = (
        first,
        product.right[:rank].reshape(rank, *core.shape[1:]).to(core),
        _pointwise(columns, last).to(last).contiguous(),
    )
    bias = cut.bias
    if bias is not None:
        mean = left @ data.mean
        bias = bias + (mean - columns @ (columns.T @ mean)).to(bias)
    return Cut(weights, bias)


def _compose(core: Tensor, first: Tensor) -> Tensor:
    """Core (r_out, r_in, k ...) on input directions (r_in, I) -> the map (r_out, I K), float64."""
    return torch.einsum("rj...,ji->ri...", core.to(torch.float64), first.to(torch.float64)).flatten(1)


def _core_mean(factors: Factors) -> Tensor | None:
    """(R_out,) mean of the core's output at full rank, for a layer with a bias."""
    if "bias" not in factors:
        return None
    return factors["shift"] + factors["core"].flatten(2).sum(dim=2) @ factors["input_mean"]


def _widen_input(cut: Cut, rank: int, factors: Factors) -> Cut:
    """More input directions from the stored factors, which the core does not read yet."""
    first, core, last = cut.weights
    fresh = _pointwise(factors["input"][len(first) : rank], first).to(first)
    return Cut((torch.cat([first, fresh]), pad(core, (core.shape[0], rank, *core.shape[2:])), last), cut.bias)


def _widen_output(cut: Cut, rank: int, factors: Factors) -> Cut:
    """More output directions from the stored factors, which the output does not use yet."""
    first, core, last = cut.weights
    fresh = factors["core"][len(core) : rank, : core.shape[1]].to(core)
    return Cut((first, torch.cat([core, fresh]), pad(last, (last.shape[0], rank, *last.shape[2:]))), cut.bias)
