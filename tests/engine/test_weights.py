from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diminuendo.engine import weights
from diminuendo.engine.plan import PlanError


class Tied(nn.Module):
    """An embedding that is the head too, a layer under two names, and buffers that are views of another."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.layer = nn.Linear(4, 4)
        self.again = self.layer
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("table", torch.arange(8.0))
        self.register_buffer("rest", self.table[4:])
        self.register_buffer("square", self.table.view(2, 4))

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.layer(self.layer(self.embedding(ids))))  # type: ignore[no-any-return]


class Extra(nn.Linear):
    """Has state that is no tensor."""

    words = "none"

    def get_extra_state(self) -> dict[str, str]:
        return {"words": self.words}

    def set_extra_state(self, state: Any) -> None:
        self.words = state["words"]


def round_trip(model: nn.Module, other: nn.Module) -> None:
    weights.load_into(other, weights.from_bytes(weights.to_bytes(model)))


def bits(model: nn.Module) -> dict[str, bytes]:
    return {
        name: value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        for name, value in model.state_dict().items()
        if isinstance(value, Tensor)
    }


def test_tied_tensors_are_stored_once_and_restored_to_every_name() -> None:
    model, other = Tied(), Tied()
    found = weights.stored(model)
    assert list(found) == ["table", "rest", "square", "embedding.weight", "layer.weight", "layer.bias"]
    assert bits(model) != bits(other)
    round_trip(model, other)
    assert bits(model) == bits(other)
    assert other.head.weight is other.embedding.weight


def test_what_is_completed_has_every_name() -> None:
    model = Tied()
    whole = weights.complete(Tied(), weights.stored(model))
    assert list(whole) == list(model.state_dict())
    assert all(torch.equal(whole[name], tensor) for name, tensor in model.state_dict().items())
    assert list(weights.complete(Tied(), whole)) == list(whole)  # all tied names may be given


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.complex64, torch.complex128])
def test_every_type_comes_back_bit_for_bit(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, other = nn.Linear(5, 3, dtype=dtype), nn.Linear(5, 3, dtype=dtype)
    model.register_buffer("flags", torch.tensor([True, False]))
    other.register_buffer("flags", torch.tensor([False, False]))
    model.register_buffer("count", torch.tensor(7))
    other.register_buffer("count", torch.tensor(0))
    model.register_buffer("none", torch.zeros(0, 3))
    other.register_buffer("none", torch.zeros(0, 3))
    round_trip(model, other)
    assert bits(model) == bits(other)


def test_nan_and_negative_zero_come_back_in_any_layout() -> None:
    model, other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    with torch.no_grad():
        model.weight[0, 0, 0, :2] = torch.tensor([torch.nan, -0.0])
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    round_trip(model, other)
    assert bits(model) == bits(other)
    assert weights.to_bytes(model) == weights.to_bytes(other)


def test_what_is_no_tensor_stays_as_it_is_in_the_network() -> None:
    model, other = Extra(2, 2), Extra(2, 2)
    model.words, other.words = "the model's", "the other's"
    assert list(weights.stored(model)) == ["weight", "bias"]
    round_trip(model, other)
    assert other.words == "the other's"
    assert torch.equal(other.weight, model.weight)
    weights.load_into(other, model.state_dict())  # given all the same, it is passed over
    assert other.words == "the other's"


def test_quantized_layers_keep_their_packed_weights() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the move of quantization to torchao
        torch.manual_seed(0)
        whole = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
        model = torch.ao.quantization.quantize_dynamic(whole, {nn.Linear})  # type: ignore[no-untyped-call]
        other = copy.deepcopy(model)
        with torch.no_grad():
            other[1].bias.fill_(3.0)
        round_trip(model, other)
    inputs = torch.ones(2, 4)
    assert torch.equal(model(inputs), other(inputs))


def test_what_does_not_fit_is_named_and_changes_nothing() -> None:
    model = Tied()
    found, before = weights.stored(Tied()), bits(model)
    with pytest.raises(PlanError, match=r"they lack 'embedding.weight'; give"):
        weights.load_into(model, {name: t for name, t in found.items() if name != "embedding.weight"})
    with pytest.raises(PlanError, match=r"lack 'table', 'rest', 'square' and 3 more and they have 'x', which"):
        weights.load_into(model, {"x": torch.zeros(1)})
    with pytest.raises(PlanError, match=r"'layer.bias' has shape \(5,\) and type float32, the network \(4,\)"):
        weights.load_into(model, found | {"layer.bias": torch.zeros(5)})
    with pytest.raises(PlanError, match=r"'layer.bias' has shape \(4,\) and type float64, .* float32"):
        weights.load_into(model, found | {"layer.bias": torch.zeros(4, dtype=torch.float64)})
    with pytest.raises(PlanError, match=r"'embedding.weight' and 'head.weight' are tied"):
        weights.load_into(model, found | {"head.weight": torch.zeros(6, 4)})
    assert bits(model) == before
    with pytest.raises(PlanError, match="no safetensors"):
        weights.from_bytes(b"something else")
