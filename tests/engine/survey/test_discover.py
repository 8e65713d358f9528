from __future__ import annotations

import pytest
import torch
from tests.engine.networks import fingerprint, images, small
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from diminuendo.engine.plan import Call, LayerSpec
from diminuendo.engine.survey.discover import discover


class Wrapped(nn.Linear):
    """A linear layer that does something of its own."""


class Odd(nn.Module):
    """One of each kind of layer that stays dense, and one convolution that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.grouped = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.reflected = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
        self.up = nn.ConvTranspose2d(4, 4, 1)
        self.normed = weight_norm(nn.Conv2d(4, 4, 1))
        self.norm = nn.GroupNorm(2, 4)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.unused = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4)
        self.frozen.weight.requires_grad_(False)
        self.custom = Wrapped(4, 4)
        self.scale = nn.Parameter(torch.ones(4))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.twice(x))
        x = self.norm(self.normed(self.up(self.reflected(self.grouped(x)))))
        x = self.first(x.mean(dim=(2, 3)) * self.scale)
        logits: Tensor = self.head(self.custom(self.frozen(self.second(x))))
        return logits


def test_geometry_by_hand() -> None:
    found = discover(small(), images(3))
    assert found.layers == (
        LayerSpec("conv1", "conv", 8, 2, (3, 3), calls=(Call(1, (8, 8), (8, 8)),)),
        LayerSpec("conv2", "conv", 12, 8, (3, 3), calls=(Call(1, (8, 8), (4, 4)),)),
        LayerSpec("mix", "conv", 12, 12, (1, 1), calls=(Call(1, (4, 4), (4, 4)),)),
        LayerSpec("fc", "linear", 5, 12, (), bias=True, calls=(Call(1),)),
    )
    assert found.left_dense == ()


def test_the_network_is_left_as_it_was() -> None:
    model = small()
    model.bn1.eval()
    before = fingerprint(model)
    discover(model, images(2))
    assert fingerprint(model) == before


def test_hooks_and_modes_are_restored_when_the_forward_fails() -> None:
    model = small()
    before = fingerprint(model)
    with pytest.raises(RuntimeError):
        discover(model, torch.zeros(1, 3, 8, 8))
    assert fingerprint(model) == before


def test_every_reason_is_in_words() -> None:
    found = discover(Odd(), torch.randn(2, 4, 6, 6))
    assert [spec.name for spec in found.layers] == ["twice", "head"]
    assert found.layers[0].positions == found.layers[0].input_positions == 2 * 36
    reasons = dict(found.left_dense)
    assert reasons == {
        "": "no format for Odd",
        "grouped": "it is grouped (groups=2)",
        "reflected": "its padding mode is 'reflect', not 'zeros'",
        "up": "no format for ConvTranspose2d",
        "normed": "its ParametrizedConv2d weights are parametrized",
        "first": "it shares weights with another module",
        "second": "it shares weights with another module",
        "unused": "it is not called in a forward",
        "frozen": "its weight is frozen (requires_grad is False)",
        "custom": "Wrapped is a subclass of Linear and may do something else",
    }


def test_linear_layers_on_sequences_have_a_position_for_each_element() -> None:
    found = discover(nn.Sequential(nn.Linear(4, 6)), torch.randn(2, 7, 4))
    assert (found.layers[0].positions, found.layers[0].input_positions) == (7, 7)


def test_a_bare_layer_is_told_to_be_wrapped() -> None:
    found = discover(nn.Linear(4, 6), torch.randn(2, 4))
    assert found.layers == ()
    assert found.left_dense == (("", "it is the whole network; wrap it in nn.Sequential"),)
