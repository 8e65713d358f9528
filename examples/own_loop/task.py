"""A training loop of its owner's in place of Diminuendo's: mixup, which no loss and no augmentation can express."""

from __future__ import annotations

from pathlib import Path

import torch
from data import samples
from network import Perceptron
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from diminuendo.engine import Fit, Task
from diminuendo.engine.metrics import auc

WEIGHTS = Path(__file__).with_name("weights.safetensors")
METRIC = auc()
RATE = 2e-3


def fit(network: nn.Module, fit: Fit) -> None:
    """Train a candidate in place for `fit.epochs` passes: pairs of patients are mixed, and so are their answers.

    The teacher is the original network: what it says of a mixed patient is the answer there.
    """
    torch.manual_seed(fit.seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE * fit.rate)
    network.train()
    for batch in fit.batches(32):
        share = float(torch.distributions.Beta(0.4, 0.4).sample())
        order = torch.randperm(len(batch))
        mixed = share * batch.inputs + (1 - share) * batch.inputs[order]
        outputs = network(mixed)
        taught = functional.kl_div(
            outputs.log_softmax(dim=1), fit.teacher(mixed).log_softmax(dim=1), reduction="batchmean", log_target=True
        )
        labels = functional.cross_entropy(outputs, batch.targets, reduction="none")
        others = functional.cross_entropy(outputs, batch.targets[order], reduction="none")
        loss = taught + 0.1 * (share * labels + (1 - share) * others).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def task() -> Task:
    """The trained network, its data, and how it is trained."""
    network = Perceptron()
    network.load_state_dict(load_file(WEIGHTS))
    train, evaluation = samples()
    return Task(model=network.eval(), train=train, evaluation=evaluation, metric=METRIC, fit=fit, name="own loop")
