"""A classifier of images with a loss, a metric and an augmentation of its owner's."""

from __future__ import annotations

from pathlib import Path

import torch
from data import CLASSES, samples
from network import DigitNet
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from diminuendo.engine import Recipe, SetMetric, Task

WEIGHTS = Path(__file__).with_name("weights.safetensors")


def loss(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Two losses: those of a mapping are added up."""
    return {
        "smoothed": functional.cross_entropy(outputs, targets, label_smoothing=0.1),
        "margin": 0.1 * functional.multi_margin_loss(outputs, targets),
    }


def counts(outputs: Tensor, targets: Tensor) -> Tensor:
    """(N, 3, C): what each image adds to the true positives, false positives and false negatives of each class."""
    found = functional.one_hot(outputs.argmax(dim=1), CLASSES)
    wanted = functional.one_hot(targets, CLASSES)
    return torch.stack([found * wanted, found * (1 - wanted), (1 - found) * wanted], dim=1).to(torch.float32)


def macro_f1(statistics: Tensor) -> float:
    """(N, 3, C) of any images -> their F1 in points, averaged over the classes."""
    hits, false, missed = statistics.sum(dim=0)
    return float((200 * hits / (2 * hits + false + missed).clamp(min=1)).mean())


def shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move a batch by up to one pixel; all randomness comes from the generator."""
    down, right = (int(n) for n in torch.randint(-1, 2, (2,), generator=generator, device=generator.device))
    padded = functional.pad(images, (1, 1, 1, 1))
    return padded[:, :, 1 + down : 9 + down, 1 + right : 9 + right]


METRIC = SetMetric("macro F1", statistics=counts, value=macro_f1)


def task() -> Task:
    """The trained network, its data, and what it is judged by."""
    network = DigitNet()
    network.load_state_dict(load_file(WEIGHTS))
    train, evaluation = samples()
    return Task(
        model=network.eval(),
        train=train,
        evaluation=evaluation,
        loss=loss,
        metric=METRIC,
        augment=shift,
        recipe=Recipe(rate=0.1, batch_size=32),
        name="images",
    )
