"""A language model: two inputs by name, many answers for each sample, and perplexity."""

from __future__ import annotations

from pathlib import Path

import torch
from data import IGNORED, samples
from network import Reader
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from diminuendo.engine import Task
from diminuendo.engine.metrics import perplexity

WEIGHTS = Path(__file__).with_name("weights.safetensors")
METRIC = perplexity()


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of (N, T, C) logits and (N, T) characters."""
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


def optimizer(parameters: list[nn.Parameter]) -> Optimizer:
    """Transformers do not train well with the SGD of the recipe."""
    return torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.01)


def task() -> Task:
    """The trained network, its data, and what it is judged by."""
    network = Reader()
    network.load_state_dict(load_file(WEIGHTS))
    # The inputs are a mapping: its values are the network's keyword arguments. A tuple would be positional ones.
    train, evaluation = samples(1000)
    return Task(
        model=network.eval(),
        train=train,
        evaluation=evaluation,
        loss=loss,
        metric=METRIC,
        logits=lambda outputs: outputs.flatten(0, 1),  # classes are dimension 1: (N * T, C)
        optimizer=optimizer,
        name="transformer",
    )
