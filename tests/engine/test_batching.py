"""Networks and metrics that look at the other samples of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.engine import tasks
from tests.engine.tasks import held
from tests.engine.threads import one_thread  # noqa: F401 - a fixture
from torch import Tensor, nn

from diminuendo.engine import Metric, Samples, SetMetric, Task, batching
from diminuendo.engine.task import TOP1, AnyMetric


def samples(count: int = batching.SAMPLES) -> Samples:
    return Samples(torch.randn(count, 3, generator=torch.Generator().manual_seed(0)), torch.arange(count) % 2)


def doubts(model: nn.Module, metric: AnyMetric = TOP1, count: int = batching.SAMPLES) -> list[tuple[str, str]]:
    task = Task(model, samples(), samples(), metric=metric)
    return list(batching.doubts(model.eval(), task, samples(count)))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def of_itself(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs[:, 0]


def by_the_largest(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs[:, 0] / outputs.max()


def by_the_number(outputs: Tensor, targets: Tensor) -> Tensor:
    return 100.0 * (outputs.argmax(dim=1) == targets) / len(targets)


@pytest.mark.parametrize(
    ("score", "expected"), [(of_itself, []), (by_the_largest, ["METRIC_DEPENDS_ON_BATCH"]), (by_the_number, None)]
)
def test_a_metric_that_looks_at_others_is_told(score: Callable[[Any, Any], Tensor], expected: list[str] | None) -> None:
    expected = ["METRIC_DEPENDS_ON_BATCH"] if expected is None else expected
    assert [reason for reason, _ in doubts(network(), Metric("odd", score))] == expected
    by_set = SetMetric("odd", lambda outputs, targets: score(outputs, targets).unsqueeze(1), lambda values: 0.0)
    found = doubts(network(), by_set)
    assert [reason for reason, _ in found] == expected
    assert all(
        message.startswith("metric: 'odd' gives something else for ") and "SetMetric.value" in message
        for _, message in found
    )


class Centred(nn.Linear):
    """Takes the mean of the batch away."""

    def forward(self, input: Tensor) -> Tensor:
        outputs = super().forward(input)
        return outputs - outputs.mean(dim=0)


class Noisy(nn.Linear):
    """Another one each time."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + torch.randn(2)


def test_a_network_that_looks_at_others_is_told() -> None:
    ((reason, message),) = doubts(Centred(3, 2))
    assert reason == "MODEL_DEPENDS_ON_BATCH"
    assert message.startswith("model: its logits on 61 samples are others in two batches than in one, by ")
    statistics = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, track_running_stats=False))
    assert [reason for reason, _ in doubts(statistics)] == ["MODEL_DEPENDS_ON_BATCH"]
    assert doubts(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))) == []
    assert doubts(Noisy(3, 2)) == []


def test_one_sample_has_no_others() -> None:
    assert doubts(Centred(3, 2), count=1) == []


def untrained_language() -> Task:
    torch.manual_seed(0)
    words = tasks.texts(80, 2)
    return Task(tasks.Language().eval(), words, words, logits=lambda outputs: outputs["logits"].flatten(0, 1))


@pytest.mark.parametrize(
    "make", [tasks.recurrent, untrained_language, tasks.narrow_weights, tasks.records, tasks.regression]
)
def test_outputs_of_any_kind_are_cut_by_samples(make: Callable[[], Task]) -> None:
    """States with samples in another dimension, rows of (N * T), scalars and words among the outputs."""
    task = make()
    some = held(task.evaluation).head(batching.SAMPLES)
    assert list(batching.doubts(task.model, task, some)) == []


def test_outputs_that_cannot_be_cut_are_left_alone() -> None:
    def by_columns(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.T.reshape(-1)[: len(targets)] if len(outputs) == 61 else torch.zeros(1)

    assert doubts(network(), Metric("odd", by_columns)) == []
