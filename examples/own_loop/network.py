"""The network: a perceptron of three layers with LayerNorm, 43,778 params."""

from __future__ import annotations

from torch import Tensor, nn


class Perceptron(nn.Module):
    """Classifies rows of thirty figures."""

    def __init__(self, width: int = 192) -> None:
        """Untrained."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(30, width),
            nn.LayerNorm(width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, 2),
        )

    def forward(self, figures: Tensor) -> Tensor:
        """(N, 30) -> (N, 2) logits."""
        logits: Tensor = self.layers(figures)
        return logits
