from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.engine.networks import fingerprint, images, small
from torch import Tensor, nn
from torch.nn import functional

from diminuendo.engine import zoo
from diminuendo.engine.plan import ZERO, Plan
from diminuendo.engine.search.wiring import ENDS, reached
from diminuendo.engine.surgery import build
from diminuendo.engine.survey.discover import discover
from diminuendo.engine.survey.flow import wiring_of


class Net(nn.Module):
    """Layers a to e of as many inputs as outputs; a function says what is done with them."""

    table: Tensor

    def __init__(self, run: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.d, self.e = (nn.Linear(6, 6) for _ in range(5))
        self.norm = nn.LayerNorm(6)
        self.scales = [torch.ones(6)]
        self.register_buffer("table", torch.eye(6))
        self.run = run

    def forward(self, x: Any) -> Any:
        return self.run(self, x)


def wired(run: Callable[..., Any], inputs: Any = None) -> dict[str, set[str]]:
    net = Net(run).train()
    before = fingerprint(net)
    x = torch.randn(2, 6) if inputs is None else inputs
    names = [name for name, m in net.named_modules() if isinstance(m, nn.Linear) and f".{name}(" in SOURCES[run]]
    found = wiring_of(net, names, x)
    assert fingerprint(net) == before
    return {name: set(taken) for name, taken in found}


def chain(n: Any, x: Tensor) -> Tensor:
    return n.b(n.norm(n.a(x)).relu() * n.scales[0]) @ n.table  # type: ignore[no-any-return]


def residual(n: Any, x: Tensor) -> Tensor:
    x = n.a(x)
    y = n.c(n.b(x).relu_())
    x += y
    return n.d(x)  # type: ignore[no-any-return]


def branches(n: Any, x: Tensor) -> Tensor:
    parts = torch.cat([n.a(x), n.b(x)], dim=1)
    first, second = parts.chunk(2, dim=1)
    return n.c(first) + n.d(second)  # type: ignore[no-any-return]


def written(n: Any, x: Tensor) -> Tensor:
    """Through a view, by an index, into what was given."""
    y = torch.zeros(2, 6)
    y[:, :3] = n.a(x)[:, :3]
    y[:, 3:].add_(n.b(x)[:, 3:])
    z = torch.empty(2, 6)
    torch.add(y, 1.0, out=z)
    return n.c(z)  # type: ignore[no-any-return]


def twice(n: Any, x: Tensor) -> dict[str, Any]:
    return {"logits": n.b(n.a(n.a(x))), "more": [x + 1.0, (n.a(x),)]}


def detached(n: Any, x: Tensor) -> Tensor:
    return n.b(functional.softmax(n.a(x).detach().clone(), dim=1)) * torch.ones_like(x)  # type: ignore[no-any-return]


def reads(n: Any, x: Tensor) -> Tensor:
    return n.b(x * n.a(x).sum().item())  # type: ignore[no-any-return]


def decides(n: Any, x: Tensor) -> Tensor:
    return n.b(x) if n.a(x).sum() > 0 else n.b(-x)  # type: ignore[no-any-return]


def by_numpy(n: Any, x: Tensor) -> Tensor:
    return n.b(torch.from_numpy(n.a(x).numpy()) + x)  # type: ignore[no-any-return]


def constant(n: Any, x: Tensor) -> Tensor:
    return n.b(x + n.a(torch.ones(2, 6)))  # type: ignore[no-any-return]


def unused(n: Any, x: Tensor) -> Tensor:
    n.a(x)
    return n.b(x)  # type: ignore[no-any-return]


OUTSIDE = torch.ones(2, 6)


def from_nowhere(n: Any, x: Tensor) -> Tensor:
    return n.b(n.a(x) + OUTSIDE)  # type: ignore[no-any-return]


def indexed(n: Any, x: Tensor) -> Tensor:
    """What is chosen depends on one layer, what it is chosen from on another."""
    return n.c(n.b(x)[n.a(x).argmax(dim=1) % 2])  # type: ignore[no-any-return]


KNOWN: dict[Callable[..., Any], dict[str, set[str]]] = {
    chain: {ENDS: {"b"}, "a": {ENDS}, "b": {"a"}},
    residual: {ENDS: {"d"}, "a": {ENDS}, "b": {"a"}, "c": {"b"}, "d": {"a", "c"}},
    branches: {ENDS: {"c", "d"}, "a": {ENDS}, "b": {ENDS}, "c": {"a", "b"}, "d": {"a", "b"}},
    written: {ENDS: {"c"}, "a": {ENDS}, "b": {ENDS}, "c": {"a", "b"}},
    twice: {ENDS: {ENDS, "a", "b"}, "a": {ENDS, "a"}, "b": {"a"}},
    detached: {ENDS: {"b"}, "a": {ENDS}, "b": {"a"}},
    indexed: {ENDS: {"c"}, "a": {ENDS}, "b": {ENDS}, "c": {"a", "b"}},
}
UNKNOWN = (reads, decides, by_numpy, constant, unused, from_nowhere)


SOURCES = {run: inspect.getsource(run) for run in (*KNOWN, *UNKNOWN)}
"""Which layers a network has is read off its function."""


@pytest.mark.parametrize("run", KNOWN, ids=lambda run: run.__name__)
def test_who_takes_what(run: Callable[..., Any]) -> None:
    assert wired(run) == KNOWN[run]


@pytest.mark.parametrize("run", UNKNOWN, ids=lambda run: run.__name__)
def test_where_it_cannot_be_told_nothing_is(run: Callable[..., Any]) -> None:
    assert wired(run) == {}


@pytest.mark.parametrize("name", ["digits", "mobilenet_v2", "small"])
def test_what_is_reached_is_what_changes_the_output(name: str) -> None:
    """By another way: with some layers at rank 0, others are shaken, one by one."""
    torch.manual_seed(0)
    model = small().eval() if name == "small" else zoo.network(name).eval()
    x = {"small": images(2), "digits": torch.randn(2, 1, 8, 8)}.get(name, torch.randn(1, 3, 32, 32))
    layers = [spec.name for spec in discover(model, x).layers]
    wiring = wiring_of(model, layers, x)
    assert wiring
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        cut = [layers[i] for i in torch.randperm(len(layers), generator=generator)[: len(layers) // 4].tolist()]
        plan = Plan(tuple((layer, ZERO) for layer in cut))
        with torch.no_grad():
            network = build(model, plan).eval().double()
            for layer in cut:
                for parameter in network.get_submodule(layer).parameters():
                    parameter.zero_()
            before = network(x.double())
            found = reached(wiring, cut)
            assert (ENDS in found) == (not torch.equal(network(x.double() + 1.0), before))
            for layer in layers[:: max(1, len(layers) // 8)]:
                handle = network.get_submodule(layer).register_forward_hook(lambda _, __, y: y + torch.rand_like(y))
                assert (layer in found) == (not torch.equal(network(x.double()), before)), layer
                handle.remove()
