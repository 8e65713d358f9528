"""The `cp` format: a convolution as three, its kernel a sum of rank-one tensors (Lebedev 2015, Phan 2020).

``1 x 1, I -> r``, then ``k x k`` on each of the r channels by itself with the original's stride, padding and dilation,
then ``1 x 1, r -> O`` with the bias.

The sums are fitted in the metric of the data: the error of a kernel counts by what it makes of inputs whose covariance
is that of the channels times that of the kernel's positions. Sums of different ranks are not nested, so a few are
fitted and kept; at ranks between, the next smaller one has components besides that do nothing yet.

Factors (legend: O outputs, I inputs, K kernel elements, R = min(I, O K) directions of the input, s ranks fitted):
    ``output@s`` (O, s), ``kernel@s`` (s, k_1, ..., k_d), ``input@s`` (s, I), for a layer with a bias ``bias@s`` (O,);
    ``dense`` (O, I, k_1, ..., k_d), from which the form at the highest rank is read off; ``spectrum`` (the highest
    rank,), what is gained at each rank, nothing where none was fitted; and what a tuned form is cut by:
    ``directions`` (R, I), ``direction_spectrum`` (R,), ``correlation`` (k_1,), for a layer with a bias ``bias`` (O,)
    and ``direction_mean`` (R,).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from diminuendo.engine.formats import rank_one
from diminuendo.engine.formats.base import Cut, Factors, Format
from diminuendo.engine.formats.ladder import NEGLIGIBLE_ENERGY
from diminuendo.engine.formats.metric import Metric, autocorrelation, position_roots
from diminuendo.engine.formats.projection import leading_eigenvectors, on_data, pad
from diminuendo.engine.formats.sides import Sides
from diminuendo.engine.formats.stage import Stage
from diminuendo.engine.plan import LayerSpec

SETS = 8
"""Ranks fitted at most, besides rank 1."""

_STEP = 2**0.75
"""Between one rank fitted and the next."""

_MOST_WORK = 6e8
"""Elements of the kernel times components at most: larger fits take seconds, one by one."""

_CUTOFF = 1e-10
"""Directions below this share of the largest variance are rounding."""


class Cp(Format):
    """Two pointwise convolutions with a depthwise one between."""

    name: ClassVar[str] = "cp"

    def supports(self, spec: LayerSpec) -> bool:
        """Ungrouped convolutions with more than one kernel element."""
        return spec.groups == 1 and spec.kernel_size > 1

    def max_ranks(self, spec: LayerSpec) -> tuple[int, ...]:
        """``min(O K, I K)``: a component for each element of the kernel of each channel of the smaller side."""
        return (min(spec.out_channels, spec.in_channels) * spec.kernel_size,)

    def stages(self, spec: LayerSpec, ranks: Sequence[int]) -> tuple[Stage, ...]:
        """Narrow, the kernel of each channel, widen."""
        (rank,) = ranks
        axes = tuple(range(len(spec.kernel)))
        return (
            Stage(spec.in_channels, rank),
            Stage(rank, rank, axes, depthwise=True),
            Stage(rank, spec.out_channels),
        )

    def decompose(self, sides: Sides) -> dict[str, Tensor]:
        """Sums of components at a few ranks, each fitted from the largest components of the kernel's slices."""
        metric = Metric.of(sides, most=fitted_ranks(sides.spec)[-1])
        factors = {
            "dense": sides.kernel,
            "directions": sides.inputs.right,
            "direction_spectrum": sides.inputs.spectrum,
            "correlation": autocorrelation(sides),
        }
        if sides.bias is not None:
            factors |= {"bias": sides.bias, "direction_mean": sides.inputs.right @ sides.input_mean}
        spectrum = sides.kernel.new_zeros(self.max_ranks(sides.spec))
        left = metric.variance
        start = rank_one.sliced(metric.tensor)
        for rank in fitted_ranks(sides.spec):
            parts = rank_one.fit(metric.tensor, rank, start)
            lost = metric.dropped + float((metric.tensor - rank_one.total(parts)).square().sum())
            if rank > 1 and lost >= left:
                continue  # no better than a smaller sum
            factors |= _named(sides, rank_one.normal(metric.undone(parts)), rank)
            spectrum[rank - 1] = max(0.0, left - lost)
            left = min(left, lost)
            if left <= NEGLIGIBLE_ENERGY * metric.variance:
                break
        spectrum[-1] += left
        return factors | {"spectrum": spectrum}

    def spectra(self, factors: Factors) -> tuple[Tensor, ...]:
        """What each rank gains over the next lower one: nothing but at the ranks that were fitted and the highest."""
        return (factors["spectrum"],)

    def ladder(self, spec: LayerSpec, factors: Factors) -> list[tuple[int, ...]]:
        """The ranks that were fitted and are cheaper than dense."""
        return [(rank,) for rank in _ranks(factors) if self.cost(spec, (rank,)).params < spec.params]

    def snapped(self, spec: LayerSpec, ladder: Sequence[tuple[int, ...]], multiple: int) -> list[tuple[int, ...]]:
        """Of the ranks that were fitted the multiples, and both ends: between two fits there is nothing to gain."""
        ends = (0, len(ladder) - 1)
        return [ranks for i, ranks in enumerate(ladder) if i in ends or ranks[0] % multiple == 0]

    def cut(self, factors: Factors, ranks: Sequence[int]) -> Cut:
        """The largest sum fitted at or below the rank, and as many more components that do nothing yet."""
        (rank,) = ranks
        if rank == len(factors["spectrum"]):
            return _exact(factors["dense"], factors.get("bias"))
        count = max(own for own in _ranks(factors) if own <= rank)
        cut = _set(factors, count)
        if count == rank:
            return cut
        return _grown(cut, _fillers(factors, rank), rank)

    def resized(self, old: Cut, new_ranks: Sequence[int], factors: Factors) -> Cut:
        """Fit fewer components to the tuned ones, from those that give most, or add stored ones that do nothing yet.

        See `projection.on_data` for how the data are known; a bias takes up what the fit does to the mean.
        """
        (rank,) = new_ranks
        if rank < len(old.weights[0]):
            return _shrunk(old, rank, factors)
        if rank > len(old.weights[0]):
            return _grown(old, _fillers(factors, rank), rank)
        return old


def fitted_ranks(spec: LayerSpec) -> list[int]:
    """Ascending: 1, and a geometric series up to as many components as channels, all cheaper than dense.

    More components than channels bring little for their params, and of the largest kernels the fit of as many takes
    too long.
    """
    outputs, inputs, size = spec.out_channels, spec.in_channels, spec.kernel_size
    cheaper = (outputs * inputs * size - 1) // (outputs + inputs + size)
    top = max(1, min(outputs, inputs) * size - 1)
    affordable = int(_MOST_WORK / (outputs * inputs * size))
    most = max(1, min(max(outputs, inputs), cheaper, top, affordable))
    return sorted({1, *(max(1, round(most / _STEP**i)) for i in range(SETS))})


# --- factors by name ---------------------------------------------------------------------------------------


def _named(sides: Sides, parts: rank_one.Sum, rank: int) -> dict[str, Tensor]:
    """One set of components as factors, those that it lacks to its rank being zeros."""
    output, kernel, inner = (pad(part, (len(part), rank)) for part in parts)
    found = {
        f"output@{rank}": output,
        f"kernel@{rank}": kernel.T.reshape(rank, *sides.spec.kernel),
        f"input@{rank}": inner.T,
    }
    if sides.bias is not None:
        mean = output @ (kernel.sum(dim=0) * (inner.T @ sides.input_mean))
        borders = sides.output_mean - sides.inside_mean
        left, values, _ = torch.linalg.svd(output, full_matrices=False)
        reached = left[:, values > 1e-9 * float(values.max())]
        found[f"bias@{rank}"] = sides.bias + sides.output_mean - mean - reached @ (reached.T @ borders)
    return found


def _ranks(factors: Factors) -> list[int]:
    """Of the stored sets, ascending."""
    return sorted(int(name.split("@")[1]) for name in factors if name.startswith("output@"))


def _set(factors: Mapping[str, Tensor], rank: int) -> Cut:
    return _cut(
        factors[f"output@{rank}"], factors[f"kernel@{rank}"], factors[f"input@{rank}"], factors.get(f"bias@{rank}")
    )


def _cut(output: Tensor, kernel: Tensor, inner: Tensor, bias: Tensor | None) -> Cut:
    """(O, r), (r, k_1, ..., k_d), (r, I) as weights of the stages."""
    ones = [1] * (kernel.dim() - 1)
    return Cut((inner.reshape(*inner.shape, *ones), kernel.unsqueeze(1), output.reshape(*output.shape, *ones)), bias)


def _exact(dense: Tensor, bias: Tensor | None) -> Cut:
    """A component for each element of the kernel of each channel of the smaller side."""
    outputs, inputs = dense.shape[:2]
    size = math.prod(dense.shape[2:])
    elements = torch.eye(size, dtype=dense.dtype, device=dense.device)
    channels = torch.eye(min(outputs, inputs), dtype=dense.dtype, device=dense.device).repeat_interleave(size, dim=0)
    kernel = elements.repeat(min(outputs, inputs), 1).reshape(-1, *dense.shape[2:])
    if inputs <= outputs:
        return _cut(dense.flatten(1), kernel, channels, bias)
    return _cut(channels.T, kernel, dense.flatten(2).movedim(2, 1).flatten(0, 1), bias)


def _fillers(factors: Factors, rank: int) -> Cut:
    """Components that a sum of that rank may have: of the smallest set that has as many, or else the exact ones."""
    larger = [own for own in _ranks(factors) if own >= rank]
    return _set(factors, larger[0]) if larger else _exact(factors["dense"], None)


# --- tuned weights at other ranks --------------------------------------------------------------------------


def _grown(old: Cut, source: Cut, rank: int) -> Cut:
    """Add those components of the source that the old ones resemble least, which the output does not use yet."""
    inner, kernel, output = old.weights
    count = rank - len(inner)
    alike = _cosines(source.weights[0], inner) * _cosines(source.weights[1], kernel)
    fresh = alike.amax(dim=1).argsort(stable=True)[:count].sort().values
    return Cut(
        (
            torch.cat([inner, source.weights[0][fresh].to(inner)]),
            torch.cat([kernel, source.weights[1][fresh].to(kernel)]),
            pad(output, (len(output), rank, *output.shape[2:])),
        ),
        old.bias,
    )


def _cosines(rows: Tensor, others: Tensor) -> Tensor:
    """(m, n) magnitudes of the cosines between rows."""
    first, second = (torch.nn.functional.normalize(part.flatten(1).to(torch.float64)) for part in (rows, others))
    return (first @ second.T).abs()


def _shrunk(old: Cut, rank: int, factors: Factors) -> Cut:
    """Fewer components, fitted to what all of them give on the data, from those that give most.

    Taken are combinations of the old components' inputs: with Z such that ``Z Z^T`` is the second moment of the
    pointwise stage's outputs, one is ``c @ inner`` and fitted as ``c @ Z``.
    """
    inner, kernel, output = old.weights
    data = on_data(
        inner.flatten(1), factors["directions"], factors["direction_spectrum"], factors.get("direction_mean")
    )
    values, vectors = leading_eigenvectors(data.moment)
    seen = values > values[0] * _CUTOFF
    root, inverse = vectors[:, seen] * values[seen].sqrt(), vectors[:, seen] / values[seen].sqrt()  # (r, q)
    spread, back = position_roots(factors["correlation"], kernel.shape[2:])
    flat, columns = kernel.flatten(1).to(torch.float64), output.flatten(1).to(torch.float64)
    parts = columns, spread.T @ flat.T, root.T
    carried = torch.stack([part.square().sum(dim=0) for part in parts]).prod(dim=0)
    kept = carried.argsort(descending=True, stable=True)[:rank].sort().values
    if not float(carried.max()) > 0:  # on the data they give nothing
        return Cut((inner[kept], kernel[kept], output[:, kept]), old.bias)
    fitted = rank_one.refit(rank_one.total(parts), (parts[0][:, kept], parts[1][:, kept], parts[2][:, kept]))
    narrow, mixed = back @ fitted[1], inverse @ fitted[2]  # (K, rank), (r, rank)
    bias = old.bias
    if bias is not None:
        mean = columns @ (flat.sum(dim=1) * data.mean) - fitted[0] @ (narrow.sum(dim=0) * (mixed.T @ data.mean))
        bias = bias + mean.to(bias)
    found = rank_one.normal((fitted[0], narrow, inner.flatten(1).to(mixed).T @ mixed))
    outer, middle, first = (part.to(output).contiguous() for part in found)
    return _cut(outer, middle.T.reshape(rank, *kernel.shape[2:]), first.T, bias)
