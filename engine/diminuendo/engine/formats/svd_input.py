"""The `svd_input` format: a convolution as two, narrow in the middle, the kernel in the second.

``1 x 1, I -> r`` and ``k x k, r -> O``: the input is narrowed. By projection on the directions of the input that the
kernel makes most of, see `Sides.inputs`. Of linear and 1 x 1 layers it would be `svd` over again.
"""

from __future__ import annotations

from typing import ClassVar

from diminuendo.engine.formats.pair import Pair
from diminuendo.engine.formats.projection import Product
from diminuendo.engine.formats.sides import Sides
from diminuendo.engine.plan import LayerSpec


class SvdInput(Pair):
    """``1 x 1 -> k x k``."""

    name: ClassVar[str] = "svd_input"

    def supports(self, spec: LayerSpec) -> bool:
        """Convolutions with more than one kernel element."""
        return spec.kernel_size > 1

    def first_axes(self, spec: LayerSpec) -> tuple[int, ...]:
        """None."""
        return ()

    def product(self, sides: Sides) -> Product:
        """By the input's directions."""
        return sides.inputs
