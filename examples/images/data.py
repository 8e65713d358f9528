"""Scikit-learn's 1,797 handwritten digits, 8x8 pixels each, cut into training and evaluation samples."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits

from diminuendo.engine import Samples

CLASSES = 10
EVALUATION = 1000


def samples() -> tuple[Samples, Samples]:
    """797 images to train with and 1,000 that the network never sees: (N, 1, 8, 8) of 0..1, and (N,) classes."""
    pixels, classes = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).to(torch.float32).reshape(-1, 1, 8, 8) / 16
    everything = Samples(images, torch.from_numpy(classes).to(torch.int64))
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))
    return everything.take(order[EVALUATION:]), everything.take(order[:EVALUATION])
