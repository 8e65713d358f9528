"""Images as a dataset: opened when they are asked for, and made into what the network takes.

Legend: C channels, H x W pixels.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from diminuendo.engine.described.places import Place, package
from diminuendo.engine.task import TaskError

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class Encoded(Protocol):
    """Encoded images, by number."""

    def __len__(self) -> int:
        """How many there are."""

    def content(self, index: int) -> bytes:
        """The bytes of one."""

    def where(self, index: int) -> str:
        """What messages call it."""


@dataclass(frozen=True)
class Files:
    """Images in files.

    Attributes:
        place: Of which they are.
        paths: One for each.
    """

    place: Place
    paths: tuple[str, ...]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.paths)

    def content(self, index: int) -> bytes:
        """The bytes of one."""
        return self.place.bytes_of(self.paths[index])

    def where(self, index: int) -> str:
        """Its path."""
        return self.paths[index]


@dataclass(frozen=True)
class Look:
    """How an image becomes an input.

    Attributes:
        size: H, W.
        channels: C.
        last: Whether channels come last, (H, W, C).
        scale: What pixels of 0 to 255 are multiplied by.
        mean: Subtracted then, of each channel.
        std: Divided by at last, of each channel.
        resize: ``exact``, ``shorter`` (what is left over is cut off evenly), or None: images have the size.
        shorter: Size of the shorter side before the cut; None: what just covers the size.
        dtype: Of the input.
    """

    size: tuple[int, int]
    channels: int
    last: bool = False
    scale: float = 1 / 255
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    resize: str | None = None
    shorter: int | None = None
    dtype: torch.dtype = torch.float32

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input."""
        return (*self.size, self.channels) if self.last else (self.channels, *self.size)

    def input_of(self, content: bytes, where: str) -> Tensor:
        """The input that encoded bytes stand for.

        Raises:
            TaskError: They are no image, or one of another size; says which.
        """
        pixels = np.array(self._decoded(content, where), dtype=np.float32).reshape(*self.size, self.channels)
        values = torch.from_numpy(pixels) * self.scale
        if self.mean:
            values = values - torch.tensor(self.mean)
        if self.std:
            values = values / torch.tensor(self.std)
        return (values if self.last else values.permute(2, 0, 1)).contiguous().to(self.dtype)

    def _decoded(self, content: bytes, where: str) -> Any:
        pillow = package("PIL.Image", "pillow", "images")
        try:
            with pillow.open(io.BytesIO(content)) as opened:
                picture = opened.convert(_MODES[self.channels])
        except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as error:  # all that pillow raises
            raise TaskError(f"data: {where} is no image that can be read ({error}); replace or remove it") from error
        return self._fitted(picture, where, pillow)

    def _fitted(self, picture: Any, where: str, pillow: Any) -> Any:
        """The picture in the size of the input."""
        height, width = self.size
        wide, high = picture.size
        if self.resize == "exact":
            return picture if (wide, high) == (width, height) else picture.resize((width, height), _smooth(pillow))
        if self.resize == "shorter":
            factor = self.shorter / min(wide, high) if self.shorter else max(width / wide, height / high)
            scaled = round(wide * factor), round(high * factor)
            if scaled[0] < width or scaled[1] < height:
                raise TaskError(f"data: image.shorter = {self.shorter} is less than image.size = {list(self.size)}")
            picture = picture if scaled == (wide, high) else picture.resize(scaled, _smooth(pillow))
            left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
            return picture.crop((left, top, left + width, top + height))
        if (wide, high) != (width, height):
            raise TaskError(
                f"data: {where} is an image of {high} x {wide} pixels where the network takes {height} x {width}; set "
                'image.resize = "shorter" or "exact"'
            )
        return picture


def _smooth(pillow: Any) -> Any:
    return pillow.Resampling.BILINEAR


class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """(input, target) of images.

    Attributes:
        targets: (N, ...), one for each.
    """

    def __init__(self, source: Encoded, look: Look, targets: Tensor, index: Sequence[int] | None = None) -> None:
        """Of a source, all of it or those of some numbers."""
        self.source, self.look, self.targets = source, look, targets
        self._index = range(len(source)) if index is None else index

    def __len__(self) -> int:
        """How many there are."""
        return len(self._index)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        """One image and its target."""
        index = self._index[place]
        return self.look.input_of(self.source.content(index), self.source.where(index)), self.targets[place]


@dataclass(frozen=True)
class Augment:
    """Flips and shifts the images of a batch at random.

    Attributes:
        flip: Whether every second one is turned left to right.
        padding: By how many pixels, at most, one is shifted; what comes in is mirrored at the border.
        last: Whether channels come last.
    """

    flip: bool
    padding: int
    last: bool = False

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """(N, C, H, W), or (N, H, W, C), of the same shape; a new tensor."""
        images = inputs.permute(0, 3, 1, 2) if self.last else inputs
        count, _, height, width = images.shape
        shift = torch.randint(
            -self.padding, self.padding + 1, (2, count, 1), generator=generator, device=generator.device
        ).to(inputs.device)
        turned = torch.randint(0, 2, (count, 1), generator=generator, device=generator.device).to(inputs.device) > 0
        rows = _mirrored(torch.arange(height, device=inputs.device) + shift[0], height)  # (N, H)
        columns = _mirrored(torch.arange(width, device=inputs.device) + shift[1], width)  # (N, W)
        if self.flip:
            columns = torch.where(turned, columns.flip(1), columns)
        sample = torch.arange(count, device=inputs.device)[:, None, None]
        found = images.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]]  # (N, H, W, C)
        return found.contiguous() if self.last else found.permute(0, 3, 1, 2).contiguous()


def _mirrored(index: Tensor, size: int) -> Tensor:
    """Places outside 0..size-1 mirrored at the border, which is not repeated."""
    if size == 1:
        return torch.zeros_like(index)
    index = index.abs() % (2 * (size - 1))
    return torch.where(index < size, index, 2 * (size - 1) - index)
