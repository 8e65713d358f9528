from __future__ import annotations

import pytest
import torch
from tests.engine.networks import fingerprint, images, small
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from diminuendo.engine.plan import Call, LayerSpec
from diminuendo.engine.survey.discover import discover


class Named(nn.Linear):
    """A linear layer by another name."""


class Scaled(nn.Linear):
    """A linear layer that does something of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2.0


class Odd(nn.Module):
    """One of each kind of layer that stays dense, and some unusual ones that do not."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.reflected = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.normed = weight_norm(nn.Conv2d(8, 8, 1))
        self.norm = nn.GroupNorm(2, 8)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.unused = nn.Linear(8, 8)
        self.frozen = nn.Linear(8, 8)
        self.frozen.weight.requires_grad_(False)
        self.named, self.scaled = Named(8, 8), Scaled(8, 8)
        self.asked, self.used = nn.Linear(8, 8), nn.Linear(8, 8)
        self.scale = nn.Parameter(torch.ones(8))
        self.narrow = nn.Linear(8, 2, bias=False)
        self.tiny = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.twice(x))
        x = self.norm(self.normed(self.up(self.reflected(self.grouped(x)))))
        x = self.first(x.mean(dim=(2, 3)) * self.scale)
        x = self.scaled(self.named(self.frozen(self.second(x))))
        assert callable(self.asked.reset_parameters)
        x = self.asked(x) + nn.functional.linear(x, self.used.weight) + self.used(x)
        logits: Tensor = self.tiny(self.narrow(x))
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
    found = discover(Odd(), torch.randn(2, 8, 6, 6))
    assert [spec.name for spec in found.layers] == ["twice", "grouped", "reflected", "up", "named", "narrow"]
    assert found.layers[0].calls == (Call(2, (6, 6), (6, 6)),)
    assert found.layers[1].groups == 2
    assert (found.layers[3].kind, found.layers[3].calls) == ("conv_transpose", (Call(1, (6, 6), (12, 12)),))
    assert dict(found.left_dense) == {
        "": "no format for Odd",
        "normed": "its ParametrizedConv2d weights are parametrized",
        "first": "it shares weights with another module",
        "second": "it shares weights with another module",
        "unused": "it is not called in a forward",
        "frozen": "its weight is frozen (requires_grad is False)",
        "scaled": "Scaled is a subclass of Linear with a forward of its own",
        "asked": "code outside of it depends on what it is: AttributeError: 'Sequential' object has no attribute "
        "'reset_parameters'",
        "used": "code outside of it uses its weight (linear)",
        "tiny": "no form has fewer params than its 6",
    }


def test_layers_whose_covariance_would_be_too_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diminuendo.engine.survey.discover.WIDEST", 7)
    # The narrower side of a pointwise layer counts, and of a grouped one a single group.
    model = nn.Sequential(nn.Linear(9, 7), nn.Linear(7, 9), nn.Linear(9, 8), nn.Unflatten(1, (8, 1)), Wide())
    found = discover(model, torch.randn(2, 9))
    assert [spec.name for spec in found.layers] == ["0", "1", "4.grouped"]
    assert dict(found.left_dense) == {
        "2": "its covariance would have 8 rows, more than 7",
        "4.whole": "its covariance would have 8 rows, more than 7",
    }


class Wide(nn.Module):
    """A convolution in groups, and one without."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped, self.whole = nn.Conv1d(8, 8, 3, padding=1, groups=2), nn.Conv1d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.whole(self.grouped(x))  # type: ignore[no-any-return]


def test_linear_layers_on_sequences_have_a_position_for_each_element() -> None:
    found = discover(nn.Sequential(nn.Linear(4, 6)), torch.randn(2, 7, 4))
    assert found.layers[0].calls == (Call(7),)
    assert (found.layers[0].positions, found.layers[0].input_positions) == (7, 7)


def test_a_bare_layer_is_told_to_be_wrapped() -> None:
    found = discover(nn.Linear(4, 6), torch.randn(2, 4))
    assert found.layers == ()
    assert found.left_dense == (("", "it is the whole network; wrap it in nn.Sequential"),)
