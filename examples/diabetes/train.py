"""Trains the network and writes weights.safetensors: ``python examples/diabetes/train.py``."""

from __future__ import annotations

import torch
from data import samples
from network import Regressor
from safetensors.torch import save_file
from task import METRIC, WEIGHTS, loss
from torch import nn

EPOCHS = 40


def train(network: nn.Module) -> None:
    """AdamW with a strong decay and noise on the inputs, for there are few patients."""
    data, _ = samples()
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-4, weight_decay=1.0)
    for _ in range(EPOCHS):
        for index in torch.randperm(len(data), generator=generator).split(32):
            batch = data.take(index)
            noise = 0.6 * torch.randn(batch.inputs.shape, generator=generator)
            optimizer.zero_grad()
            loss(network(batch.inputs + noise), batch.targets).backward()
            optimizer.step()


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = Regressor()
    train(network)
    save_file({name: value.half() for name, value in network.state_dict().items()}, WEIGHTS)
    _, evaluation = samples()
    with torch.no_grad():
        statistics = METRIC.statistics(network(evaluation.inputs), evaluation.targets)
    print(f"{sum(p.numel() for p in network.parameters()):,} params, {METRIC.name} {METRIC.value(statistics):.2f}")
