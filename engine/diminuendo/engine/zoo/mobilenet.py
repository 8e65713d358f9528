"""MobileNetV1 (Howard et al. 2017) and V2 (Sandler et al. 2018) for 32x32 images.

ReLU and average pooling are functional calls.

Legend: N samples, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

_V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
"""Width and stride of each block."""

_V2 = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, width, number of blocks and stride of the first of them."""


class Separable(nn.Module):
    """A depthwise 3x3 convolution, then a 1x1 one."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        """Narrow the image by `stride`."""
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, stride=stride, padding=1, groups=in_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H / stride, W / stride)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(x)))


class MobileNetV1(nn.Module):
    """A 3x3 stem and thirteen separable convolutions."""

    def __init__(self, classes: int) -> None:
        """Random weights."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        blocks: list[nn.Module] = []
        channels = 32
        for width, stride in _V1:
            blocks.append(Separable(channels, width, stride))
            channels = width
        self.layers = nn.Sequential(*blocks)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) -> (N, K) logits."""
        x = self.layers(functional.relu(self.bn1(self.conv1(x))))
        logits: Tensor = self.fc(functional.avg_pool2d(x, 2).flatten(1))
        return logits


class InvertedResidual(nn.Module):
    """1x1 to more channels, depthwise 3x3, 1x1 to few; a shortcut where the resolution stays."""

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int) -> None:
        """The shortcut has a 1x1 convolution where channels change."""
        super().__init__()
        wide = expansion * in_channels
        self.stride = stride
        self.conv1 = nn.Conv2d(in_channels, wide, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(wide)
        self.conv2 = nn.Conv2d(wide, wide, 3, stride=stride, padding=1, groups=wide, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.conv3 = nn.Conv2d(wide, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride == 1 and in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H / stride, W / stride)."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        out: Tensor = self.bn3(self.conv3(y))
        return out + self.shortcut(x) if self.stride == 1 else out


class MobileNetV2(nn.Module):
    """A 3x3 stem, seventeen inverted residuals and a 1x1 convolution to 1280 channels."""

    def __init__(self, classes: int) -> None:
        """Random weights."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        blocks: list[nn.Module] = []
        channels = 32
        for expansion, width, depth, stride in _V2:
            for number in range(depth):
                blocks.append(InvertedResidual(channels, width, expansion, 1 if number else stride))
                channels = width
        self.layers = nn.Sequential(*blocks)
        self.conv2 = nn.Conv2d(channels, 1280, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(1280)
        self.fc = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) -> (N, K) logits."""
        x = self.layers(functional.relu(self.bn1(self.conv1(x))))
        x = functional.relu(self.bn2(self.conv2(x)))
        logits: Tensor = self.fc(functional.avg_pool2d(x, 4).flatten(1))
        return logits


def mobilenet_v1(classes: int) -> MobileNetV1:
    """MobileNetV1 for 32x32 images: the stem has stride 1."""
    return MobileNetV1(classes)


def mobilenet_v2(classes: int) -> MobileNetV2:
    """MobileNetV2 for 32x32 images: the stem and the second width have stride 1."""
    return MobileNetV2(classes)
