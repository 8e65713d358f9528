"""Trains the network and writes weights.safetensors: ``python examples/own_loop/train.py``."""

from __future__ import annotations

import torch
from data import samples
from network import Perceptron
from safetensors.torch import save_file
from task import METRIC, WEIGHTS
from torch import nn
from torch.nn import functional

EPOCHS = 40
RATE = 3e-4


def train(network: nn.Module) -> None:
    """Mixup with labels alone: there is no teacher yet."""
    data, _ = samples()
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1.0)
    for _ in range(EPOCHS):
        for index in torch.randperm(len(data), generator=generator).split(32):
            batch, other = data.take(index), data.take(index.flip(0))
            share = float(torch.distributions.Beta(0.4, 0.4).sample())
            outputs = network(share * batch.inputs + (1 - share) * other.inputs)
            optimizer.zero_grad()
            loss = share * functional.cross_entropy(outputs, batch.targets)
            loss = loss + (1 - share) * functional.cross_entropy(outputs, other.targets)
            loss.backward()
            optimizer.step()


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = Perceptron()
    train(network)
    save_file({name: value.half() for name, value in network.state_dict().items()}, WEIGHTS)
    _, evaluation = samples()
    with torch.no_grad():
        statistics = METRIC.statistics(network(evaluation.inputs), evaluation.targets)
    print(f"{sum(p.numel() for p in network.parameters()):,} params, {METRIC.name} {METRIC.value(statistics):.2f}")
