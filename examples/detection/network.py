"""The network: convolutions down to a grid of cells, and two heads that answer in each of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _stage(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class Detector(nn.Module):
    """Tells for each cell of 4x4 pixels what object has its middle there, and how far its sides are."""

    def __init__(self, classes: int = 5) -> None:
        """Untrained."""
        super().__init__()
        self.backbone = nn.Sequential(_stage(1, 16, 2), _stage(16, 32, 2), _stage(32, 48), _stage(48, 48))
        self.neck = _stage(48, 48)
        self.classes = nn.Conv2d(48, classes, 1)
        self.sides = nn.Conv2d(48, 4, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 1, H, W) -> (N, classes, H / 4, W / 4) ``classes`` and (N, 4, H / 4, W / 4) ``sides``.

        Sides are the distances from the cell's centre to the left, top, right and bottom of the box, in pixels.
        """
        cells = self.neck(self.backbone(images))
        return {"classes": self.classes(cells), "sides": 8 * torch.sigmoid(self.sides(cells))}
