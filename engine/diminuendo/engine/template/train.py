"""Trains the network and writes weights.safetensors: ``python train.py``.

Diminuendo starts from a trained network and never runs this file: remove it when you have weights.
"""

from __future__ import annotations

import torch
from network import Network
from safetensors.torch import save_file
from task import WEIGHTS, data
from torch.nn import functional

EPOCHS = 40


def main() -> None:
    """Train, save, and tell the accuracy on the evaluation data."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = Network()
    train, evaluation = data()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.05)
    steps = EPOCHS * -(-len(train) // 64)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for index in torch.randperm(len(train)).split(64):
            batch = train.take(index)
            outputs = network(batch.inputs)
            optimizer.zero_grad()
            functional.cross_entropy(outputs, batch.targets, label_smoothing=0.1).backward()
            optimizer.step()
            scheduler.step()
    network.eval()
    save_file({k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}, WEIGHTS)
    with torch.no_grad():
        hits = network(evaluation.inputs).argmax(dim=1) == evaluation.targets
    print(f"accuracy {100 * float(hits.float().mean()):.2f} on {len(evaluation)} images")


if __name__ == "__main__":
    main()
