"""A regression: an error that gets smaller, an optimizer and a scheduler of its owner's."""

from __future__ import annotations

from pathlib import Path

import torch
from data import samples
from network import SPREAD, Regressor
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from diminuendo.engine import Task
from diminuendo.engine.metrics import rmse

WEIGHTS = Path(__file__).with_name("weights.safetensors")
METRIC = rmse()


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error, in units of the targets' variance."""
    return functional.mse_loss(outputs / SPREAD, targets / SPREAD)


def optimizer(parameters: list[nn.Parameter]) -> Optimizer:
    """What steps on a candidate's weights."""
    return torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.1)


def scheduler(optimizer: Optimizer, steps: int) -> LRScheduler:
    """What sets its rates: called once after each of so many steps."""
    return CosineAnnealingLR(optimizer, steps)


def task() -> Task:
    """The trained network, its data, and what it is judged by."""
    network = Regressor()
    network.load_state_dict(load_file(WEIGHTS))
    train, evaluation = samples()
    return Task(
        model=network.eval(),
        train=train,
        evaluation=evaluation,
        loss=loss,
        metric=METRIC,
        # One column is no set of classes: candidates are held against the original by the squared difference.
        logits=lambda outputs: outputs,
        optimizer=optimizer,
        scheduler=scheduler,
        name="diabetes",
    )
