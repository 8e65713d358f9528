from __future__ import annotations

import pytest
import torch
from tests.engine.networks import fingerprint, images, small
from torch import Tensor, nn
from torch.nn import functional

from diminuendo.engine.profile import LayerProfile, profile


def test_a_small_network_by_hand() -> None:
    figures = profile(small(), images(4), time=False)
    assert figures.layers == (
        LayerProfile("conv1", "Conv2d", 144, 144 * 64),
        LayerProfile("bn1", "BatchNorm2d", 16, 2 * 8 * 64),
        # The ReLU module is called twice, on 8x8x8 and on 12x4x4; the functional one on `mix` counts nothing.
        LayerProfile("relu", "ReLU", 0, 8 * 64 + 12 * 16),
        LayerProfile("conv2", "Conv2d", 864, 864 * 16),
        LayerProfile("bn2", "BatchNorm2d", 24, 2 * 12 * 16),
        LayerProfile("mix", "Conv2d", 144, 144 * 16),
        LayerProfile("pool", "AdaptiveAvgPool2d", 0, 12 * 16),
        LayerProfile("fc", "Linear", 65, 12 * 5 + 5),
    )
    assert figures.params == 144 + 16 + 864 + 24 + 144 + 65
    assert figures.macs == 9216 + 1024 + 704 + 13824 + 384 + 2304 + 192 + 65
    # Input 128; conv1, bn1, relu 512 each; conv2, bn2, relu, mix 192 each; pool 12; drop 12; fc 5; the network 5.
    activations = 128 + 3 * 512 + 4 * 192 + 12 + 12 + 5 + 5
    assert figures.size_mb == pytest.approx(1257 * 4 / 2**20)
    assert figures.memory_mb == pytest.approx((1257 + activations) * 4 / 2**20)
    assert figures.time_ms is None
    assert figures.uncounted == ()


def test_biased_grouped_and_transposed_convolutions_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, groups=2),  # on 6x6: 8*36 outputs, each 9*2 + 1
        nn.ConvTranspose2d(8, 2, 2, stride=2),  # 8*36 inputs, each 2*2*2; 2*144 biases
        nn.Conv1d(1, 1, 1, bias=False),
    )
    figures = profile(nn.Sequential(model[0], model[1]), torch.zeros(1, 4, 6, 6), time=False)
    assert [layer.macs for layer in figures.layers] == [8 * 36 * 19, 8 * 36 * 8 + 2 * 144]
    assert profile(nn.Sequential(model[2]), torch.zeros(1, 1, 5), time=False).macs == 5


def test_sequential_and_module_lists_are_transparent_for_memory() -> None:
    flat, nested = nn.Sequential(nn.Linear(3, 3)), nn.Sequential(nn.Sequential(nn.Sequential(nn.Linear(3, 3))))
    x = torch.zeros(1, 3)
    assert profile(flat, x, time=False).memory_mb == profile(nested, x, time=False).memory_mb


def test_frozen_and_shared_parameters() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    second.bias.requires_grad_(False)
    figures = profile(nn.Sequential(first, second), torch.zeros(1, 4), time=False)
    assert figures.params == 16 + 4
    assert [layer.params for layer in figures.layers] == [20, 0]
    assert figures.macs == 2 * 20


def test_half_precision_is_half_the_size() -> None:
    model = nn.Sequential(nn.Linear(512, 512, bias=False)).to(torch.bfloat16)
    assert profile(model, torch.zeros(1, 512, dtype=torch.bfloat16), time=False).size_mb == 0.5


def test_kinds_without_a_rule_are_named() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.LayerNorm(4), nn.Identity())
    assert profile(model, torch.zeros(1, 4), time=False).uncounted == ("GELU", "LayerNorm")


def test_one_sample_is_profiled_and_the_network_is_left_as_it_was() -> None:
    model = small()
    before = fingerprint(model)
    many, one = profile(model, images(7), runs=3), profile(model, images(1), runs=3)
    assert (many.macs, many.memory_mb) == (one.macs, one.memory_mb)
    assert many.time_ms is not None
    assert many.time_ms > 0
    assert fingerprint(model) == before


class Basic(nn.Module):
    """ResNet's basic block; its ReLUs are functional, as in the network of the published table."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            conv = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet18 for 32x32 images and 100 classes: 3x3 stem with stride 1, no max-pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)
        blocks: list[nn.Module] = []
        channels = 64
        for stage, width in enumerate((64, 128, 256, 512)):
            for block in range(2):
                blocks.append(Basic(channels, width, 2 if stage and not block else 1))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(512, 100)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(functional.relu(self.bn1(self.conv1(x))))
        logits: Tensor = self.linear(functional.avg_pool2d(x, 4).flatten(1))
        return logits


def test_resnet18_is_as_published() -> None:
    figures = profile(ResNet18(), torch.zeros(1, 3, 32, 32), time=False)
    assert figures.params == 11_220_132
    assert figures.macs / 1e9 == pytest.approx(0.5567, abs=5e-5)
    assert figures.memory_mb == pytest.approx(48.4389, abs=5e-5)
