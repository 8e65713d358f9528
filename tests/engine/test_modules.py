from __future__ import annotations

import threading
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from diminuendo.engine.modules import (
    CopyError,
    UninitializedError,
    check_initialized,
    copied,
    evaluating,
    take_place,
    unwrapped,
)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Sequential(nn.Linear(3, 3), nn.ReLU()))


pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # from importing torch's compiler
INPUTS = torch.ones(2, 3)


def test_every_mode_comes_back_even_after_an_error() -> None:
    model = network().train()
    model[1].eval()
    before = [module.training for module in model.modules()]

    def fail() -> None:
        with evaluating(model):
            assert not any(module.training for module in model.modules())
            raise KeyError("x")

    with pytest.raises(KeyError):
        fail()
    assert [module.training for module in model.modules()] == before


def test_wrappers_are_taken_off() -> None:
    model = network()
    assert unwrapped(model) is model
    assert unwrapped(nn.DataParallel(model)) is model
    assert unwrapped(cast(nn.Module, torch.compile(model))) is model
    assert unwrapped(cast(nn.Module, torch.compile(nn.DataParallel(model)))) is model


def test_parts_that_are_compiled_are_taken_out_in_a_copy() -> None:
    model = network().eval()
    expected, names = model(INPUTS), [name for name, _ in model.named_modules()]
    inner = model[2]
    model[2] = cast(nn.Module, torch.compile(inner))
    plain = unwrapped(model)
    assert [name for name, _ in plain.named_modules()] == names
    assert torch.equal(plain(INPUTS), expected)
    assert model[2] is not inner  # the owner's is still compiled
    assert not {id(p) for p in plain.parameters()} & {id(p) for p in model.parameters()}


def test_parts_that_are_compiled_twice_are_one_in_the_copy() -> None:
    part = cast(nn.Module, torch.compile(nn.Linear(3, 3)))
    plain = unwrapped(nn.Sequential(part, nn.ReLU(), part))
    assert isinstance(plain, nn.Sequential)
    assert type(plain[0]) is nn.Linear
    assert plain[0] is plain[2]


def test_layers_without_weights_yet_are_named() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.LazyLinear(2)))
    with pytest.raises(UninitializedError, match=r"^layer '1.0': LazyLinear has no weights yet; run the network once"):
        check_initialized(model)
    model(INPUTS)
    check_initialized(model)


class Remembering(nn.Module):
    """Keeps tensors of its forward, with their graph, in an attribute and in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.last = torch.zeros(())
        self.all: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.layer(x)
        self.all.append(self.last)
        return self.last


def pruned() -> nn.Module:
    return prune.l1_unstructured(nn.Linear(3, 3), "weight", 0.5)  # type: ignore[no-any-return, no-untyped-call]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("make", [Remembering, lambda: nn.utils.weight_norm(nn.Linear(3, 3)), pruned])
def test_networks_that_keep_results_are_copied(make: type[nn.Module]) -> None:
    model = make()
    expected = model(INPUTS)
    copy = copied(model)
    assert torch.equal(copy(INPUTS), expected)
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.zero_()
    assert torch.equal(model(INPUTS), expected)


class Locked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.guard = threading.Lock()


def test_what_cannot_be_copied_is_named() -> None:
    with pytest.raises(CopyError, match=r"attribute 'guard' \(lock\) of module '1' cannot be copied"):
        copied(nn.Sequential(nn.ReLU(), Locked()))


def test_a_module_that_takes_a_layers_place_is_known_by_what_the_layer_was() -> None:
    layer = nn.Linear(3, 5, bias=False).eval()
    layer.register_forward_hook(lambda module, args, output: output * 0 + 7)
    layer.register_forward_pre_hook(lambda module, args, kwargs: ((args[0] * 2,), kwargs), with_kwargs=True)
    replacement: Any = nn.Sequential(nn.Linear(3, 1), nn.Linear(1, 5)).double()
    take_place(layer, replacement, {})
    assert torch.equal(replacement(torch.ones(2, 3).double()), torch.full((2, 5), 7.0).double())
    assert len(replacement._forward_pre_hooks) == len(replacement._forward_pre_hooks_with_kwargs) == 1
    assert not replacement.training
    assert (replacement.in_features, replacement.out_features, replacement.bias) == (3, 5, None)
    assert (replacement.weight.shape, replacement.weight.dtype) == ((5, 3), torch.float64)
    assert sum(p.numel() for p in replacement.parameters()) == 3 + 1 + 5 + 5
    with pytest.raises(TypeError):
        nn.functional.linear(torch.ones(2, 3), replacement.weight)
