"""Forms of two stages, narrow between them: a layer as the product of two maps.

Where the kernel's axes go tells the formats apart: all into the first stage (`svd`), all into the second
(`svd_input`), or the first axis into the first stage and the others into the second (`spatial`).

Factors (legend: O outputs, I inputs, R directions, k the kernel along a stage's axes and 1 along others):
    ``left`` (O, k_1, ..., k_d, R), ``right`` (R, I, k_1, ..., k_d), ``spectrum`` (R,) float64, and for a layer with a
    bias ``bias`` (O,) and ``shift`` (R,): the bias at rank r is ``bias - left[:, ..., :r] @ shift[:r]``, summed over
    the kernel, which keeps the output's mean on the data where it was.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from diminuendo.engine.formats.base import Cut, Factors, Format
from diminuendo.engine.formats.projection import Product, on_data, pad, product_directions
from diminuendo.engine.formats.sides import Sides
from diminuendo.engine.formats.stage import Stage
from diminuendo.engine.plan import LayerSpec


class Pair(Format):
    """Two stages, cut from a product of two maps in descending order of what each direction carries."""

    @abstractmethod
    def first_axes(self, spec: LayerSpec) -> tuple[int, ...]:
        """Kernel axes of the first stage; the second has the others."""

    @abstractmethod
    def product(self, sides: Sides) -> Product:
        """left (O x the second stage's kernel, R) and right (R, I x the first stage's kernel)."""

    def shift(self, sides: Sides, product: Product) -> tuple[Tensor, Tensor]:
        """(R,) mean of the first stage's output, and (O,) that of the layer's, at full rank."""
        right = product.right.reshape(len(product.right), sides.kernel.shape[1], -1).sum(dim=2)  # (R, I)
        return right @ sides.input_mean, sides.inside_mean

    def max_ranks(self, spec: LayerSpec) -> tuple[int, ...]:
        """The smaller side of the product."""
        first, second = self._kernels(spec)
        rows = spec.out_channels // spec.groups * math.prod(second)
        return (min(rows, spec.in_channels // spec.groups * math.prod(first)),)

    def stages(self, spec: LayerSpec, ranks: Sequence[int]) -> tuple[Stage, ...]:
        """Input to rank, rank to output."""
        first = self.first_axes(spec)
        second = tuple(axis for axis in range(len(spec.kernel)) if axis not in first)
        return (
            Stage(spec.in_channels // spec.groups, ranks[0], first),
            Stage(ranks[0], spec.out_channels // spec.groups, second),
        )

    def decompose(self, sides: Sides) -> dict[str, Tensor]:
        """The product with its spectrum, and what the bias is made of."""
        product = self.product(sides)
        first, second = self._kernels(sides.spec)
        outputs, inputs = sides.kernel.shape[:2]
        factors = {
            "left": product.left.reshape(outputs, *second, -1),
            "right": product.right.reshape(-1, inputs, *first),
            "spectrum": product.spectrum,
        }
        if sides.bias is not None:
            shift, mean = self.shift(sides, product)
            factors |= {"bias": sides.bias + mean, "shift": shift}
        return factors

    def spectra(self, factors: Factors) -> tuple[Tensor, ...]:
        """One."""
        return (factors["spectrum"],)

    def cut(self, factors: Factors, ranks: Sequence[int]) -> Cut:
        """The first r directions."""
        (rank,) = ranks
        left, right = factors["left"][..., :rank], factors["right"][:rank]
        bias = None
        if "bias" in factors:
            bias = factors["bias"] - _over_kernel(left) @ factors["shift"][:rank]
        return Cut((right, left.movedim(-1, 1)), bias)

    def resized(self, old: Cut, new_ranks: Sequence[int], factors: Factors) -> Cut:
        """Truncate the tuned product by its directions on the data, or add directions that do nothing yet.

        See `projection.on_data` for how the data are known; a bias takes up what the truncation does to the mean.
        """
        (rank,) = new_ranks
        inner, outer = old.weights
        count = len(inner)
        if rank > count:
            wider = torch.cat([inner, factors["right"][count:rank].to(inner)])
            return Cut((wider, pad(outer, (outer.shape[0], rank, *outer.shape[2:]))), old.bias)
        if rank == count:
            return old
        right = inner.flatten(1).to(torch.float64)
        left = outer.movedim(1, -1).to(torch.float64)  # (O, k ..., r)
        data = on_data(right, factors["right"].flatten(1), factors["spectrum"], factors.get("shift"))
        rows = left.flatten(0, -2)
        product = product_directions(rows, right, data.moment)
        columns = product.left[:, :rank]
        narrow = product.right[:rank].reshape(rank, *inner.shape[1:]).to(inner)
        bias = old.bias
        if bias is not None:
            mean = rows @ data.mean
            lost = (mean - columns @ (columns.T @ mean)).reshape(len(outer), -1).sum(dim=1)
            bias = bias + lost.to(bias)
        return Cut((narrow, columns.reshape(*left.shape[:-1], rank).movedim(-1, 1).to(outer)), bias)

    def _kernels(self, spec: LayerSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Kernels of both stages, with 1 along axes that they do not work along."""
        first = self.first_axes(spec)
        return (
            tuple(size if axis in first else 1 for axis, size in enumerate(spec.kernel)),
            tuple(1 if axis in first else size for axis, size in enumerate(spec.kernel)),
        )


def _over_kernel(left: Tensor) -> Tensor:
    """(O, k_1, ..., k_d, r) -> (O, r), summed over the kernel."""
    return left.flatten(1, -2).sum(dim=1) if left.dim() > 2 else left
