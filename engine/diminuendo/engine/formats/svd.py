"""The `svd` format: a layer as two, narrow in the middle, the kernel in the first.

A linear layer becomes ``I -> r`` and ``r -> O``; a convolution ``k x k, I -> r`` and ``1 x 1, r -> O``: the output is
narrowed. By projection on the leading eigenvectors of the layer's own output, which is the best that any map of rank r
can do on the data: what is lost is the sum of the other eigenvalues.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from diminuendo.engine.formats.base import Factors
from diminuendo.engine.formats.pair import Pair
from diminuendo.engine.formats.projection import Product
from diminuendo.engine.formats.sides import Sides
from diminuendo.engine.plan import LayerSpec


class Svd(Pair):
    """``k x k -> 1 x 1``."""

    name: ClassVar[str] = "svd"

    def supports(self, spec: LayerSpec) -> bool:
        """Every linear layer and convolution, grouped and transposed ones too."""
        return True

    def first_axes(self, spec: LayerSpec) -> tuple[int, ...]:
        """All of them."""
        return tuple(range(len(spec.kernel)))

    def product(self, sides: Sides) -> Product:
        """By the output's directions."""
        return sides.outputs

    def decompose(self, sides: Sides) -> dict[str, Tensor]:
        """As of every pair, and the output's mean also of layers without a bias."""
        factors = super().decompose(sides)
        return factors | {"shift": self.shift(sides, self.product(sides))[0]}

    def output_statistics(self, factors: Factors, ranks: Sequence[int]) -> tuple[Tensor, Tensor] | None:
        """Exact, on the samples that the moments were taken from: directions of the output are uncorrelated."""
        (rank,) = ranks
        left = factors["left"][..., :rank].to(torch.float64)  # (..., O, 1, ..., r)
        left = left.reshape(*factors["shift"].shape[:-1], -1, rank)
        mean = (left @ factors["shift"][..., :rank, None].to(left)).flatten()
        variance = (left.square() @ factors["spectrum"][..., :rank, None]).flatten()
        return factors["bias"].flatten().to(left) if "bias" in factors else mean, variance

    def shift(self, sides: Sides, product: Product) -> tuple[Tensor, Tensor]:
        """The output's mean as it was measured, so also what borders do to it."""
        return product.left.T @ sides.output_mean, sides.output_mean
