"""Small networks that the engine's tests work on."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Small(nn.Module):
    """Two convolutions with BatchNorm, one with a bias and without, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(12)
        self.mix = nn.Conv2d(12, 12, 1, bias=False)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.pool(self.mix(x).relu()).flatten(1)
        logits: Tensor = self.fc(self.drop(x))
        return logits


def small(seed: int = 0) -> Small:
    """A `Small` with random weights and random BatchNorm, in training mode."""
    generator = torch.Generator().manual_seed(seed)
    model = Small()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.kaiming_normal_(parameter, generator=generator)
            else:
                parameter.uniform_(0.5, 1.5, generator=generator)
        for name, buffer in model.named_buffers():
            if name.endswith(("mean", "var")):
                buffer.uniform_(0.1, 1.0, generator=generator)
    return model


def images(count: int, seed: int = 1) -> Tensor:
    """(count, 2, 8, 8) images."""
    return torch.randn(count, 2, 8, 8, generator=torch.Generator().manual_seed(seed)) + 0.5


def fingerprint(model: nn.Module) -> tuple[list[tuple[str, bytes]], list[bool], int]:
    """State, modes and hooks of a network: equal when nothing was changed."""
    state = [(name, value.numpy().tobytes()) for name, value in model.state_dict().items()]
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    return state, [m.training for m in model.modules()], hooks
