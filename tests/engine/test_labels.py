"""Which classes a half of the evaluation data lacks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diminuendo.engine.labels import labels_of
from diminuendo.engine.search.work import Labels

LOGITS = torch.zeros(6, 5)


def classes(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def test_classes_of_the_other_data_that_a_half_lacks() -> None:
    found = labels_of(classes(0, 1, 2, 3, 4), classes(0, 0, 0, 1, 2, -100), classes(0, 1, 3), LOGITS, top1=True)
    assert found == Labels(classes=5, majority=0.5, unseen=(3, 4), unjudged=(2, 4), top1=True)
    assert labels_of(None, classes(0, 1), classes(0, 1), LOGITS, top1=False) == Labels(5, 0.5, (), (), top1=False)


@pytest.mark.parametrize(
    ("train", "search", "sealed", "logits"),
    [
        (None, None, classes(0), LOGITS),
        (None, classes(0), None, LOGITS),
        (None, classes(0, 5), classes(0), LOGITS),  # a number that is no class of the network's
        (classes(7), classes(0), classes(0), LOGITS),
        (None, classes(0, 1), classes(0), torch.zeros(2, 1)),  # a regression
        (None, classes(0, 1), classes(0), torch.zeros(2, 5, 3)),
        (None, classes(-100, -100), classes(0), LOGITS),
    ],
)
def test_targets_that_are_no_classes_of_the_logits_are_left_alone(
    train: Tensor | None, search: Tensor | None, sealed: Tensor | None, logits: Tensor
) -> None:
    assert labels_of(train, search, sealed, logits, top1=True) is None
