"""Ready-made metrics against sklearn's, and by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy
import pytest
import torch
from sklearn.metrics import f1_score, jaccard_score, mean_squared_error, roc_auc_score
from torch import Tensor

from diminuendo.engine import SetMetric, metrics
from diminuendo.engine.score import joined_scores, scores_of, value_of_metric
from diminuendo.engine.task import TaskError


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def indices(classes: int, *shape: int, seed: int = 1) -> Tensor:
    return torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(seed))


def value(metric: SetMetric, outputs: Tensor, targets: Tensor) -> float:
    """By batches of 7, as an evaluation takes them."""
    places = range(0, len(targets), 7)
    batches = [scores_of(metric, outputs[place : place + 7], targets[place : place + 7]) for place in places]
    return value_of_metric(metric, joined_scores(metric, batches))


def test_rmse_is_sklearns() -> None:
    outputs, targets = drawn(50, 3), drawn(50, 3, seed=1)
    expected = math.sqrt(mean_squared_error(targets, outputs))
    assert value(metrics.rmse(), outputs, targets) == pytest.approx(expected, rel=1e-6)
    assert value(metrics.rmse(), outputs[:, :1], targets[:, 0]) == pytest.approx(
        math.sqrt(mean_squared_error(targets[:, 0], outputs[:, 0])), rel=1e-6
    )
    assert not metrics.rmse().higher_is_better


def test_binary_f1_is_sklearns_of_class_1() -> None:
    logits, targets = drawn(80, 2), indices(2, 80)
    expected = 100 * f1_score(targets, logits.argmax(dim=1))
    assert value(metrics.f1(), logits, targets) == pytest.approx(expected)
    score = logits[:, 1] - logits[:, 0]
    assert value(metrics.f1(), score, targets) == pytest.approx(expected)
    assert value(metrics.f1(), score.unsqueeze(1), targets) == pytest.approx(expected)
    assert value(metrics.f1(), torch.full((9,), -1.0), torch.zeros(9, dtype=torch.int64)) == 0.0


def test_macro_f1_is_sklearns() -> None:
    logits, targets = drawn(80, 5), indices(4, 80)
    logits[:, 4] = -9.0  # a class that is nowhere is left out
    expected = 100 * f1_score(targets, logits.argmax(dim=1), average="macro")
    assert value(metrics.f1(5), logits, targets) == pytest.approx(expected)


def test_mean_iou_is_sklearns_over_all_pixels() -> None:
    logits, targets = drawn(20, 4, 3, 5), indices(4, 20, 3, 5)
    targets[:, 0] = -100
    counted = (targets != -100).flatten()
    found = logits.argmax(dim=1).flatten()[counted]
    expected = 100 * jaccard_score(targets.flatten()[counted], found, average="macro")
    assert value(metrics.mean_iou(4), logits, targets) == pytest.approx(expected)


def test_mean_iou_by_hand() -> None:
    # Class 0: 1 of 2 in the union; class 1: 2 of 3; class 2 is nowhere.
    logits = torch.eye(3)[torch.tensor([0, 1, 1, 1])]
    assert value(metrics.mean_iou(3), logits, torch.tensor([0, 0, 1, 1])) == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)


def test_auc_is_sklearns_and_ties_count_half() -> None:
    scores, targets = drawn(90).mul(2).round(), indices(2, 90)
    expected = 100 * roc_auc_score(targets, scores)
    assert value(metrics.auc(), scores, targets) == pytest.approx(expected)
    assert value(metrics.auc(), torch.stack([-scores, scores], dim=1), targets) == pytest.approx(expected)
    assert value(metrics.auc(), torch.zeros(4, 1), torch.tensor([0, 1, 1, 0])) == 50.0
    assert math.isnan(metrics.auc().value(torch.ones(3, 2, dtype=torch.float64)))


def test_perplexity_is_the_exponential_of_numpys_mean() -> None:
    logits, targets = drawn(30, 6, 11), indices(11, 30, 6)
    targets[:, 0] = -100
    rows = logits.numpy().astype(numpy.float64)
    log_shares = rows - numpy.log(numpy.exp(rows).sum(axis=-1, keepdims=True))
    said = numpy.take_along_axis(log_shares[:, 1:], targets[:, 1:, None].numpy(), axis=-1)
    assert value(metrics.perplexity(), logits, targets) == pytest.approx(math.exp(-said.mean()), rel=1e-6)
    flat = scores_of(metrics.perplexity(), logits.flatten(0, 1), targets)
    assert metrics.perplexity().value(flat) == pytest.approx(math.exp(-said.mean()), rel=1e-6)
    assert value(metrics.perplexity(), torch.zeros(5, 8), indices(8, 5)) == pytest.approx(8.0)


def test_a_function_takes_what_they_are_about() -> None:
    outputs = {"boxes": torch.ones(2, 3), "score": torch.tensor([3.0, 5.0])}
    scores = scores_of(metrics.rmse(of=lambda outputs: outputs["score"]), outputs, torch.tensor([0.0, 1.0]))
    assert scores.tolist() == [9.0, 16.0]


FLAT = torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("make", "outputs", "targets", "message"),
    [
        (metrics.rmse, torch.zeros(4, 2), torch.zeros(4), r"'rmse': predictions of shape \(4, 2\) .* \(4,\)"),
        (lambda: metrics.f1(3), torch.zeros(4, 2), FLAT, r"'f1': logits of shape \(4, 2\) for 3 classes"),
        (lambda: metrics.mean_iou(2), torch.zeros(4, 2, 3), FLAT, r"'mean_iou': targets of shape \(4,\) for pred"),
        (lambda: metrics.mean_iou(2), torch.zeros(4, 2), FLAT + 2, r"'mean_iou': targets reach from 2 to 2 for 2"),
        (metrics.auc, torch.zeros(4, 3), FLAT, r"'auc': logits of shape \(4, 3\)"),
        (metrics.auc, torch.zeros(4), FLAT + 2, r"'auc': targets are not 0 and 1 alone"),
        (metrics.perplexity, torch.zeros(4, 3), FLAT[:2], r"'perplexity': logits of shape \(4, 3\) for targets"),
    ],
)
def test_shapes_that_do_not_fit_are_named(
    make: Callable[[], SetMetric], outputs: Tensor, targets: Tensor, message: str
) -> None:
    with pytest.raises(TaskError, match=message):
        make().statistics(outputs, targets)


@pytest.mark.parametrize("classes", [1, 0, 2.0, True])
def test_classes_are_a_number_of_them(classes: int) -> None:
    with pytest.raises(TaskError, match=r"'mean_iou': .* classes; give the number of classes, at least 2"):
        metrics.mean_iou(classes)
