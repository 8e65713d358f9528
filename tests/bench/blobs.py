"""A small network that the tests of the benchmarks compress: it is trained in less than a second."""

from __future__ import annotations

import torch
from tests.engine.tasks import classification
from torch import Tensor, nn

from diminuendo.engine.task import Task


def task() -> Task:
    """Four linear layers that tell three clouds of points apart."""
    torch.manual_seed(0)
    layers = (nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))

    def points(tensor: Tensor) -> Tensor:
        return tensor

    return classification(nn.Sequential(*layers), points)
