"""Padding as ONNX says it: at the beginning of each dimension, then at the end of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diminuendo.engine.foreign.importer import Importer
from diminuendo.engine.foreign.values import OnnxNode, UnsupportedError, Value


@dataclass(frozen=True)
class Padding:
    """Of the dimensions of a picture.

    Attributes:
        before: At the beginning of each.
        after: At the end.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def of(cls, pads: Sequence[int]) -> Padding:
        """From ONNX's list."""
        half = len(pads) // 2
        return cls(tuple(pads[:half]), tuple(pads[half:]))

    @property
    def even(self) -> bool:
        """Whether both ends of each dimension get the same."""
        return self.before == self.after

    @property
    def outwards(self) -> list[int]:
        """As `torch.nn.functional.pad` takes it: from the last dimension on."""
        pairs = list(zip(self.before, self.after, strict=True))
        return [each for pair in reversed(pairs) for each in pair]


def padding_of(
    g: Importer, node: OnnxNode, x: Value, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Padding:
    """The padding of a convolution or a pooling.

    Raises:
        UnsupportedError: It depends on sizes that vary.
    """
    auto = node.text("auto_pad", "NOTSET")
    if auto in ("NOTSET", "VALID"):
        given = node.numbers("pads") if auto == "NOTSET" else None
        return Padding.of(given or [0] * (2 * len(kernel)))
    totals = []
    for place, (k, step, spread) in enumerate(zip(kernel, stride, dilation, strict=True)):
        reach = (k - 1) * spread + 1
        size = g.size(x, place + 2) if step > 1 else 1
        if not isinstance(size, int):
            raise UnsupportedError(f"auto_pad {auto} depends on sizes that vary; export it with fixed ones")
        totals.append(max(0, (-(-size // step) - 1) * step + reach - size))
    small, large = tuple(each // 2 for each in totals), tuple(each - each // 2 for each in totals)
    return Padding(small, large) if auto == "SAME_UPPER" else Padding(large, small)
