"""ResNets (He et al. 2016) for 32x32 images, and ResNet18 as for ImageNet.

ReLU and the last pooling of the networks for 32x32 images are functional calls, as in the networks that are usually
measured: the profiler counts nothing for those.

Legend: N samples, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        """Narrow the image by `stride`; the shortcut is a 1x1 convolution where shapes change."""
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C, H / stride, W / stride)."""
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with BatchNorm and a shortcut; the 3x3 one has the stride."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        """Narrow the image by `stride`; out come four times `channels`."""
        super().__init__()
        wide = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, wide, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(wide)
        self.downsample = _shortcut(in_channels, wide, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, 4 C, H / stride, W / stride)."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        return functional.relu(self.bn3(self.conv3(y)) + self.downsample(x))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Nothing where the shape stays, else a 1x1 convolution with BatchNorm."""
    if stride == 1 and in_channels == out_channels:
        return nn.Sequential()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class ResNet(nn.Module):
    """Four stages of blocks, each after the first at half the resolution and twice the width."""

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, block: type[BasicBlock | Bottleneck], depths: Sequence[int], classes: int) -> None:
        """`depths` are the numbers of blocks of the four stages."""
        super().__init__()
        self._stem()
        channels = 64
        for stage, depth in enumerate(depths):
            width = 64 * 2**stage
            blocks: list[nn.Module] = []
            for number in range(depth):
                blocks.append(block(channels, width, 2 if stage and not number else 1))
                channels = width * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self._head(channels, classes)

    def _stem(self) -> None:
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)

    def _head(self, channels: int, classes: int) -> None:
        self.fc = nn.Linear(channels, classes)

    def stages(self, x: Tensor) -> Tensor:
        """(N, 64, H, W) -> (N, C, H / 8, W / 8)."""
        x = self.layer2(self.layer1(x))
        out: Tensor = self.layer4(self.layer3(x))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) -> (N, K) logits."""
        x = self.stages(functional.relu(self.bn1(self.conv1(x))))
        logits: Tensor = self.fc(functional.avg_pool2d(x, 4).flatten(1))
        return logits


class ImageNetResNet(ResNet):
    """The usual ResNet for 224x224 images: a 7x7 stem with stride 2, then max-pooling."""

    def _stem(self) -> None:
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)

    def _head(self, channels: int, classes: int) -> None:
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        super()._head(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, K) logits; H and W are usually 224."""
        x = self.stages(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def resnet18(classes: int) -> ResNet:
    """ResNet18 for 32x32 images: a 3x3 stem with stride 1, no max-pooling."""
    return ResNet(BasicBlock, (2, 2, 2, 2), classes)


def resnet50(classes: int) -> ResNet:
    """ResNet50 for 32x32 images: a 3x3 stem with stride 1, no max-pooling."""
    return ResNet(Bottleneck, (3, 4, 6, 3), classes)


def resnet18_imagenet(classes: int) -> ImageNetResNet:
    """ResNet18 for 224x224 images."""
    return ImageNetResNet(BasicBlock, (2, 2, 2, 2), classes)
