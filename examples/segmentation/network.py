"""The network: a small U-Net (Ronneberger et al. 2015)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _pair(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two 3x3 convolutions."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """Two steps down, two up, with what was seen on the way down beside what comes up."""

    def __init__(self, classes: int = 11, widths: tuple[int, int, int] = (8, 24, 48)) -> None:
        """Channels at full, half and quarter size."""
        super().__init__()
        first, second, third = widths
        self.down1 = _pair(1, first)
        self.down2 = _pair(first, second)
        self.bottom = _pair(second, third)
        self.up2 = nn.ConvTranspose2d(third, second, 2, stride=2)
        self.merge2 = _pair(2 * second, second)
        self.up1 = nn.ConvTranspose2d(second, first, 2, stride=2)
        self.merge1 = _pair(2 * first, first)
        self.classify = nn.Conv2d(first, classes, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 1, H, W) of 0..1 -> (N, classes, H, W) logits; sides are multiples of 4."""
        full = self.down1(images)
        half = self.down2(self.pool(full))
        quarter = self.bottom(self.pool(half))
        half = self.merge2(torch.cat([self.up2(quarter), half], dim=1))
        full = self.merge1(torch.cat([self.up1(half), full], dim=1))
        logits: Tensor = self.classify(full)
        return logits
