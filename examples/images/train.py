"""Trains the network and writes weights.safetensors: ``python examples/images/train.py``."""

from __future__ import annotations

import torch
from data import samples
from network import DigitNet
from safetensors.torch import save_file
from task import METRIC, WEIGHTS, loss, shift
from torch import nn

EPOCHS = 40


def train(network: nn.Module) -> None:
    """AdamW, one cycle."""
    data, _ = samples()
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.05)
    steps = EPOCHS * -(-len(data) // 64)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    network.train()
    for _ in range(EPOCHS):
        for index in torch.randperm(len(data), generator=generator).split(64):
            batch = data.take(index)
            optimizer.zero_grad()
            torch.stack(list(loss(network(shift(batch.inputs, generator)), batch.targets).values())).sum().backward()
            optimizer.step()
            scheduler.step()
    network.eval()


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = DigitNet()
    train(network)
    save_file({k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}, WEIGHTS)
    _, evaluation = samples()
    with torch.no_grad():
        statistics = METRIC.statistics(network(evaluation.inputs), evaluation.targets)
    print(f"{sum(p.numel() for p in network.parameters()):,} params, {METRIC.name} {METRIC.value(statistics):.2f}")
