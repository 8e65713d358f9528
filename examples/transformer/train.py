"""Trains the network and writes weights.safetensors: ``python examples/transformer/train.py``."""

from __future__ import annotations

import torch
from data import samples
from network import Reader
from safetensors.torch import save_file
from task import METRIC, WEIGHTS, loss
from torch import nn

EPOCHS = 22
RATE = 5e-3


def train(network: nn.Module) -> None:
    """AdamW, one cycle, on all sentences."""
    data, _ = samples(10_000)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=EPOCHS * -(-len(data) // 64))
    for _ in range(EPOCHS):
        for index in torch.randperm(len(data), generator=generator).split(64):
            batch = data.take(index)
            optimizer.zero_grad()
            loss(network(**batch.inputs), batch.targets).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            scheduler.step()


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(2)
    network = Reader()
    train(network)
    save_file({name: value.half() for name, value in network.state_dict().items()}, WEIGHTS)
    _, evaluation = samples(0)
    with torch.no_grad():
        statistics = METRIC.statistics(network(**evaluation.inputs), evaluation.targets)
    print(f"{sum(p.numel() for p in network.parameters()):,} params, {METRIC.name} {METRIC.value(statistics):.2f}")
