"""Trains the network and writes weights.safetensors: ``python examples/segmentation/train.py``."""

from __future__ import annotations

import torch
from data import Scenes
from network import UNet
from safetensors.torch import save_file
from task import METRIC, WEIGHTS, forward, loss
from torch import nn
from torch.utils.data import DataLoader

EPOCHS = 50
RATE = 6e-3


def train(network: nn.Module) -> None:
    """AdamW, one cycle."""
    loader = DataLoader(
        Scenes(evaluation=False), batch_size=64, shuffle=True, generator=torch.Generator().manual_seed(0)
    )
    batches = list(loader)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.05)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=EPOCHS * len(batches))
    network.train()
    for _ in range(EPOCHS):
        for images, classes in batches:
            optimizer.zero_grad()
            loss(forward(network, images), classes).backward()
            optimizer.step()
            scheduler.step()
    network.eval()


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = UNet()
    train(network)
    save_file({k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}, WEIGHTS)
    images, classes = next(iter(DataLoader(Scenes(evaluation=True), batch_size=1000)))
    with torch.no_grad():
        statistics = METRIC.statistics(forward(network, images), classes)
    print(f"{sum(p.numel() for p in network.parameters()):,} params, {METRIC.name} {METRIC.value(statistics):.2f}")
