"""The `spatial` format: a convolution as two, one along each axis of its kernel (Jaderberg et al. 2014).

``k_1 x 1, I -> r`` and ``1 x k_2, r -> O``; of three axes, the first and the other two. By projection on what windows
along the first axis give each element of the others, see `Sides.halves`: the errors of those elements are taken as if
they did not cancel, so the energy is an estimate.
"""

from __future__ import annotations

from typing import ClassVar

from diminuendo.engine.formats.pair import Pair
from diminuendo.engine.formats.projection import Product
from diminuendo.engine.formats.sides import Sides
from diminuendo.engine.plan import LayerSpec


class Spatial(Pair):
    """``k x 1 -> 1 x k``."""

    name: ClassVar[str] = "spatial"

    def supports(self, spec: LayerSpec) -> bool:
        """Convolutions whose kernel has elements along its first axis and along others."""
        return len(spec.kernel) > 1 and 1 < spec.kernel[0] < spec.kernel_size

    def first_axes(self, spec: LayerSpec) -> tuple[int, ...]:
        """The first."""
        return (0,)

    def product(self, sides: Sides) -> Product:
        """By the directions between the axes."""
        return sides.halves
