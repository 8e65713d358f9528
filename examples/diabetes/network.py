"""The network: a perceptron of three layers, much wider than its data needs, 39,361 params."""

from __future__ import annotations

from torch import Tensor, nn

MEAN, SPREAD = 152.0, 77.0
"""Of the targets."""


class Regressor(nn.Module):
    """Predicts one number."""

    def __init__(self, width: int = 192) -> None:
        """Untrained."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(10, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, 10) -> (N, 1), in units of the targets."""
        return MEAN + SPREAD * self.layers(inputs)
