"""A segmentation: a Dataset of raw images, mean intersection over union, and a forward of its owner's."""

from __future__ import annotations

from pathlib import Path

import torch
from data import CLASSES, Scenes
from network import UNet
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from diminuendo.engine import Task
from diminuendo.engine.metrics import mean_iou

WEIGHTS = Path(__file__).with_name("weights.safetensors")
METRIC = mean_iou(CLASSES)


def forward(network: nn.Module, images: Tensor) -> Tensor:
    """How the network is run on a batch: images are bytes, and it takes 0..1."""
    logits: Tensor = network(images.to(torch.float32) / 255)
    return logits


def loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy and the Dice loss (Milletari et al. 2016)."""
    found = logits.softmax(dim=1)
    wanted = functional.one_hot(classes, CLASSES).movedim(-1, 1)
    shared = (found * wanted).sum(dim=(0, 2, 3))
    both = (found + wanted).sum(dim=(0, 2, 3))
    return functional.cross_entropy(logits, classes) + 1 - (2 * shared / both.clamp(min=1)).mean()


def task() -> Task:
    """The trained network, its data, and what it is judged by."""
    network = UNet()
    network.load_state_dict(load_file(WEIGHTS))
    return Task(
        model=network.eval(),
        train=Scenes(evaluation=False),
        evaluation=Scenes(evaluation=True),
        loss=loss,
        metric=METRIC,
        forward=forward,
        name="segmentation",
    )
