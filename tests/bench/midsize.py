"""The mid-size network of the search benchmarks: a ResNet of 2.8 M params on CIFAR-100, at half the resolution.

``python -m tests.bench.midsize --data DIR`` trains it anew: a short cycle, some 20 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from diminuendo.engine.task import Samples, Task
from diminuendo.engine.zoo import checkpoint, cifar
from diminuendo.engine.zoo.catalog import Source
from diminuendo.engine.zoo.recipes import RECIPES
from diminuendo.engine.zoo.resnet import BasicBlock
from diminuendo.engine.zoo.tasks import CIFAR_RECIPE
from diminuendo.engine.zoo.training import Settings, Training, fresh

WEIGHTS = Path(__file__).parent / "weights" / "midsize.safetensors"
CLASSES = 100
WIDTH = 32
BLOCKS = 2
EPOCHS = 20


class Midsize(nn.Module):
    """A ResNet with 4 stages of 2 blocks, half as wide as ResNet18, whose stem halves the resolution."""

    def __init__(self) -> None:
        """Layers with torch's random weights."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTH)
        channels, stages = WIDTH, []
        for stage in range(4):
            wide = WIDTH * 2**stage
            blocks: list[nn.Module] = []
            for number in range(BLOCKS):
                blocks.append(BasicBlock(channels, wide, 2 if stage and not number else 1))
                channels = wide
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) -> (N, 100) logits."""
        x = self.stages(functional.relu(self.bn1(self.conv1(x))))
        logits: Tensor = self.fc(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def data(folder: Path) -> tuple[Samples, Samples]:
    """CIFAR-100's training and test images."""
    return cifar.load(folder, Source.parse("resnet18"))


def task(folder: Path, *, samples: int | None = None) -> Task:
    """The trained network with its data.

    Args:
        folder: Has CIFAR-100 as parquet files.
        samples: At most so many training images, the first ones; an epoch of a search is then that long.
    """
    from safetensors.torch import load_file

    model = Midsize()
    model.load_state_dict({name: value.to(torch.float32) for name, value in load_file(WEIGHTS).items()}, strict=False)
    train, evaluation = data(folder)
    return Task(
        model=model.eval(),
        train=train if samples is None else train.take(slice(0, samples)),
        evaluation=evaluation,
        augment=cifar.augment,
        recipe=CIFAR_RECIPE,
        name="midsize",
    )


def main() -> None:
    """Train the network and write its weights as float16."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of CIFAR-100's parquet files")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    arguments = parser.parse_args()
    train, test = data(arguments.data)
    recipe = replace(RECIPES["short"], epochs=EPOCHS)
    training = Training(
        fresh(Midsize, 0), train, test, Settings("bench:midsize", recipe, 0, False, len(train)), cifar.augment
    )
    training.run(on_epoch=lambda epoch: print(epoch, flush=True))
    state = checkpoint.halved(training.model.state_dict())
    about = {"top1": f"{training.progress.epochs[-1].test_top1:.2f}", "epochs": str(EPOCHS), "seed": "0"}
    checkpoint.write_weights(arguments.out, state, about)


if __name__ == "__main__":
    main()
