"""The zoo's digits: a residual network on scikit-learn's 1,797 handwritten digits, 8x8 pixels each.

Legend: N samples, C channels, H x W pixels.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn
from torch.nn import functional

from diminuendo.engine.task import Recipe, Samples, Task

CLASSES = 10
EVALUATION_SAMPLES = 800
PIXEL_MAX = 16.0
PIXEL_MEAN = 0.3053
PIXEL_STD = 0.3760
"""Mean and standard deviation of the pixels of all images, scaled to 0..1."""

BACKGROUND = (0.0 - PIXEL_MEAN) / PIXEL_STD
"""Value of an empty pixel after normalisation: what comes in at the border when an image is shifted."""

RECIPE = Recipe(rate=0.1, batch_size=64)
"""Of the recipes that leave the same divergence on the training images, the one that takes the least time."""

_WEIGHTS = "digits.safetensors"


class Block(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut (He et al. 2016, the basic block)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        """Narrow the image by `stride`; the shortcut is a 1x1 convolution where shapes change."""
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H / stride, W / stride)."""
        y: Tensor = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        out: Tensor = self.relu2(y + self.downsample(x))
        return out


class DigitsNet(nn.Module):
    """A residual network of 222,570 params for 8x8 grey images: stem and three blocks of growing width."""

    def __init__(self, widths: tuple[int, int, int] = (32, 64, 96)) -> None:
        """Channels of the three blocks."""
        super().__init__()
        first, second, third = widths
        self.conv = nn.Conv2d(1, first, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(first)
        self.relu = nn.ReLU()
        self.block1 = Block(first, first, stride=1)
        self.block2 = Block(first, second, stride=2)
        self.block3 = Block(second, third, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(third, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, 8, 8) -> (N, 10) logits."""
        x = self.relu(self.bn(self.conv(x)))
        x = self.block3(self.block2(self.block1(x)))
        logits: Tensor = self.fc(self.flatten(self.pool(x)))
        return logits


def network() -> DigitsNet:
    """The architecture, untrained."""
    return DigitsNet()


def data() -> tuple[Samples, Samples]:
    """997 training and 800 evaluation images, (N, 1, 8, 8) float32 normalised, and their (N,) int64 classes.

    The split is fixed and stratified: images are ordered by class and, within a class, by a hash of their
    number; evenly spaced ones of that order are for evaluation. It depends on no library's random numbers.
    """
    table = torch.from_numpy(np.loadtxt(_images(), delimiter=","))  # (1797, 64 + 1)
    targets = table[:, -1].to(torch.int64)
    scaled = table[:, :-1].to(torch.float32).reshape(-1, 1, 8, 8) / PIXEL_MAX
    samples = Samples((scaled - PIXEL_MEAN) / PIXEL_STD, targets)
    train, evaluation = _split(targets.tolist())
    return samples.take(train), samples.take(evaluation)


def _images() -> Path:
    """scikit-learn's file of them. To import scikit-learn takes a process nearly as long as to import torch."""
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'sklearn', whose images zoo:digits is of", name="sklearn")
    return Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"


def _split(classes: list[int]) -> tuple[Tensor, Tensor]:
    """Indices of the training and the evaluation images, ascending."""
    total = len(classes)
    order = sorted(range(total), key=lambda i: (classes[i], hashlib.sha256(b"digits:%d" % i).digest()))
    chosen = {
        i
        for place, i in enumerate(order)
        if (place + 1) * EVALUATION_SAMPLES // total > place * EVALUATION_SAMPLES // total
    }
    train = [i for i in range(total) if i not in chosen]
    return torch.tensor(train), torch.tensor(sorted(chosen))


def augment(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image by up to one pixel in each direction; background comes in at the border.

    Args:
        inputs: (N, 1, H, W) normalised images.
        generator: The only source of randomness.

    Returns:
        (N, 1, H, W), a new tensor.
    """
    n, _, height, width = inputs.shape
    shift = torch.randint(0, 3, (n, 2), generator=generator, device=generator.device).to(inputs.device)
    padded = functional.pad(inputs, (1, 1, 1, 1), value=BACKGROUND)
    rows = shift[:, :1] + torch.arange(height, device=inputs.device)  # (N, H)
    columns = shift[:, 1:] + torch.arange(width, device=inputs.device)  # (N, W)
    sample = torch.arange(n, device=inputs.device)[:, None, None]
    return padded[sample, 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)


def task() -> Task:
    """The trained network with its data."""
    model = network()
    content = resources.files(__package__).joinpath("weights", _WEIGHTS).read_bytes()
    model.load_state_dict(load_safetensors(content))
    model.eval()
    train, evaluation = data()
    return Task(
        model=model,
        train=train,
        evaluation=evaluation,
        augment=augment,
        recipe=RECIPE,
        name="digits",
        source="zoo:digits",
    )
