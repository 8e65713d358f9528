"""What goes in, what comes out, what is around and beside: inputs, outputs, hooks, modes, types, wrappers."""

from __future__ import annotations

import random
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tests.engine.kinds.entry import SAMPLES, Entry, normal
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from diminuendo.engine.plan import Choice, Plan
from diminuendo.engine.surgery import build

FLAT = normal(8)
BOTH = ("fc", "head")


class Flow(nn.Module):
    """Two linear layers; a function says what is done with them."""

    def __init__(self, run: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(8, 8), nn.Linear(8, 6)
        self.run = run

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.run is None:
            return self.head(self.fc(*args).relu())
        return self.run(self, *args, **kwargs)


def flow(name: str, run: Callable[..., Any], inputs: Callable[[], Any] = FLAT, **options: Any) -> Entry:
    return Entry(name, lambda: Flow(run), inputs, BOTH, **options)


# --- outputs -----------------------------------------------------------------------------------------------


@dataclass
class Record:
    logits: Tensor
    hidden: list[Tensor]
    note: str = "none"


class Plain:
    """No container that anyone knows."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


Pair = namedtuple("Pair", ["logits", "hidden"])


def record(net: Any, x: Tensor) -> Record:
    return Record(net.head(net.fc(x)), [x])


# --- modes, types and buffers ------------------------------------------------------------------------------


class Modes(nn.Module):
    """BatchNorm and dropout in training mode, but for one module."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(8, 6)
        self.train()
        self.norm.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.norm(self.conv(x)).relu().mean(dim=(2, 3))))  # type: ignore[no-any-return]


class Buffers(Flow):
    """Buffers that are stored, that are not, and one that every forward changes."""

    shift: Tensor
    hidden: Tensor
    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.full((8,), 0.5))
        self.register_buffer("hidden", torch.ones(8), persistent=False)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("none", None)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.head(self.fc(x + self.shift) * self.hidden + self.calls)  # type: ignore[no-any-return]


class Remembers(Flow):
    """Keeps what it computed, with the graph that made it, in attributes, lists and buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(1), persistent=False)
        self.kept: dict[str, list[Tensor]] = {"hidden": []}
        self(torch.ones(SAMPLES, 8))

    def forward(self, x: Tensor) -> Tensor:
        self.hidden = self.fc(x)
        self.kept["hidden"] = [self.hidden]
        self.last = self.hidden.sum()
        return self.head(self.hidden)  # type: ignore[no-any-return]


class Noisy(Flow):
    """Draws random numbers in eval mode, from three sources."""

    def __init__(self) -> None:
        super().__init__()
        self.own = torch.Generator()

    def forward(self, x: Tensor) -> Tensor:
        x = x + torch.rand(x.shape, generator=self.own) + random.random()
        return self.head(functional.dropout(self.fc(x), 0.5, training=True))  # type: ignore[no-any-return]


# --- hooks -------------------------------------------------------------------------------------------------


class Recorder(Flow):
    """Watches its layers with methods of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []
        self.fc.register_forward_hook(self.record)
        self.head.register_forward_pre_hook(self.record_inputs)
        self.head.register_full_backward_hook(lambda *_: None)

    def record(self, _: nn.Module, __: Any, output: Tensor) -> None:
        self.seen.append(tuple(output.shape))

    def record_inputs(self, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.seen.append(tuple(args[0].shape))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.clear()
        logits = super().forward(x)
        assert self.seen == [(len(x), 8), (len(x), 8)]  # both hooks, and those of this very network
        return logits  # type: ignore[no-any-return]


def hooked() -> nn.Module:
    """Hooks that change what layers take and give, in order."""
    model = Flow()
    model.fc.register_forward_hook(lambda _, __, output: output * 2)
    model.fc.register_forward_hook(lambda _, __, output: output + 1)
    model.fc.register_forward_pre_hook(lambda _, args: (args[0] - 1,))
    model.head.register_forward_pre_hook(lambda _, args, kwargs: (args, kwargs), with_kwargs=True)
    model.head.register_forward_hook(lambda _, __, ___, output: output.neg(), with_kwargs=True, prepend=True)
    return model


def looks() -> nn.Module:
    """A hook that asks for the dtype of the layer's weight."""
    model = Flow()
    model.fc.register_forward_hook(lambda layer, _, output: output.to(layer.weight.dtype))
    return model


# --- wrappers ----------------------------------------------------------------------------------------------


def compiled() -> nn.Module:
    return torch.compile(Flow(), backend="eager")  # type: ignore[return-value]


def compiled_in_part() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8), Flow())
    model[1] = torch.compile(model[1], backend="eager")  # type: ignore[assignment]
    return nn.Sequential(model, nn.Linear(6, 6))


def in_place() -> nn.Module:
    model = Flow()
    model.fc.compile(backend="eager")
    return model


class Unregistered(Flow):
    """Has a layer in a plain list that no one else knows of: it has no parameters as far as PyTorch can tell."""

    def __init__(self) -> None:
        super().__init__()
        self.others = [nn.Linear(8, 8)]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.others[0](x))  # type: ignore[no-any-return]


class Kept(nn.Module):
    """Layers in a ModuleList, a ModuleDict and a plain list and dictionary of the same ones."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        self.heads = nn.ModuleDict({"a": nn.Linear(8, 6), "b": nn.Linear(8, 5)})
        self.order, self.by_name = [self.stack[1], self.stack[0]], {"last": self.heads["b"]}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        for layer in self.order:
            x = layer(x).relu()
        return {"a": self.heads["a"](x), "b": self.by_name["last"](x)}


def channels_last() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3))
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def constants() -> dict[str, Any]:
    return {"x": FLAT(), "scale": 2.0, "mode": "any", "mask": None}


def compressed() -> nn.Module:
    """A network that was compressed before."""
    model = build(nn.Sequential(Flow(), nn.Linear(6, 6)), Plan.of({"0.fc": Choice("svd", (3,))}))
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


COMPILER = (r".*`torch\.jit\..*` is deprecated",)
"""Importing the compiler warns of it."""

ENTRIES = (
    flow("several inputs", lambda net, x, y: net.head(net.fc(x) + y), lambda: (FLAT(), FLAT())),
    flow("inputs by name", lambda net, y, x: net.head(net.fc(x) - y), lambda: {"x": FLAT(), "y": FLAT()}),
    flow(
        "nested inputs",
        lambda net, pair, more: net.head(net.fc(pair[0]) + pair[1][0] * more["scale"][0]),
        lambda: ((FLAT(), (FLAT(),)), {"scale": [FLAT()]}),
    ),
    flow("inputs that are no tensors", lambda net, x, **o: net.head(net.fc(x) * o["scale"]), constants),
    flow("one mapping as input", lambda net, x: net.head(net.fc(x["x"])), lambda: ({"x": FLAT()},)),
    flow("outputs in a dict", lambda net, x: {"logits": net.head(net.fc(x)), "hidden": [net.fc(x)], "n": len(x)}),
    flow("outputs in a tuple", lambda net, x: (net.head(net.fc(x)), (x, None))),
    flow("outputs in a named tuple", lambda net, x: Pair(net.head(net.fc(x)), x)),
    flow("outputs in a dataclass", record),
    flow("outputs in an object", lambda net, x: Plain(net.head(net.fc(x)))),
    flow("integer outputs beside", lambda net, x: (net.head(net.fc(x)), net.head(net.fc(x)).argsort(dim=1) * 0)),
    flow("called by keyword", lambda net, x: net.head(input=net.fc(input=x))),
    flow("functional calls beside", lambda net, x: net.head(functional.gelu(functional.layer_norm(net.fc(x), (8,))))),
    flow("gradient checkpointing", lambda net, x: net.head(checkpoint(net.fc, x, use_reentrant=False))),
    flow("without gradient", torch.no_grad()(lambda net, x: net.head(net.fc(x)))),
    flow(
        "autocast inside",
        lambda net, x: _autocast(net, x),
        tolerance=0.05,
    ),
    Entry("train mode", Modes, normal(3, 6, 6), ("conv", "fc")),
    Entry("bfloat16", lambda: Flow().to(torch.bfloat16), normal(8, dtype=torch.bfloat16), BOTH, tolerance=0.05),
    Entry("float16", lambda: Flow().to(torch.float16), normal(8, dtype=torch.float16), BOTH, tolerance=0.01),
    Entry("float64", lambda: Flow().to(torch.float64), normal(8, dtype=torch.float64), BOTH, tolerance=1e-12),
    Entry(
        "complex",
        lambda: nn.Sequential(nn.Linear(8, 8, dtype=torch.complex64), nn.Linear(8, 8, dtype=torch.complex64)),
        normal(8, dtype=torch.complex64),
        (),
        {"0|1": "its weight is torch.complex64"},
    ),
    Entry(
        "channels last",
        channels_last,
        lambda: normal(4, 8, 8)().to(memory_format=torch.channels_last),
        ("0", "2"),
    ),
    Entry("buffers", Buffers, FLAT, BOTH),
    Entry("results kept with their graph", Remembers, FLAT, BOTH),
    Entry("random in eval mode", Noisy, FLAT, BOTH, random=True),
    Entry("hooks that change values", hooked, FLAT, BOTH),
    Entry("hooks that are methods", Recorder, FLAT, BOTH),
    Entry("a hook that asks for the dtype", looks, FLAT, BOTH),
    Entry("compiled", compiled, FLAT, BOTH, warnings=COMPILER),
    Entry("compiled in part", compiled_in_part, FLAT, ("0.0", "0.1.fc", "0.1.head", "1"), warnings=COMPILER),
    Entry("compiled in place", in_place, FLAT, BOTH, warnings=COMPILER),
    Entry("compressed before", compressed, FLAT, ("0.fc.0", "0.fc.1", "0.head", "1")),
    Entry("DataParallel", lambda: nn.DataParallel(Flow()), FLAT, BOTH),
    Entry("a list of layers that are not registered", Unregistered, FLAT, BOTH),
    Entry("lists and dictionaries of layers", Kept, FLAT, ("stack.0", "stack.1", "heads.a", "heads.b")),
)


def _autocast(net: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return net.head(net.fc(x))  # type: ignore[no-any-return]
