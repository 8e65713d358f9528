"""Networks that cannot be worked on at all, and what is said of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.engine.kinds.entry import normal
from torch import Tensor, nn

from diminuendo.engine.modules import UninitializedError
from diminuendo.engine.task import TaskError

FLAT = normal(8)


@dataclass(frozen=True)
class Refusal:
    name: str
    build: Callable[[], nn.Module]
    error: type[Exception]
    message: str
    inputs: Callable[[], Any] = FLAT
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


class Held(nn.Module):
    """Calls its layer through a lambda, which no copy can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(8, 8), nn.Linear(8, 8)
        layer = self.fc
        self.act = lambda x: layer(x).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(x))  # type: ignore[no-any-return, no-untyped-call]


class HeldWeight(nn.Module):
    """Uses a weight that a lambda holds."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 8)
        scale = self.scale = nn.Parameter(nn.init.ones_(self.head.weight.new_empty(8)))
        self.act = lambda x: x * scale

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(x))  # type: ignore[no-any-return, no-untyped-call]


class HeldInList(nn.Module):
    """A function of its own calls a layer that the function holds."""

    def __init__(self, inner: nn.Module, side: nn.Module) -> None:
        super().__init__()
        self.inner, self.side = inner, side
        self.after = [lambda output: side(output)]

    def forward(self, x: Tensor) -> Tensor:
        return self.after[0](self.inner(x))  # type: ignore[no-any-return]


def held_by_hook() -> nn.Module:
    layer = nn.Linear(8, 8)
    weight = layer.weight
    layer.register_forward_hook(lambda _, __, output: output + weight.mean())
    return nn.Sequential(layer, nn.Linear(8, 8))


class Locked(nn.Module):
    """Holds what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.lock = nn.Linear(8, 8), threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            return self.fc(x)  # type: ignore[no-any-return]


class Silent(nn.Module):
    """Returns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> None:
        self.fc(x)


REFUSALS = (
    Refusal("a lambda that holds a layer", Held, TaskError, "a copy of the network uses 'fc' of the original"),
    Refusal("a lambda that holds a weight", HeldWeight, TaskError, "uses 'scale' of the original"),
    Refusal(
        "a list of functions that hold a layer",
        lambda: HeldInList(nn.Linear(8, 8), nn.Linear(8, 8)),
        TaskError,
        "uses 'side' of the original",
    ),
    Refusal("a hook that holds a weight", held_by_hook, TaskError, "uses '0.weight' of the original"),
    Refusal("a lock", Locked, TaskError, r"attribute 'lock' \(lock\) of module '' cannot be copied"),
    Refusal("no outputs", Silent, TaskError, r"there is no tensor in what it returns \(NoneType\)"),
    Refusal(
        "a lazy layer that was never run",
        lambda: nn.Sequential(nn.LazyLinear(8), nn.Linear(8, 8)),
        UninitializedError,
        "layer '0': LazyLinear has no weights yet",
        warnings=("Lazy modules are a new feature",),
    ),
)
