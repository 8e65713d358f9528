"""A detector: outputs and targets that are dicts, a DataLoader with a collate_fn, and average precision."""

from __future__ import annotations

from pathlib import Path

from average_precision import boxes_of, statistics, value
from data import loader
from network import Detector
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from diminuendo.engine import Recipe, SetMetric, Task

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
        # What is held against the original: the classes. The boxes are learned from the targets, by the loss.
        logits=lambda outputs: outputs["classes"],
        recipe=Recipe(rate=0.05, batch_size=32, own=1.0),
        name="detection",
    )
