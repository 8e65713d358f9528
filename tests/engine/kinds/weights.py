"""Layers whose weights are shared, read from outside, computed, quantized, frozen or not there yet."""

from __future__ import annotations

import types
from typing import Any, ClassVar

import torch
from tests.engine.kinds.entry import Entry, normal, tokens
from torch import Tensor, nn
from torch.nn import functional


class Two(nn.Module):
    """Two layers one after the other; others say what else is done with the first."""

    def __init__(self, first: nn.Module | None = None) -> None:
        super().__init__()
        self.fc: Any = nn.Linear(8, 8) if first is None else first
        self.head = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.fc(x).relu())  # type: ignore[no-any-return]


class Twice(Two):
    """Calls the first layer twice."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.fc(x))


class Alias(Two):
    """Has the first layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.same, self.listed = self.fc, nn.ModuleList([self.fc])

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.listed[0](self.same(x)))


class Tied(Two):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(8, 8)
        self.other.weight = self.fc.weight

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.other(x))


class SameMemory(Tied):
    """Two layers whose weights are different parameters in the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.other.weight = nn.Parameter(self.fc.weight.data)


class Language(nn.Module):
    """A decoder that is tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.body, self.decoder = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 20, bias=False)
        self.decoder.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.body(self.embedding(x)))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """`nn.MultiheadAttention`, which uses the weights of its output layer without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x)[0])  # type: ignore[no-any-return]


class Reads(Two):
    """Computes with the weight itself, too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.linear(x, self.fc.weight))


class ReadsTransposed(Two):
    """Computes with a view of the weight, and never calls the layer."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x @ self.fc.weight.T)  # type: ignore[no-any-return]


class Listed(Two):
    """Keeps the weight in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = [self.fc.weight]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.kept[0].T.mean()  # type: ignore[no-any-return]


class Detached(Two):
    """Keeps the weight's memory under another tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = {"data": self.fc.weight.data[:2]}

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.kept["data"].mean()  # type: ignore[no-any-return]


class Asks(Two):
    """Asks for the weight's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.fc.weight.dtype))


class AsksMore(nn.Module):
    """Asks a convolution for its geometry, and whether it has a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 8, 3, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        height, _ = self.conv.kernel_size
        pad = max(height - self.conv.stride[0], 0)
        shift = 0.0 if self.conv.bias is None else 1.0
        found: Tensor = self.conv(functional.pad(x, (0, pad, 0, pad)))
        return found + shift + self.conv.weight.shape[0] + self.conv.weight.ndim


class AsksKind(Two):
    """Asks what the layer is, and goes another way for a linear one."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * 2 if isinstance(self.fc, nn.Linear) else x)


class BoundForward(Two):
    """Calls the layer's forward, not the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.run = self.fc.forward

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.run(x))  # type: ignore[no-any-return]


class Hidden(nn.Module):
    """Two bad layers among many good ones."""

    asked: ClassVar[tuple[int, int]] = (3, 10)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(14))

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            if index in self.asked:
                x = x + layer.reset_parameters.__qualname__.count("z")  # type: ignore[operator, union-attr]
            x = layer(x).relu() + x
        return x


class DropsConnections(Two):
    """Computes with the weight itself, in training only."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.head(functional.linear(x, functional.dropout(self.fc.weight)).relu())  # type: ignore[no-any-return]
        return super().forward(x)


class Masks(AsksKind):
    """As `AsksKind`, and among its outputs are infinities and what stands for them."""

    def forward(self, x: Tensor) -> Tensor:
        found = super().forward(x)
        return torch.cat([found, found[:, :2] - torch.inf, found[:, :2] + torch.finfo(x.dtype).min], dim=1)


def encoder(**options: Any) -> nn.Module:
    return nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **options), nn.Linear(8, 6))


class Masked(nn.Module):
    """`nn.TransformerEncoder`, which asks its layers for their weights."""

    def __init__(self, *, pooled: bool) -> None:
        super().__init__()
        self.pooled = pooled
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.arange(x.shape[1]).expand(len(x), -1) > 3
        found: Tensor = self.encoder(x, src_key_padding_mask=mask)
        return found.mean(dim=1) if self.pooled else found[:, :4]


FLAT = normal(8)


def doubled(layer: nn.Linear, x: Tensor) -> Tensor:
    return functional.linear(x, layer.weight, layer.bias) * 2


def patched() -> nn.Module:
    model = Two()
    model.fc.forward = types.MethodType(doubled, model.fc)
    return model


ENTRIES = (
    Entry("called twice", Twice, FLAT, ("fc", "head")),
    Entry("under two names", Alias, FLAT, ("fc", "head")),
    Entry("tied linear layers", Tied, FLAT, ("head",), {"fc|other": "shares weights"}),
    Entry("weights in the same memory", SameMemory, FLAT, ("head",), {"fc|other": r"uses its weight \(linear\)"}),
    Entry(
        "decoder tied to embedding",
        Language,
        tokens(5, 20),
        ("body",),
        {"embedding": "no format for Embedding", "decoder": "shares weights"},
    ),
    Entry(
        "MultiheadAttention",
        Attention,
        normal(5, 8),
        ("head",),
        {"attention": "no format for MultiheadAttention", "attention.out_proj": "uses its weight"},
    ),
    Entry(
        "TransformerEncoderLayer",
        encoder,
        normal(5, 8),
        ("0.linear1", "0.linear2", "1"),
        {"0.self_attn": "no format", "0.self_attn.out_proj": "uses its weight"},
    ),
    Entry(
        "TransformerEncoder with a padding mask",
        lambda: Masked(pooled=False),
        normal(5, 8),
        (
            "encoder.layers.0.linear1",
            "encoder.layers.0.linear2",
            "encoder.layers.1.linear1",
            "encoder.layers.1.linear2",
        ),
        {r".*\.self_attn": "no format", r".*\.out_proj": "uses its weight"},
        warnings=("The PyTorch API of nested tensors",),
    ),
    Entry(  # its fast path has zeros where the mask is, and they are counted
        "TransformerEncoder, padding pooled",
        lambda: Masked(pooled=True),
        normal(5, 8),
        (),
        {r".*\.self_attn": "no format", r".*\.out_proj": "uses its weight", r".*\.linear.": "gives other outputs"},
        warnings=("The PyTorch API of nested tensors",),
    ),
    Entry(
        "TransformerEncoderLayer without a fast path",
        lambda: encoder(norm_first=True, activation=nn.SiLU()),
        normal(5, 8),
        ("0.linear1", "0.linear2", "1"),
        {"0.self_attn": "no format", "0.self_attn.out_proj": "uses its weight"},
    ),
    Entry("weight read and called", Reads, FLAT, ("head",), {"fc": r"uses its weight \(linear\)"}),
    Entry("weight read through a view", ReadsTransposed, FLAT, ("head",), {"fc": r"uses its weight \(T\)"}),
    Entry("weight kept in a list", Listed, FLAT, ("head",), {"fc": r"uses its weight \(T\)"}),
    Entry("memory of a weight kept", Detached, FLAT, ("head",), {"fc": r"uses its weight \(mean\)"}),
    Entry("asks for the dtype", Asks, FLAT, ("fc", "head")),
    Entry("asks for the geometry", AsksMore, normal(6, 7, 7), ("conv",)),
    Entry("forward replaced by a function", patched, FLAT, ("head",), {"fc": "its forward was replaced"}),
    Entry("weight read in training", DropsConnections, FLAT, ("head",), {"fc": "on what it is in training: TypeError"}),
    Entry("asks for the kind, outputs masked", Masks, FLAT, ("head",), {"fc": "gives other outputs when it"}),
    Entry("asks for the kind", AsksKind, FLAT, ("head",), {"fc": "gives other outputs when it is replaced"}),
    Entry("forward called by itself", BoundForward, FLAT, ("head",), {"fc": r"uses its weight \(linear\)"}),
    Entry(
        "two bad ones among many",
        Hidden,
        FLAT,
        tuple(f"layers.{index}" for index in range(14) if index not in Hidden.asked),
        {r"layers\.(3|10)": "AttributeError: 'Sequential' object has no attribute 'reset_parameters'$"},
    ),
)
