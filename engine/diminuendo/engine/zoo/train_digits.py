"""Trains the zoo's digits network by a recipe of its own.

The same seed gives the same bytes on the same machine and version of torch: on one thread, and with no random number
that does not come from the seed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from diminuendo.engine.task import Samples
from diminuendo.engine.zoo import digits

EPOCHS = 60
PEAK_RATE = 0.1
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
BATCH_SIZE = 50
EMA_DECAY = 0.99
LABEL_SMOOTHING = 0.05


def initialise(model: nn.Module, generator: torch.Generator) -> None:
    """He's normal initialisation (2015) of every convolution and linear layer, from the generator alone."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def train(model: nn.Module, samples: Samples, *, seed: int = 0, epochs: int = EPOCHS) -> dict[str, Tensor]:
    """Train from scratch: SGD with Nesterov momentum, one cosine cycle, label smoothing, average of weights.

    Args:
        model: Initialised anew and trained in place.
        samples: (N, ...) inputs and (N,) classes.
        seed: Of initialisation, order and augmentation.
        epochs: At least 1.

    Returns:
        State dict of the weights' moving average, with BatchNorm's running statistics of the last step.
    """
    generator = torch.Generator().manual_seed(seed)
    initialise(model, generator)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=PEAK_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True
    )
    steps = epochs * math.ceil(len(samples) / BATCH_SIZE)
    warm = max(1, steps // 10)
    average = {name: value.detach().clone() for name, value in model.named_parameters()}
    model.train()
    step = 0
    for _ in range(epochs):
        for index in torch.split(torch.randperm(len(samples), generator=generator), BATCH_SIZE):
            rate = step / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))
            for group in optimizer.param_groups:
                group["lr"] = PEAK_RATE * rate
            batch = samples.take(index)
            outputs = model(digits.augment(batch.inputs, generator))
            loss = functional.cross_entropy(outputs, batch.targets, label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
            decay = min(EMA_DECAY, step / (step + 10))
            with torch.no_grad():
                for name, value in model.named_parameters():
                    average[name].lerp_(value, 1 - decay)
    return {**model.state_dict(), **average}
