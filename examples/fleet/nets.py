"""Small networks on the data that comes with scikit-learn, for a fleet: each is a data set, a width and a depth."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from sklearn import datasets
from torch import Tensor, nn
from torch.nn import functional

from diminuendo.engine import Recipe, Samples, Task, metrics

WEIGHTS = Path(__file__).with_name("weights.safetensors")


def data(name: str) -> tuple[Samples, Samples]:
    """One half of a data set to train with, and one that the network never sees: columns of unit variance."""
    load: Callable[..., tuple[object, object]] = getattr(datasets, f"load_{name.removesuffix('_parity')}")
    columns, wanted = (torch.as_tensor(each) for each in load(return_X_y=True))
    inputs = columns.to(torch.float32)
    inputs = (inputs - inputs.mean(dim=0)) / inputs.std(dim=0).clamp(min=1e-3)
    if name == "diabetes":
        targets = (wanted.to(torch.float32).unsqueeze(1) - 152.0) / 77.0
    else:
        targets = wanted.to(torch.int64) % 2 if name.endswith("_parity") else wanted.to(torch.int64)
    everything = Samples(inputs, targets)
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))
    half = len(everything) // 2
    return everything.take(order[:half]), everything.take(order[half:])


def network(name: str, width: int, depth: int) -> nn.Sequential:
    """A perceptron with `depth` hidden layers of `width`; untrained."""
    train, _ = data(name)
    outputs = 1 if name == "diabetes" else int(train.targets.max()) + 1
    sizes = [train.inputs.shape[1], *[width] * depth]
    hidden = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, outputs))


def loss_of(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy of classes, the mean squared error of a number."""
    return functional.mse_loss if name == "diabetes" else functional.cross_entropy


def task_of(name: str, *, width: int, depth: int) -> Task:
    """The trained network of a bundle and its data; judged by top-1 accuracy, of diabetes by the rmse."""
    model = network(name, width, depth)
    model.load_state_dict(load_file(WEIGHTS))
    train, evaluation = data(name)
    task = functools.partial(Task, model=model.eval(), train=train, evaluation=evaluation, name=name)
    if name == "diabetes":
        recipe = Recipe(rate=0.02, batch_size=32)
        return task(loss=loss_of(name), metric=metrics.rmse(), logits=lambda outputs: outputs, recipe=recipe)
    return task(recipe=Recipe(rate=0.05, batch_size=32))
