"""Layers by themselves: every class, geometry and padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.engine.kinds.entry import Entry, normal
from torch import Tensor, nn


def alone(name: str, layer: Callable[[], nn.Module], *shape: int, dense: str = "") -> Entry:
    """One layer in a Sequential; `dense`: the reason why it is left."""
    found, left = ((), {"0": dense}) if dense else (("0",), {})
    return Entry(name, lambda: nn.Sequential(layer()), normal(*shape), found, left)


def conv2d(**options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Conv2d(6, 8, **({"kernel_size": 3} | options))


class Unbatched(nn.Module):
    """A convolution on one image without a batch dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        images: list[Tensor] = [self.conv(image) for image in x]
        return nn.utils.rnn.pad_sequence(images, batch_first=True)


class Empty(nn.Module):
    """A layer that is given nothing, and one that is given nothing at times."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing, self.some = nn.Linear(8, 6), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        self.some(x[:0])
        return self.some(x) + self.nothing(x[:0]).sum()  # type: ignore[no-any-return]


ENTRIES = (
    alone("linear", lambda: nn.Linear(10, 8), 10),
    alone("linear, no bias, on sequences", lambda: nn.Linear(9, 12, bias=False), 5, 9),
    alone("linear on (N, H, W, C)", lambda: nn.Linear(8, 8), 3, 4, 8),
    alone("linear to one feature", lambda: nn.Linear(8, 1), 8, dense="no form has fewer params than its 9"),
    alone("conv1d", lambda: nn.Conv1d(6, 8, 5, padding=2), 6, 11),
    alone("conv2d", conv2d(padding=1), 6, 7, 8),
    alone("conv2d, no bias", conv2d(bias=False), 6, 7, 8),
    alone("conv2d 1x1", lambda: nn.Conv2d(8, 8, 1), 8, 5, 5),
    alone("conv2d 1x1, strided", lambda: nn.Conv2d(8, 8, 1, stride=2), 8, 5, 5),
    alone("conv2d 1x5", lambda: nn.Conv2d(6, 8, (1, 5), padding=(0, 2)), 6, 7, 8),
    alone("conv2d 4x3, strides 2 and 1", lambda: nn.Conv2d(6, 8, (4, 3), stride=(2, 1), padding=(2, 1)), 6, 9, 8),
    alone("conv3d", lambda: nn.Conv3d(4, 6, (3, 2, 3), padding=(1, 0, 1), stride=(1, 2, 1)), 4, 5, 6, 5),
    alone("conv2d, strided", conv2d(stride=2, padding=1), 6, 9, 8),
    alone("conv2d, dilated", conv2d(dilation=(2, 3), padding=2), 6, 9, 9),
    alone("conv2d, padding same", conv2d(kernel_size=(3, 4), padding="same", dilation=2), 6, 9, 9),
    alone("conv2d, padding valid", conv2d(padding="valid"), 6, 9, 9),
    alone("conv2d, reflect", conv2d(padding=(2, 1), padding_mode="reflect"), 6, 9, 9),
    alone("conv2d, same and reflect", conv2d(padding="same", padding_mode="reflect"), 6, 9, 9),
    alone("conv2d, replicate", conv2d(padding=1, padding_mode="replicate", stride=2), 6, 9, 9),
    alone("conv2d, circular", conv2d(padding=1, padding_mode="circular"), 6, 9, 9),
    alone("conv1d, circular", lambda: nn.Conv1d(6, 8, 3, padding=2, padding_mode="circular", dilation=2), 6, 9),
    alone("conv2d, kernel wider than the input", conv2d(kernel_size=7, padding=3), 6, 4, 4),
    alone("grouped", lambda: nn.Conv2d(8, 12, 3, padding=1, groups=2), 8, 6, 6),
    alone("grouped 1x1", lambda: nn.Conv2d(16, 16, 1, groups=2), 16, 5, 5),
    alone("grouped, conv1d, strided", lambda: nn.Conv1d(8, 12, 5, stride=2, groups=4), 8, 11),
    alone("depthwise 5x5", lambda: nn.Conv2d(6, 6, 5, padding=2, groups=6), 6, 7, 7),
    alone("depthwise 1x1", lambda: nn.Conv2d(6, 6, 1, groups=6), 6, 5, 5, dense="no form has fewer params than its 12"),
    alone("depthwise with a multiplier", lambda: nn.Conv2d(4, 16, 3, groups=4), 4, 7, 7),
    alone("transposed 1d", lambda: nn.ConvTranspose1d(6, 8, 4, stride=3), 6, 7),
    alone("transposed 2d", lambda: nn.ConvTranspose2d(6, 8, 3, stride=2, padding=1, output_padding=1), 6, 5, 4),
    alone("transposed 2d, 2x2", lambda: nn.ConvTranspose2d(8, 6, 2, stride=2, bias=False), 8, 4, 4),
    alone("transposed 2d, dilated", lambda: nn.ConvTranspose2d(6, 8, (4, 3), stride=(2, 1), dilation=(1, 2)), 6, 5, 4),
    alone("transposed 2d, grouped", lambda: nn.ConvTranspose2d(8, 12, 3, stride=2, groups=2), 8, 4, 5),
    alone("transposed 3d", lambda: nn.ConvTranspose3d(4, 5, (2, 3, 2), stride=2, output_padding=(1, 0, 1)), 4, 3, 3, 3),
    alone("transposed 1d, output_padding", lambda: nn.ConvTranspose1d(6, 8, 3, stride=4, output_padding=2), 6, 5),
    alone("linear, wide", lambda: nn.Linear(4, 40), 4),
    Entry(
        "a layer that is the whole network",
        lambda: nn.Linear(8, 8),
        normal(8),
        (),
        {"": "it is the whole network; wrap it in nn.Sequential"},
    ),
    Entry("unbatched convolution", Unbatched, normal(4, 7, 7), ("conv",)),
    Entry("empty tensors", Empty, normal(8), ("some",), {"nothing": "it is called with an empty tensor"}),
)
