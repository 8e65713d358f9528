"""Scenes to search: one to three handwritten digits, 0 to 3, of different sizes on an empty canvas.

Legend: N scenes, G x G cells of the grid that the network answers on.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

CLASSES = 5
"""0 is nothing, 1 + k is a k, of 0 to 3."""

SIDE, CELL = 32, 4
GRID = SIDE // CELL
MOST = 3
"""Objects in a scene."""

Scene = tuple[Tensor, Tensor, Tensor]


class Scenes(Dataset[Scene]):
    """Item k is always the same scene: (1, 32, 32) image, (M,) classes, (M, 4) boxes as left, top, right, bottom."""

    def __init__(self, count: int, *, evaluation: bool) -> None:
        """Scenes to train with, or such as the network never sees: of other digits."""
        pixels, classes = load_digits(return_X_y=True)
        known = torch.from_numpy(classes < CLASSES - 1).nonzero()[:, 0]
        order = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(0))]
        chosen = order[: len(order) // 2] if evaluation else order[len(order) // 2 :]
        self._pixels = torch.from_numpy(pixels).to(torch.float32).reshape(-1, 1, 1, 8, 8)[chosen] / 16
        self._classes = torch.from_numpy(classes).to(torch.int64)[chosen]
        self._seed = 1_000_000 if evaluation else 2_000_000
        self._count = count

    def __len__(self) -> int:
        """Number of scenes."""
        return self._count

    def __getitem__(self, k: int) -> Scene:
        """Scene k: digits are placed one after the other, and left out where they would touch another."""
        generator = torch.Generator().manual_seed(self._seed + k)
        image, classes, boxes = torch.zeros(1, SIDE, SIDE), [], []
        for _ in range(int(torch.randint(1, MOST + 1, (), generator=generator))):
            size = int(torch.randint(11, 15, (), generator=generator))
            x, y = (int(n) for n in torch.randint(0, SIDE - size + 1, (2,), generator=generator))
            digit = int(torch.randint(0, len(self._classes), (), generator=generator))
            place = image[0, y : y + size, x : x + size]
            if bool(place.any()):
                continue
            ink = functional.interpolate(self._pixels[digit], size=(size, size), mode="bilinear")[0, 0]
            place += ink
            rows, columns = (ink > 0.2).any(dim=1).nonzero(), (ink > 0.2).any(dim=0).nonzero()
            boxes.append([x + int(columns[0]), y + int(rows[0]), x + int(columns[-1]) + 1, y + int(rows[-1]) + 1])
            classes.append(1 + int(self._classes[digit]))
        return image, torch.tensor(classes), torch.tensor(boxes, dtype=torch.float32)


def centres() -> Tensor:
    """(2, G, G) x and y of the cells' centres, in pixels."""
    at = CELL * torch.arange(GRID, dtype=torch.float32) + CELL / 2
    y, x = torch.meshgrid(at, at, indexing="ij")
    return torch.stack([x, y])


def collate(scenes: list[Scene]) -> tuple[Tensor, dict[str, Tensor]]:
    """Scenes with different numbers of objects as a batch: each object belongs to the cell that its middle is in.

    Returns:
        (N, 1, 32, 32) images, and the targets: (N, G, G) ``classes`` and (N, 4, G, G) ``boxes`` in pixels.
    """
    classes = torch.zeros(len(scenes), GRID, GRID, dtype=torch.int64)
    boxes = torch.zeros(len(scenes), 4, GRID, GRID)
    for n, (_, labels, places) in enumerate(scenes):
        for label, box in zip(labels, places, strict=True):
            column, row = (int(middle) for middle in (box[:2] + box[2:]).div(2 * CELL))
            classes[n, row, column], boxes[n, :, row, column] = label, box
    return torch.stack([image for image, _, _ in scenes]), {"classes": classes, "boxes": boxes}


def loader(count: int, *, evaluation: bool) -> DataLoader[Scene]:
    """The scenes in batches."""
    return DataLoader(Scenes(count, evaluation=evaluation), batch_size=32, collate_fn=collate)
