"""VGG19 (Simonyan and Zisserman 2015) with BatchNorm for 32x32 images.

Legend: N samples, K classes.
"""

from __future__ import annotations

from torch import Tensor, nn

_STAGES = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
"""Width and number of 3x3 convolutions between two poolings."""


class VGG(nn.Module):
    """Five stages of 3x3 convolutions, each ending in max-pooling, and one linear layer."""

    def __init__(self, classes: int) -> None:
        """Random weights."""
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, depth in _STAGES:
            for _ in range(depth):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2))
        layers.append(nn.AvgPool2d(1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) -> (N, K) logits."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def vgg19(classes: int) -> VGG:
    """VGG19 for 32x32 images."""
    return VGG(classes)
