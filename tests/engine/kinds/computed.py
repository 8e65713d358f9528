"""Layers whose weights are computed, quantized, frozen, sparse, of another kind or not there yet."""

from __future__ import annotations

import torch
from tests.engine.kinds.entry import Entry, normal
from tests.engine.kinds.weights import Two
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

FLAT = normal(8)
PARAMETRIZED = "weights are parametrized"
BY_HOOK = "computed by a hook"
DEPRECATED = r"[\s\S]*deprecated"


class Plain(nn.Linear):
    """A linear layer with a name of its own."""

    def extra_repr(self) -> str:
        return "plain"


class Doubled(nn.Linear):
    """A linear layer with a forward of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


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


ENTRIES = (
    Entry("sparse", sparse, FLAT, ("head",), {"fc": "its weight is sparse"}, warnings=("Sparse CSR tensor support",)),
    Entry(
        "weight norm", lambda: Two(parametrizations.weight_norm(nn.Linear(8, 8))), FLAT, ("head",), {"fc": PARAMETRIZED}
    ),
    Entry(
        "weight norm, old",
        lambda: Two(nn.utils.weight_norm(nn.Linear(8, 8))),
        FLAT,
        ("head",),
        {"fc": BY_HOOK},
        warnings=(DEPRECATED,),
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
        warnings=(DEPRECATED,),
    ),
    Entry(
        "being quantized",
        being_quantized,
        FLAT,
        ("head",),
        {"fc": "quantized|forward of its own"},
        warnings=(DEPRECATED,),
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
    Entry("scripted part", scripted, FLAT, ("head",), {r"fc\.0": "no format"}, warnings=(DEPRECATED,)),
    Entry("traced by fx", with_graph, FLAT, ("fc", "head")),
    Entry(
        "parameter containers",
        Parameters,
        FLAT,
        ("fc",),
        {"scales": "format for ParameterList", "named": "format for ParameterDict"},
    ),
)
