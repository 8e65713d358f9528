"""GoogLeNet (Szegedy et al. 2015) with BatchNorm for 32x32 images; "5x5" convolutions are two 3x3 ones.

Legend: N samples, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

_BLOCKS = {
    "inception3a": (192, 64, 96, 128, 16, 32, 32),
    "inception3b": (256, 128, 128, 192, 32, 96, 64),
    "inception4a": (480, 192, 96, 208, 16, 48, 64),
    "inception4b": (512, 160, 112, 224, 24, 64, 64),
    "inception4c": (512, 128, 128, 256, 24, 64, 64),
    "inception4d": (512, 112, 144, 288, 32, 64, 64),
    "inception4e": (528, 256, 160, 320, 32, 128, 128),
    "inception5a": (832, 256, 160, 320, 32, 128, 128),
    "inception5b": (832, 384, 192, 384, 48, 128, 128),
}
"""Channels that come in, then those of the branches as `Inception` takes them."""


def _convolution(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    """A convolution that keeps the resolution, with BatchNorm and ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(out_channels), relu=nn.ReLU(inplace=True)))


class Inception(nn.Module):
    """Four branches side by side: 1x1; 1x1 then 3x3; 1x1 then twice 3x3; max-pooling then 1x1."""

    def __init__(self, channels: int, n1: int, n3_in: int, n3: int, n5_in: int, n5: int, pooled: int) -> None:
        """Channels of each branch, and within the second and third."""
        super().__init__()
        self.branch1 = _convolution(channels, n1, 1)
        self.branch2 = nn.Sequential(_convolution(channels, n3_in, 1), _convolution(n3_in, n3, 3))
        self.branch3 = nn.Sequential(
            _convolution(channels, n5_in, 1), _convolution(n5_in, n5, 3), _convolution(n5, n5, 3)
        )
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), _convolution(channels, pooled, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, n1 + n3 + n5 + pooled, H, W)."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], dim=1)


class GoogLeNet(nn.Module):
    """Nine inception blocks at three resolutions."""

    inception3a: Inception
    inception3b: Inception
    inception4a: Inception
    inception4b: Inception
    inception4c: Inception
    inception4d: Inception
    inception4e: Inception
    inception5a: Inception
    inception5b: Inception

    def __init__(self, classes: int) -> None:
        """Random weights."""
        super().__init__()
        self.conv1 = _convolution(3, 192, 3)
        for name, (channels, *branches) in _BLOCKS.items():
            self.add_module(name, Inception(channels, *branches))
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.avgpool = nn.AvgPool2d(8, stride=1)
        self.fc = nn.Linear(1024, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) -> (N, K) logits."""
        x = self.inception3b(self.inception3a(self.conv1(x)))
        x = self.inception4b(self.inception4a(self.maxpool(x)))
        x = self.inception4e(self.inception4d(self.inception4c(x)))
        x = self.inception5b(self.inception5a(self.maxpool(x)))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def googlenet(classes: int) -> GoogLeNet:
    """GoogLeNet for 32x32 images."""
    return GoogLeNet(classes)
