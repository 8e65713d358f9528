from __future__ import annotations

import torch
from tests.engine.networks import fingerprint, images, small
from torch import Tensor, nn

from diminuendo.engine.survey.discover import discover
from diminuendo.engine.survey.norms import Norms, follow


def followed(model: nn.Module, inputs: Tensor) -> Norms:
    return follow(model, discover(model, inputs).layers, inputs)


def test_what_a_norm_absorbs_and_what_comes_after() -> None:
    model = small()
    before = fingerprint(model)
    found = followed(model, images(3))
    assert fingerprint(model) == before
    assert found.absorbing == {"conv1", "conv2"}
    assert found.after == {"conv1": ("bn1", "bn2"), "conv2": ("bn2",), "mix": (), "fc": ()}


class Shared(nn.Module):
    """Two convolutions into one BatchNorm, and one that is called twice into two."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.both = (nn.Conv2d(2, 8, 3, padding=1) for _ in range(3))
        self.again = nn.Conv2d(8, 2, 3, padding=1)
        self.common, self.first, self.second = (nn.BatchNorm2d(8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.common(self.one(x)) + self.common(self.two(x))
        z = self.second(self.both(self.again(self.first(self.both(x)))))
        return torch.flatten(y + z, 1)


def test_a_norm_may_take_several_layers_and_a_layer_go_into_several() -> None:
    found = followed(Shared(), images(2))
    assert found.absorbing == {"one", "two", "both"}
    assert found.after["both"] == ("first", "second")


class Elsewhere(nn.Module):
    """Outputs that go into a BatchNorm, and past it; and one that a hook changes first."""

    def __init__(self) -> None:
        super().__init__()
        self.past, self.only, self.hooked, self.asked = (nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(4))
        self.hooked.register_forward_hook(lambda _, __, output: output * 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.past(x)
        x = y + self.norms[0](y)
        x = self.norms[2](self.hooked(self.norms[1](self.only(x))))
        y = self.asked(x)
        return self.norms[3](y).flatten(1)[:, : y.shape[1]]  # type: ignore[no-any-return]


def test_outputs_that_are_used_elsewhere_or_changed_are_not_the_norms_alone() -> None:
    found = followed(Elsewhere(), torch.randn(2, 8, 5, 5))
    assert found.absorbing == {"only", "asked"}
