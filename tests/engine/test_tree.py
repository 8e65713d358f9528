from __future__ import annotations

import dataclasses
from collections import OrderedDict
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from transformers import BatchEncoding
from transformers.modeling_outputs import SequenceClassifierOutput

from diminuendo.engine import tree


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


@dataclasses.dataclass(frozen=True)
class Record:
    values: Tensor
    parts: tuple[Tensor, str]
    twice: Tensor = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "twice", 2 * self.values)


def rows(count: int, start: int = 0) -> Tensor:
    """(count, 1): 0, 10, 20, ..."""
    return 10.0 * torch.arange(start, start + count).unsqueeze(1)


NESTED: list[Any] = [
    rows(5),
    (rows(5), rows(5, 7)),
    [rows(5), {"mask": rows(5), "flag": True}],
    Pair(rows(5), rows(5, 1)),
    Record(rows(5), (rows(5, 2), "kept")),
    {"a": (rows(5), {"b": rows(5)}), "c": None},
    OrderedDict([(0, rows(5)), ("one", rows(5))]),
    MappingProxyType({"a": rows(5)}),
    BatchEncoding({"input_ids": rows(5), "attention_mask": rows(5, 3)}),
    SequenceClassifierOutput(logits=rows(5), hidden_states=(rows(5), rows(5, 4))),
    torch.max(rows(5), dim=1),
]


@pytest.mark.parametrize("value", NESTED, ids=lambda v: type(v).__name__)
def test_batches_put_together_are_the_whole_again(value: Any) -> None:
    parts = list(tree.batches(value, 2))
    assert [tree.count(part) for part in parts] == [2, 2, 1]
    again = tree.concat(parts)
    assert type(again) is (dict if isinstance(value, MappingProxyType) else type(value))
    before, after = list(tree.entries(value)), list(tree.entries(again))
    assert [path for path, _ in before] == [path for path, _ in after]
    for (_, was), (_, now) in zip(before, after, strict=True):
        assert torch.equal(was, now) if isinstance(was, Tensor) else was == now


def test_samples_are_taken_in_the_order_asked_for() -> None:
    taken = tree.take({"a": rows(5), "b": (rows(5, 1), "x")}, torch.tensor([3, 0]))
    assert taken["a"].tolist() == [[30.0], [0.0]]
    assert taken["b"][0].tolist() == [[40.0], [10.0]]
    assert taken["b"][1] == "x"


def test_entries_say_where_they_are() -> None:
    value = ({"mask": rows(2), "n": 3}, Record(rows(2), (rows(2), "s")), None)
    assert [path for path, _ in tree.entries(value)] == [
        ".0.mask", ".0.n", ".1.values", ".1.parts.0", ".1.parts.1", ".1.twice", ".2",
    ]  # fmt: skip
    assert len(list(tree.leaves(value))) == 4


def test_taking_changes_nothing() -> None:
    value = OrderedDict(a=rows(3))
    tree.take(value, slice(0, 1))
    assert value["a"].shape == (3, 1)


def test_figures_by_hand() -> None:
    value = (torch.zeros(2, 3), {"a": torch.zeros(2, dtype=torch.int64)})
    assert tree.count(value) == 2
    assert tree.elements(value) == 8
    assert tree.size_bytes(value) == 6 * 4 + 2 * 8


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ((), "no tensor"),
        ({"a": "text"}, "no tensor"),
        ((torch.zeros(3), torch.zeros(2)), r"\(3,\), \(2,\)"),
        (torch.tensor(1.0), r"\[\(\)\]"),
    ],
)
def test_what_has_no_count_says_why(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tree.count(value)


def test_tensors_without_dimensions_are_stacked() -> None:
    assert tree.concat([torch.tensor(1.0), torch.tensor(2.0)]).tolist() == [1.0, 2.0]


class Subtract(nn.Module):
    def forward(self, a: Any, b: Tensor | None = None, *, c: Tensor | None = None) -> Any:
        if isinstance(a, dict | tuple):
            return "one argument"
        return a - (0 if b is None else b) + (0 if c is None else c)


def test_tuples_are_positional_and_mappings_are_keyword_arguments() -> None:
    one, two = torch.tensor([5.0]), torch.tensor([3.0])
    model = Subtract()
    assert tree.call(model, one).tolist() == [5.0]
    assert tree.call(model, (one, two)).tolist() == [2.0]
    assert tree.call(model, {"a": one, "c": two}).tolist() == [8.0]
    assert tree.call(model, BatchEncoding({"a": one, "b": two})).tolist() == [2.0]
    assert tree.call(model, ({"x": one},)) == "one argument"
    assert tree.call(model, ((one, two),)) == "one argument"


def test_every_tensor_is_moved() -> None:
    moved = tree.to({"a": (rows(2), 1)}, "meta")
    assert moved["a"][0].is_meta
    assert moved["a"][1] == 1
