"""Networks of the kinds that come as files, and their exports."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional


class UNet(nn.Module):
    """Two steps down, one up by resizing and one by a transposed convolution, with joins."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.down2 = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
        self.up1 = nn.Conv2d(12, 12, 3, padding=1)
        self.up2 = nn.ConvTranspose2d(12, 8, 2, stride=2)
        self.out = nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = functional.max_pool2d(self.down2(functional.avg_pool2d(first, 2)), 2)
        wide = functional.interpolate(self.up1(second), scale_factor=2.0, mode="nearest")
        joined: Tensor = self.out(torch.cat([self.up2(wide), first], dim=1))
        return joined


class MobileNet(nn.Module):
    """Depthwise convolutions, values clipped to 0 to 6, and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.pointwise = nn.Conv2d(12, 12, 1)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self.bn(self.stem(x)))
        x = x + self.pointwise(functional.relu6(self.depthwise(x)))
        logits: Tensor = self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


class Attention(nn.Module):
    """Several heads, by matrix products."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = (f(x).view(n, length, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        weights = q @ k.transpose(-1, -2) / (width // self.heads) ** 0.5
        weights = weights.masked_fill(mask[:, None, None] == 0, -1e9).softmax(-1)
        mixed: Tensor = self.o((weights @ v).transpose(1, 2).reshape(n, length, width))
        return mixed


class Encoder(nn.Module):
    """A transformer's encoder on token ids and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(40, 16), nn.Embedding(12, 16)
        self.attention = Attention(16, 2)
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.wide, self.narrow = nn.Linear(16, 48), nn.Linear(48, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        x = self.norm1(x + self.attention(x, mask))
        x = self.norm2(x + self.narrow(functional.gelu(self.wide(x))))
        logits: Tensor = self.head(x[:, 0])
        return logits


class Patches(nn.Module):
    """Patches of an image with a token of their own, through torch's encoder layer, which puts the batch second."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 12, 4, 4)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 12)), nn.Parameter(torch.randn(1, 5, 12))
        self.layer = nn.TransformerEncoderLayer(12, 3, 24, activation="gelu", batch_first=True, norm_first=True)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.places
        logits: Tensor = self.head(self.layer(x)[:, 0])
        return logits


def mlp() -> nn.Module:
    """Three linear layers."""
    return nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 24), nn.ELU(), nn.Dropout(0.2), nn.Linear(24, 3))


def seeded(make: Any) -> nn.Module:
    """The network in eval mode, with weights as after some training: no two of its vectors are the same."""
    torch.manual_seed(0)
    model: nn.Module = make()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return model.eval()


@contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters print and warn of."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def exported(model: nn.Module, inputs: Sequence[Tensor], path: Path, kind: str, *, fixed: bool = False) -> Path:
    """A network as a file: by torch.export (pt2), the newer exporter to ONNX, or the older one."""
    dynamic: Any = None if fixed else tuple({0: Dim("batch")} for _ in inputs)
    path = path / f"{type(model).__name__.lower()}-{kind}{'-fixed' * fixed}.{'pt2' if kind == 'pt2' else 'onnx'}"
    with quiet():
        if kind == "pt2":
            torch.export.save(torch.export.export(model, tuple(inputs), dynamic_shapes=dynamic), path)
        elif kind == "newer":
            torch.onnx.export(model, tuple(inputs), path, dynamo=True, dynamic_shapes=dynamic, verbose=False)
        else:
            names = [f"input.{place}" for place in range(len(inputs))]
            axes = None if fixed else {name: {0: "batch"} for name in names}
            torch.onnx.export(
                model, tuple(inputs), str(path), dynamo=False, input_names=names, dynamic_axes=axes, opset_version=14
            )
    return path
