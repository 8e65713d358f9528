from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from diminuendo.engine.plan import Call
from diminuendo.engine.survey.observe import Seen, Uses, observe

WEIGHT = nn.Parameter(torch.randn(6, 4))


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (lambda w: w.sum(), "sum"),
        (lambda w: w.T @ torch.ones(6), "T"),
        (lambda w: w.data * 2, "data"),
        (lambda w: torch.stack([torch.zeros(6, 4), w]), "stack"),
        (lambda w: torch.add(torch.zeros(6, 4), other=w), "add"),
        (lambda w: w.shape[0] + w.ndim, ""),
        (lambda w: torch.zeros(3, dtype=w.dtype, device=w.device), ""),
        (lambda w: torch.ones(6, 4) * 2, ""),
    ],
)
def test_what_counts_as_a_use(use: Callable[[Tensor], object], expected: str) -> None:
    with Uses({"layer": [WEIGHT]}) as uses:
        use(WEIGHT)
    assert uses.found.get("layer", "") == expected


@pytest.mark.parametrize(
    ("part", "owners"),
    [
        (slice(2, 4), {"first"}),
        (slice(3, 5), {"first", "second"}),
        (slice(4, 5), {"second"}),
        (slice(8, 10), set()),
        (slice(4, 4), set()),
    ],
)
def test_views_belong_to_who_owns_the_memory_that_they_show(part: slice, owners: set[str]) -> None:
    whole = torch.zeros(10)
    shown = whole[part]
    with Uses({"first": [whole[:4].view(2, 2)], "second": [whole[4:8]]}) as uses:
        shown.neg()
    assert set(uses.found) == owners


def test_uses_while_the_owner_is_at_work_do_not_count() -> None:
    with Uses({"layer": [WEIGHT]}) as uses:
        uses.enter("layer")()
        WEIGHT.sum()
        uses.leave("layer")()
        assert not uses.found
        WEIGHT.sum()
    assert uses.found == {"layer": "sum"}


class Calls(nn.Module):
    """Calls its layers with this and that."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.odd, self.nested = nn.Conv2d(2, 3, 3), nn.Linear(4, 5), nn.Bilinear(4, 4, 2), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        self.conv(x)
        self.conv(torch.cat([x, x]))
        self.conv(x[:, :, 1:])
        rows = x.flatten(2)[..., :4]
        self.fc(rows)
        self.fc(rows[:0])
        self.nested(torch.nested.as_nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged))
        return self.odd(rows, rows)  # type: ignore[no-any-return]


def test_calls_are_counted_with_their_sizes() -> None:
    model = Calls()
    seen = observe(model, torch.randn(1, 2, 6, 5), dict(model.named_children()))
    assert seen["conv"].sizes(2, 2) == (Call(3, (6, 5), (4, 3)), Call(1, (5, 5), (3, 3)))
    assert seen["fc"].sizes(0, 4) == (Call(2),)
    assert {name: (own.calls, own.odd) for name, own in seen.items()} == {
        "conv": (3, False),
        "fc": (2, False),
        "odd": (1, True),
        "nested": (1, True),
    }


def test_nothing_is_left_behind_when_the_forward_fails() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(5, 4)).train()
    with pytest.raises(RuntimeError):
        observe(model, torch.ones(1, 4), {"0": model[0]})
    assert model.training
    assert not model[0]._forward_hooks
    assert not model[0]._forward_pre_hooks


def test_a_module_that_was_not_called_has_no_sizes() -> None:
    assert Seen().sizes(2, 3) == ()
