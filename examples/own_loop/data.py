"""Scikit-learn's breast cancer data: thirty figures of 569 cell nuclei, malignant or benign."""

from __future__ import annotations

import torch
from sklearn.datasets import load_breast_cancer

from diminuendo.engine import Samples

EVALUATION = 340


def samples() -> tuple[Samples, Samples]:
    """229 patients to train with and 340 that the network never sees: (N, 30) of unit variance, (N,) classes."""
    figures, classes = load_breast_cancer(return_X_y=True)
    scaled = (figures - figures.mean(axis=0)) / figures.std(axis=0)
    everything = Samples(torch.from_numpy(scaled).to(torch.float32), torch.from_numpy(classes).to(torch.int64))
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))
    return everything.take(order[EVALUATION:]), everything.take(order[:EVALUATION])
