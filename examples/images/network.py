"""The network: three convolutions and a linear layer, 56,554 params."""

from __future__ import annotations

from torch import Tensor, nn


def _stage(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class DigitNet(nn.Module):
    """Classifies 8x8 grey images."""

    def __init__(self, classes: int = 10) -> None:
        """Untrained."""
        super().__init__()
        self.stages = nn.Sequential(_stage(1, 32, 1), _stage(32, 64, 2), _stage(64, 64, 1))
        self.classify = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 1, 8, 8) -> (N, classes) logits."""
        logits: Tensor = self.classify(self.stages(images).mean(dim=(2, 3)))
        return logits
