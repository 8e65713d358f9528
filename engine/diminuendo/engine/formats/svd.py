"""The `svd` format: a layer as two, narrow in the middle, the kernel in the first.

A linear layer becomes ``I -> r`` and ``r -> O``; a convolution ``k x k, I -> r`` and ``1 x 1, r -> O``: the output is
narrowed. By projection on the leading eigenvectors of the layer's own output, which is the best that any map of rank r
can do on the data: what is lost is the sum of the other eigenvalues.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

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

    def shift(self, sides: Sides, product: Product) -> tuple[Tensor, Tensor]:
        """The output's mean as it was measured, so also what borders do to it."""
        return product.left.T @ sides.output_mean, sides.output_mean
