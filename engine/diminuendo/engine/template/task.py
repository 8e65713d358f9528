"""Tells Diminuendo what to compress: change `task` below until it describes your network. README.md says how to run it.

It runs as it stands, on 1,797 handwritten digits that come with scikit-learn. Everything that is commented out is
optional: uncomment what you need.
"""

from __future__ import annotations

from pathlib import Path

import torch
from network import Network
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from diminuendo.engine import Samples, Task

# from diminuendo.engine import Metric, Recipe, SetMetric, metrics
# from torch import nn
# from torch.nn import functional

WEIGHTS = Path(__file__).with_name("weights.safetensors")


def data() -> tuple[Samples, Samples]:
    """Data to train with, and data that the network was not trained on.

    `Samples` is data in memory: inputs (N, ...) and targets (N, ...). Where the network takes several inputs, give a
    tuple (positional arguments) or a dict (keyword arguments) of tensors. Targets may be dicts or tuples, too. In
    place of Samples you may return a torch Dataset or DataLoader that gives (input, target): large data is streamed.
    """
    pixels, classes = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).to(torch.float32).reshape(-1, 1, 8, 8) / 16
    everything = Samples(images, torch.from_numpy(classes).to(torch.int64))
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))
    return everything.take(order[800:]), everything.take(order[:800])


# What your network is trained to make small: one number, or a dict of numbers that are added up.
# It is given what the network returns in training mode. Without it: cross-entropy of logits and class numbers.
#
# def loss(outputs, targets):
#     return {"smoothed": functional.cross_entropy(outputs, targets, label_smoothing=0.1)}


# What you are not willing to lose: `delta` is in its points. Without it: top-1 accuracy, 0 to 100.
# It is given what the network returns in eval mode. There are three ways to have your own.
#
# 1. A ready-made one: metrics.rmse(), .mean_iou(classes), .f1(...), .auc(), .perplexity().
#
# METRIC = metrics.auc()
#
# 2. One value for each sample, of which the mean is meant:
#
# def score(outputs, targets):
#     return 100.0 * (outputs.argmax(dim=1) == targets)  # (N,)
#
# METRIC = Metric("accuracy", score, higher_is_better=True)
#
# 3. A figure of all samples together, for what is no mean. `statistics` tells what each sample adds, (N, ...);
#    `value` makes the figure of any number of them:
#
# def statistics(outputs, targets):
#     return (outputs - targets).square()
#
# def value(squares):
#     return float(squares.mean().sqrt())
#
# METRIC = SetMetric("RMSE", statistics=statistics, value=value, higher_is_better=False)


# Random changes of a training batch. All randomness has to come from the generator.
#
# def augment(inputs, generator):
#     return inputs + 0.05 * torch.randn(inputs.shape, generator=generator, device=generator.device).to(inputs.device)


# What steps on the weights when a candidate is tuned. Without it: momentum, by the recipe.
#
# def optimizer(parameters):
#     return torch.optim.AdamW(parameters, lr=1e-3)


# How the optimizer's rate changes; called once after each of so many steps. Without it: up, and down along a cosine.
#
# def scheduler(optimizer, steps):
#     return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)


# How the network is run on a batch of inputs. Without it: network(inputs), network(*tuple) or network(**dict).
#
# def forward(network, inputs):
#     return network(inputs / 255)


# A training loop of your own in place of Diminuendo's, for what loss, optimizer and augment cannot express. It trains
# the network in place for fit.epochs passes, with learning rates multiplied by fit.rate. There are also fit.seed,
# fit.start (passes before), fit.train (your training data), fit.device, fit.teacher(inputs) (logits of the original
# network), fit.loss(network, inputs, targets) (what Diminuendo's own loop makes small), fit.batches(size).
#
# def fit(network, fit):
#     steps = torch.optim.AdamW(network.parameters(), lr=1e-3 * fit.rate)
#     network.train()
#     for batch in fit.batches(64):
#         steps.zero_grad()
#         fit.loss(network, batch.inputs, batch.targets).backward()
#         steps.step()


def task() -> Task:
    """The trained network, its data, and what it is judged by. Diminuendo calls this function."""
    network = Network()
    network.load_state_dict(load_file(WEIGHTS))  # or torch.load("weights.pt", weights_only=True)
    train, evaluation = data()
    return Task(
        model=network.eval(),
        train=train,
        evaluation=evaluation,
        name="my network",
        # loss=loss,
        # metric=METRIC,
        # augment=augment,
        # optimizer=optimizer,
        # scheduler=scheduler,
        # forward=forward,
        # fit=fit,
        #
        # Candidates learn from your network, too: their outputs are held against its outputs. Say which part of the
        # outputs that is, with the classes as dimension 1. Without it: the outputs, or what is called "logits" in them.
        # A language model with outputs (N, T, C): lambda outputs: outputs.flatten(0, 1)
        # A regression with outputs (N, 1): lambda outputs: outputs; with outputs (N, K): outputs.unsqueeze(1)
        # logits=lambda outputs: outputs["logits"],
        #
        # How candidates are tuned when there is neither optimizer nor fit: learning rate, batch size, and more.
        # recipe=Recipe(rate=0.02, batch_size=128),
    )
