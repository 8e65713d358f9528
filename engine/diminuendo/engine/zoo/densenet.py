"""DenseNet121 (Huang et al. 2017) for 32x32 images; ReLU and average pooling are functional calls.

Legend: N samples, C channels, H x W pixels, G growth, K classes.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

_GROWTH = 32
_DEPTHS = (6, 12, 24, 16)


class DenseLayer(nn.Module):
    """1x1 and 3x3 convolutions, each after BatchNorm and ReLU; what they make is added to the channels."""

    def __init__(self, channels: int) -> None:
        """`channels` come in, G more go out."""
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 4 * _GROWTH, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * _GROWTH)
        self.conv2 = nn.Conv2d(4 * _GROWTH, _GROWTH, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, G + C, H, W)."""
        y = self.conv1(functional.relu(self.norm1(x)))
        y = self.conv2(functional.relu(self.norm2(y)))
        return torch.cat([y, x], dim=1)


class Transition(nn.Module):
    """Half the channels at half the resolution."""

    def __init__(self, channels: int) -> None:
        """`channels` come in."""
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C / 2, H / 2, W / 2)."""
        return functional.avg_pool2d(self.conv(functional.relu(self.norm(x))), 2)


class DenseNet(nn.Module):
    """Four blocks of layers that see the outputs of all before them."""

    def __init__(self, classes: int) -> None:
        """Random weights."""
        super().__init__()
        channels = 2 * _GROWTH
        parts: OrderedDict[str, nn.Module] = OrderedDict(conv0=nn.Conv2d(3, channels, 3, padding=1, bias=False))
        for block, depth in enumerate(_DEPTHS, start=1):
            layers = nn.Sequential()
            for number in range(depth):
                layers.add_module(f"denselayer{number + 1}", DenseLayer(channels + number * _GROWTH))
            parts[f"denseblock{block}"] = layers
            channels += depth * _GROWTH
            if block < len(_DEPTHS):
                parts[f"transition{block}"] = Transition(channels)
                channels //= 2
        parts["norm5"] = nn.BatchNorm2d(channels)
        self.features = nn.Sequential(parts)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) -> (N, K) logits."""
        x = functional.avg_pool2d(functional.relu(self.features(x)), 4)
        logits: Tensor = self.classifier(x.flatten(1))
        return logits


def densenet121(classes: int) -> DenseNet:
    """DenseNet121 for 32x32 images."""
    return DenseNet(classes)
