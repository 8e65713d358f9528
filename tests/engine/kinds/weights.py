"""Layers whose weights are shared, read from outside, computed, quantized, frozen or not there yet."""

from __future__ import annotations

import types
from typing import Any, ClassVar

import torch
from tests.engine.kinds.entry import Entry, normal, tokens
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

PARAMETRIZED = "weights are parametrized"
BY_HOOK = "computed by a hook"


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


class Plain(nn.Linear):
    """A linear layer with a name of its own."""

    def extra_repr(self) -> str:
        return "plain"


class Doubled(nn.Linear):
    """A linear layer with a forward of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


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


class Unused(Two):
    """Has a branch that is not taken."""

    def __init__(self) -> None:
        super().__init__()
        self.aside = nn.Sequential(nn.Linear(8, 8), nn.ReLU())


class Recurrent(nn.Module):
    """An LSTM and a GRU beside linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.gru, self.head = nn.Linear(6, 8), nn.LSTM(8, 8), nn.GRU(8, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.lstm(self.embed(x).movedim(1, 0))
        hidden, _ = self.gru(hidden)
        return self.head(hidden.movedim(0, 1))  # type: ignore[no-any-return]


class Parameters(nn.Module):
    """Weights in a ParameterList and a ParameterDict, beside a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ParameterList([torch.ones(8), torch.zeros(8)])
        self.named, self.fc = nn.ParameterDict({"shift": torch.zeros(6)}), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x * self.scales[0] + self.scales[1]) + self.named["shift"]  # type: ignore[no-any-return]


def pruned() -> nn.Module:
    model = Two()
    prune.random_unstructured(model.fc, "weight", amount=0.5)  # type: ignore[no-untyped-call]
    return model


def frozen() -> nn.Module:
    model = Two()
    model.fc.requires_grad_(False)
    return model


def frozen_bias() -> nn.Module:
    model = Two()
    model.head.bias.requires_grad_(False)
    return model


def sparse() -> nn.Module:
    model = Two(nn.Linear(8, 8, bias=False))
    model.fc.weight = nn.Parameter(prune.RandomUnstructured(0.7).prune(model.fc.weight.detach()).to_sparse_csr())  # type: ignore[no-untyped-call]
    return model


def lazy() -> nn.Module:
    model = nn.Sequential(nn.LazyConv2d(6, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(8))
    model(torch.randn(2, 3, 6, 6))
    return model


def dynamically_quantized() -> nn.Module:
    torch.backends.quantized.engine = "qnnpack" if "qnnpack" in torch.backends.quantized.supported_engines else "fbgemm"
    inner = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(8, 8)), {nn.Linear})  # type: ignore[no-untyped-call]
    return Two(inner)


def being_quantized() -> nn.Module:
    from torch.ao.nn.qat import Linear
    from torch.ao.quantization import get_default_qat_qconfig

    return Two(Linear(8, 8, qconfig=get_default_qat_qconfig("fbgemm")))  # type: ignore[no-untyped-call]


def scripted() -> nn.Module:
    return Two(torch.jit.script(nn.Sequential(nn.Linear(8, 8))))


def with_graph() -> nn.Module:
    return torch.fx.symbolic_trace(Two())


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
    Entry("sparse", sparse, FLAT, ("head",), {"fc": "its weight is sparse"}, warnings=("Sparse CSR tensor support",)),
    Entry("asks for the kind", AsksKind, FLAT, ("head",), {"fc": "gives other outputs when it is replaced"}),
    Entry("forward called by itself", BoundForward, FLAT, ("head",), {"fc": r"uses its weight \(linear\)"}),
    Entry(
        "two bad ones among many",
        Hidden,
        FLAT,
        tuple(f"layers.{index}" for index in range(14) if index not in Hidden.asked),
        {r"layers\.(3|10)": "AttributeError: 'Sequential' object has no attribute 'reset_parameters'$"},
    ),
    Entry(
        "weight norm", lambda: Two(parametrizations.weight_norm(nn.Linear(8, 8))), FLAT, ("head",), {"fc": PARAMETRIZED}
    ),
    Entry(
        "weight norm, old",
        lambda: Two(nn.utils.weight_norm(nn.Linear(8, 8))),
        FLAT,
        ("head",),
        {"fc": BY_HOOK},
        warnings=(".*weight_norm.* is deprecated",),
    ),
    Entry(
        "spectral norm",
        lambda: Two(parametrizations.spectral_norm(nn.Linear(8, 8))),
        FLAT,
        ("head",),
        {"fc": PARAMETRIZED},
    ),
    Entry("spectral norm, old", lambda: Two(nn.utils.spectral_norm(nn.Linear(8, 8))), FLAT, ("head",), {"fc": BY_HOOK}),
    Entry("pruned", pruned, FLAT, ("head",), {"fc": BY_HOOK}),
    Entry(
        "dynamically quantized",
        dynamically_quantized,
        FLAT,
        ("head",),
        {r"fc\.0": "weights are quantized"},
        warnings=(".*torch.ao.quantization.*", ".*"),
    ),
    Entry(
        "being quantized", being_quantized, FLAT, ("head",), {"fc": "quantized|forward of its own"}, warnings=(".*",)
    ),
    Entry(
        "LSTM and GRU", Recurrent, normal(5, 6), ("embed", "head"), {"lstm": "format for LSTM", "gru": "format for GRU"}
    ),
    Entry("lazy, after a run", lazy, normal(3, 6, 6), ("0", "3"), warnings=("Lazy modules are a new feature",)),
    Entry("frozen", frozen, FLAT, ("head",), {"fc": "frozen"}),
    Entry("frozen bias", frozen_bias, FLAT, ("fc", "head")),
    Entry("unused branch", Unused, FLAT, ("fc", "head"), {r"aside\.0": "not called"}),
    Entry("subclass", lambda: Two(Plain(8, 8)), FLAT, ("fc", "head")),
    Entry("subclass with a forward", lambda: Two(Doubled(8, 8)), FLAT, ("head",), {"fc": "forward of its own"}),
    Entry("scripted part", scripted, FLAT, ("head",), {r"fc\.0": "no format"}, warnings=(".*torch.jit.*",)),
    Entry("traced by fx", with_graph, FLAT, ("fc", "head")),
    Entry(
        "parameter containers",
        Parameters,
        FLAT,
        ("fc",),
        {"scales": "format for ParameterList", "named": "format for ParameterDict"},
    ),
)
