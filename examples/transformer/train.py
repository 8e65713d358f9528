"""Trains the network and writes weights.safetensors: ``python examples/transformer/train.py``."""

from __future__ import annotations

import torch
from data import samples
from network import Reader
from safetensors.torch import save_file
from task import METRIC, WEIGHTS
from torch import nn
from torch.nn import functional

EPOCHS = 40
RATE = 5e-3


def train(network: nn.Module) -> None:
    """AdamW, one cycle."""
    data, _ = samples()
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=EPOCHS * -(-len(data) // 64))
    for _ in range(EPOCHS):
        for index in torch.randperm(len(data), generator=generator).split(64):
            batch = data.take(index)
            optimizer.zero_grad()
            functional.cross_entropy(network(**batch.inputs), batch.targets, label_smoothing=0.02).backward()
            optimizer.step()
            scheduler.step()


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = Reader()
    train(network)
    save_file({name: value.half() for name, value in network.state_dict().items()}, WEIGHTS)
    _, evaluation = samples()
    with torch.no_grad():
        statistics = METRIC.statistics(network(**evaluation.inputs), evaluation.targets)
    print(f"{sum(p.numel() for p in network.parameters()):,} params, {METRIC.name} {METRIC.value(statistics):.2f}")
