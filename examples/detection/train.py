"""Trains the network and writes weights.safetensors: ``python examples/detection/train.py``."""

from __future__ import annotations

import torch
from data import loader
from network import Detector
from safetensors.torch import save_file
from task import METRIC, WEIGHTS, loss
from torch import nn

EPOCHS = 24
RATE = 4e-3


def train(network: nn.Module) -> None:
    """AdamW, one cycle, on more scenes than the compression is given."""
    batches = list(loader(4000, evaluation=False))
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=EPOCHS * len(batches))
    network.train()
    for _ in range(EPOCHS):
        for k in torch.randperm(len(batches), generator=generator).tolist():
            images, targets = batches[k]
            optimizer.zero_grad()
            torch.stack(list(loss(network(images), targets).values())).sum().backward()
            optimizer.step()
            scheduler.step()
    network.eval()


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = Detector()
    train(network)
    save_file({k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}, WEIGHTS)
    with torch.no_grad():
        rows = [METRIC.statistics(network(images), targets) for images, targets in loader(800, evaluation=True)]
    params = sum(p.numel() for p in network.parameters())
    print(f"{params:,} params, {METRIC.name} {METRIC.value(torch.cat(rows)):.2f}")
