"""Trains the fleet's networks and writes a bundle for each: ``python examples/fleet/make.py``, half a minute."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from nets import data, loss_of, network
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).parent
EPOCHS = 60
MODELS = {
    "iris": ("iris", 64, 2),
    "wine": ("wine", 96, 2),
    "breast-cancer": ("breast_cancer", 96, 2),
    "breast-cancer-deep": ("breast_cancer", 64, 4),
    "diabetes": ("diabetes", 96, 2),
    "digits-narrow": ("digits", 64, 2),
    "digits-wide": ("digits", 256, 2),
    "digits-deep": ("digits", 96, 4),
    "digits-parity": ("digits_parity", 128, 2),
}
"""Data, width and depth of each bundle."""

TASK = '''"""Written by make.py: a perceptron on scikit-learn's {data}."""

from nets import task_of

from diminuendo.engine import Task


def task() -> Task:
    """See `task_of`."""
    return task_of("{data}", width={width}, depth={depth})
'''
BROKEN = '''"""Written by make.py, and broken on purpose: it asks for a table that its data does not have."""

from sklearn.datasets import load_wine

from diminuendo.engine import Task


def task() -> Task:
    """Never gets there."""
    return load_wine()["vineyards"]
'''


def train(name: str, net: nn.Module) -> None:
    """AdamW with one cycle."""
    samples, _ = data(name)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05)
    for _ in range(EPOCHS):
        for index in torch.randperm(len(samples), generator=generator).split(32):
            batch = samples.take(index)
            optimizer.zero_grad()
            loss_of(name)(net(batch.inputs), batch.targets).backward()
            optimizer.step()


def main(out: Path) -> None:
    """Write every bundle anew."""
    torch.set_num_threads(1)
    for folder, (name, width, depth) in MODELS.items():
        torch.manual_seed(0)
        net = network(name, width, depth)
        train(name, net)
        bundle = out / folder
        bundle.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(HERE / "nets.py", bundle / "nets.py")
        (bundle / "task.py").write_text(TASK.format(data=name, width=width, depth=depth))
        save_file(net.state_dict(), bundle / "weights.safetensors")
        print(f"{bundle}: {sum(p.numel() for p in net.parameters()):,} params")
    broken = out.parent / "broken"
    broken.mkdir(parents=True, exist_ok=True)
    (broken / "task.py").write_text(BROKEN)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "nets")
