"""A detector: outputs and targets that are dicts, a DataLoader with a collate_fn, and average precision."""

from __future__ import annotations

from pathlib import Path

import torch
from average_precision import boxes_of, statistics, value
from data import loader
from network import Detector
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from diminuendo.engine import SetMetric, Task

WEIGHTS = Path(__file__).with_name("weights.safetensors")
METRIC = SetMetric("mAP at IoU 0.5", statistics=statistics, value=value)


def loss(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is in a cell; and of cells with an object, where its box is."""
    there = targets["classes"] > 0
    found, wanted = boxes_of(outputs["sides"]).movedim(1, -1)[there], targets["boxes"].movedim(1, -1)[there]
    return {
        "classes": functional.cross_entropy(outputs["classes"], targets["classes"]),
        "boxes": 0.05 * functional.smooth_l1_loss(found, wanted, reduction="sum") / max(1, len(wanted)),
    }


def logits(outputs: dict[str, Tensor]) -> Tensor:
    """What of the outputs is held against the original's: all that the metric looks at, for what is not in it is lost.

    Classes want the KL divergence, boxes a difference: one column, (N, 1, ...), takes all of it for numbers. Boxes
    count as far as there is an object.
    """
    classes, sides = outputs["classes"], outputs["sides"]
    there = 1 - classes.softmax(dim=1)[:, :1]
    return torch.cat([classes, there * sides], dim=1).unsqueeze(1)


def optimizer(parameters: list[nn.Parameter]) -> Optimizer:
    """Trains a detector faster than the recipe's SGD. Batches are the loader's."""
    return torch.optim.AdamW(parameters, lr=4e-3, weight_decay=0.01)


def task() -> Task:
    """The trained network, its data, and what it is judged by."""
    network = Detector()
    network.load_state_dict(load_file(WEIGHTS))
    return Task(
        model=network.eval(),
        train=loader(1000, evaluation=False),
        evaluation=loader(800, evaluation=True),
        loss=loss,
        metric=METRIC,
        logits=logits,
        optimizer=optimizer,
        name="detection",
    )
