"""Scikit-learn's diabetes data: ten measurements of 442 patients and how far the disease went within a year."""

from __future__ import annotations

import torch
from sklearn.datasets import load_diabetes

from diminuendo.engine import Samples

EVALUATION = 292


def samples() -> tuple[Samples, Samples]:
    """150 patients to train with and 292 that the network never sees: (N, 10) of unit variance, (N, 1) of 25..346."""
    measured, progression = load_diabetes(return_X_y=True)  # columns have a sum of squares of 1
    inputs = torch.from_numpy(measured).to(torch.float32) * len(measured) ** 0.5
    everything = Samples(inputs, torch.from_numpy(progression).to(torch.float32).unsqueeze(1))
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))
    return everything.take(order[EVALUATION:]), everything.take(order[:EVALUATION])
