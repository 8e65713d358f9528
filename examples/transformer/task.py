"""A transformer: several inputs by name, and perplexity; the loss is the default one, cross-entropy."""

from __future__ import annotations

from pathlib import Path

import torch
from data import samples
from network import Reader
from safetensors.torch import load_file
from torch import nn
from torch.optim import Optimizer

from diminuendo.engine import Task
from diminuendo.engine.metrics import perplexity

WEIGHTS = Path(__file__).with_name("weights.safetensors")
METRIC = perplexity()


def optimizer(parameters: list[nn.Parameter]) -> Optimizer:
    """Transformers do not train well with the recipe's SGD. Its rate is what the one cycle goes up to."""
    return torch.optim.AdamW(parameters, lr=4e-3, weight_decay=0.01)


def task() -> Task:
    """The trained network, its data, and what it is judged by."""
    network = Reader()
    network.load_state_dict(load_file(WEIGHTS))
    # The inputs are a mapping: its values are the network's keyword arguments. Those of a tuple would be positional.
    train, evaluation = samples()
    return Task(
        model=network.eval(),
        train=train,
        evaluation=evaluation,
        metric=METRIC,
        optimizer=optimizer,
        name="transformer",
    )
