from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from diminuendo.engine.survey.partial import Ending, UnlikeError


class Part(nn.Module):
    """A linear layer that counts its calls."""

    def __init__(self, size: int = 6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size, size))
        self.ran = 0

    def forward(self, x: Tensor) -> Tensor:
        self.ran += 1
        return x @ self.weight.T


class Net(nn.Module):
    """A few parts in two blocks; a function says what is done with them. The layer is ``tail.layer``."""

    def __init__(self, run: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = Part(), Part()
        self.body = nn.Sequential(Part(), nn.ReLU(), Part())
        self.tail = Tail()
        self.clip = nn.ReLU(inplace=True)
        self.run = run

    def forward(self, x: Any) -> Any:
        return self.run(self, x)


class Tail(nn.Module):
    """A part and the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer = Part(), Part()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(self.first(x).relu()) + x
        return y


def batches(count: int = 3, size: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, 6, generator=generator) for _ in range(count)]


def ran(net: Net) -> dict[str, int]:
    return {name: module.ran for name, module in net.named_modules() if isinstance(module, Part)}


def plain(net: Any, x: Tensor) -> Tensor:
    return net.head(net.tail(net.body(net.stem(x).relu())))  # type: ignore[no-any-return]


def test_what_is_before_the_layer_runs_once() -> None:
    net, (one, other, batch) = Net(plain), batches()
    ending = Ending(net, net.tail.layer)
    assert ending.tried([one, other]) is not None
    before = ran(net)
    kept = ending.keep(batch)
    for scale in (1.0, 0.5, 0.0):
        net.tail.layer.weight.data *= scale
        outputs = ending.run(kept)
        torch.testing.assert_close(outputs, plain(net, batch), rtol=0.0, atol=0.0)
    found = {name: count - before[name] - 3 for name, count in ran(net).items()}  # whole runs took three
    assert found == {"stem": 1, "head": 3, "body.0": 1, "body.2": 1, "tail.first": 1, "tail.layer": 3}


def test_only_what_is_looked_at_takes_memory() -> None:
    net, (one, other, batch) = Net(plain), batches()
    ending = Ending(net, net.tail.layer)
    each = one.numel() * one.element_size()
    # stem, because a function takes it, body and first: neither what is in body, nor relu's result
    assert ending.tried([one, other]) == 2 * 3 * each
    kept = ending.keep(batch)
    assert kept.size_bytes == 3 * each
    assert [type(call.module).__name__ for call in kept.calls] == ["Part", "Sequential", "Tail", "Part"]
    net = Net(lambda net, x: net.head(net.tail(net.body(net.stem(x)))))
    ending = Ending(net, net.tail.layer)
    assert ending.tried([one, other]) == 2 * (2 * each + 4)  # of the stem's output one number stands for all
    assert ending.keep(batch).size_bytes == 2 * each + 4


# --- networks of all kinds: the end alone is right, or they are refused --------------------------------------


def in_place(net: Any, x: Tensor) -> Tensor:
    """A function writes into what a module gave, before the layer and after it."""
    y = functional.relu(net.stem(x), inplace=True)
    z = net.tail(net.body(y).mul_(0.5))
    return net.head(y.add_(z))  # type: ignore[no-any-return]


def in_place_module(net: Any, x: Tensor) -> Tensor:
    """A module writes into what another one gave, and the code goes on with that."""
    y = net.stem(x)
    net.clip(y)
    return net.head(net.tail(y))  # type: ignore[no-any-return]


def both_in_place(net: Any, x: Tensor) -> Tensor:
    """Both at once: neither a copy nor the tensor itself will do."""
    y = net.stem(x).add_(1.0)
    net.clip(y)
    return net.head(net.tail(y.mul_(2.0)))  # type: ignore[no-any-return]


def again(net: Any, x: Tensor) -> Tensor:
    """Modules that are called before the layer and after it."""
    return net.stem(net.body(net.head(net.tail(net.body(net.stem(net.stem(x)))))))  # type: ignore[no-any-return]


def nested(net: Any, x: Tensor) -> dict[str, Any]:
    pair = net.body({"values": [x, (x + 1.0,)]})
    return {"logits": net.head(net.tail(pair["values"][1][0])), "first": pair["values"][0], "count": len(pair)}


def routed(net: Any, x: Tensor) -> Tensor:
    """The data say which module is called, and whether the layer is."""
    y = net.stem(x) if float(x.sum()) > 0 else net.body(x)
    return net.head(net.tail(y) if float(x[0, 0]) < 9.0 else y)  # type: ignore[no-any-return]


def remembered(net: Any, x: Tensor) -> Tensor:
    """A module leaves something for code after the layer."""
    y = net.tail(net.body(x))
    return net.head(y + net.body.seen)  # type: ignore[no-any-return]


def counted(net: Any, x: Tensor) -> Tensor:
    y = net.tail(net.stem(x))
    return net.head(y) * net.stem.ran  # type: ignore[no-any-return]


def noisy(net: Any, x: Tensor) -> Tensor:
    return net.head(net.tail(functional.dropout(net.stem(x), 0.5, training=True)))  # type: ignore[no-any-return]


def catching(net: Any, x: Tensor) -> Tensor:
    try:
        y = net.tail(net.stem(x))
    except Exception:  # noqa: BLE001 - as careless code does
        y = x
    return net.head(y)  # type: ignore[no-any-return]


def catching_all(net: Any, x: Tensor) -> Tensor:
    try:
        y = net.tail(net.stem(x))
    except BaseException:  # noqa: BLE001 - as more careless code does
        y = net.body(x)
    return net.head(y)  # type: ignore[no-any-return]


def first(net: Any, x: Tensor) -> Tensor:
    return net.head(net.tail.layer(x))  # type: ignore[no-any-return]


def grouped(net: Any, x: Tensor) -> Tensor:
    """The layer's block is called twice; the first call never comes to the layer."""
    return net.head(net.tail(net.tail.first(x)) + net.tail(x))  # type: ignore[no-any-return]


class Nested(nn.Module):
    def forward(self, x: dict[str, Any]) -> dict[str, Any]:
        values, (other,) = x["values"]
        return {"values": [values * 2.0, (other.relu(),)]}


class Remembers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        self.seen = x.sin()
        return x.cos()


def net_of(run: Callable[..., Any]) -> Net:
    net = Net(run)
    if run in (nested, remembered):
        net.body = Nested() if run is nested else Remembers()  # type: ignore[assignment]
    return net


PARTIAL = [plain, in_place, in_place_module, again, nested, routed, catching, catching_all, first, grouped]
WHOLE = [both_in_place, remembered, counted, noisy]


@pytest.mark.parametrize("run", PARTIAL, ids=lambda run: run.__name__)
def test_the_end_gives_what_the_whole_network_gives(run: Callable[..., Any]) -> None:
    net, (one, other, batch) = net_of(run), batches()
    ending = Ending(net, net.tail.layer)
    assert ending.tried([one, other]) is not None
    kept = [ending.keep(each) for each in (batch, -batch)]
    for scale in (1.0, -2.0, 0.0):
        net.tail.layer.weight.data *= scale
        for own, inputs in zip(kept, (batch, -batch), strict=True):
            torch.testing.assert_close(ending.run(own), run(net, inputs), rtol=0.0, atol=0.0)


@pytest.mark.parametrize("run", WHOLE, ids=lambda run: run.__name__)
def test_networks_that_do_not_repeat_themselves_are_run_whole(run: Callable[..., Any]) -> None:
    net, (one, other, _) = net_of(run), batches()
    assert Ending(net, net.tail.layer).tried([one, other]) is None


def test_other_calls_than_were_kept_are_noticed() -> None:
    def switched(net: Any, x: Tensor) -> Tensor:
        y = net.stem(x) if net.way == "stem" else net.body(x)
        y = net.body(y) if net.way == "more" else y
        return net.head(y if net.way == "none" else net.tail(y))  # type: ignore[no-any-return]

    net, (one, other, batch) = Net(switched), batches()
    ways: Sequence[str] = ("stem", "body", "more", "none")
    ending = Ending(net, net.tail.layer)
    for way in ways[:3]:
        net.way = way  # type: ignore[assignment]
        assert ending.tried([one, other]) is not None
        kept = ending.keep(batch)
        for another in set(ways) - {way}:
            net.way = another  # type: ignore[assignment]
            with pytest.raises(UnlikeError):
                ending.run(kept)
        net.way = way  # type: ignore[assignment]
        torch.testing.assert_close(ending.run(kept), switched(net, batch), rtol=0.0, atol=0.0)
    net.way = "none"  # type: ignore[assignment]
    with pytest.raises(UnlikeError, match="not called"):
        ending.keep(batch)
    assert ending.tried([one, other]) is None


def test_writing_into_what_is_kept_is_noticed() -> None:
    def writes(net: Any, x: Tensor) -> Tensor:
        y = net.stem(x)
        if net.write:
            y.add_(1.0)
        return net.head(net.tail(y))  # type: ignore[no-any-return]

    net, (one, other, batch) = Net(writes), batches()
    net.write = False  # type: ignore[assignment]
    ending = Ending(net, net.tail.layer)
    assert ending.tried([one, other]) is not None
    kept = ending.keep(batch)
    net.write = True  # type: ignore[assignment]
    with pytest.raises(UnlikeError, match="written into"):
        ending.run(kept)


def test_a_module_that_comes_out_of_another_is_noticed() -> None:
    def moved(net: Any, x: Tensor) -> Tensor:
        return net.head(net.tail(net.body[0](x) if net.out else net.body(x)))  # type: ignore[no-any-return]

    net, (one, other, batch) = Net(moved), batches()
    net.out = False  # type: ignore[assignment]
    ending = Ending(net, net.tail.layer)
    assert ending.tried([one, other]) is not None
    net.out = True  # type: ignore[assignment]
    with pytest.raises(UnlikeError, match="inside of others"):
        ending.keep(batch)


def test_hooks_and_buffers_are_as_in_whole_runs() -> None:
    net, (one, other, batch) = Net(plain), batches()
    net.register_buffer("calls", torch.zeros(()))
    net.run = lambda net, x: (net.calls.add_(1.0), plain(net, x) * net.calls)[1]
    net.stem.register_forward_hook(lambda _, __, output: output * 2.0)
    net.body.register_forward_pre_hook(lambda _, args: (args[0] + 1.0,))
    ending = Ending(net, net.tail.layer)
    assert ending.tried([one, other]) is not None
    assert net.get_buffer("calls").item() == 0.0
    expected = ending.whole(batch)
    torch.testing.assert_close(ending.run(ending.keep(batch)), expected, rtol=0.0, atol=0.0)
    assert not torch.equal(expected, plain(Net(plain), batch))
