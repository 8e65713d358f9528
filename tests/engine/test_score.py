from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from diminuendo.engine.score import divergence, outputs_of, scores_of, verdict
from diminuendo.engine.task import TOP1, Metric, TaskError


def test_top1_is_in_points_of_each_sample() -> None:
    outputs = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0]])
    assert scores_of(TOP1, outputs, torch.tensor([0, 0, 0])).tolist() == [100.0, 0.0, 100.0]


def test_divergence_of_two_classes_by_hand() -> None:
    # p = (3/4, 1/4), q = (1/2, 1/2): KL = 3/4 ln(3/2) + 1/4 ln(1/2).
    p, q = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    assert divergence(p, q) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-7)
    assert divergence(p, p) == 0.0
    assert math.isnan(divergence(p, torch.full((1, 2), math.nan)))


def test_verdict_is_the_agresti_min_interval() -> None:
    # 100 pairs: 6 lost, 2 won. Agresti and Min (2005): n + 2 pairs with 6.5 and 2.5 discordant ones.
    original = torch.tensor([100.0] * 50 + [0.0] * 50, dtype=torch.float64)
    candidate = original.clone()
    candidate[:6] = 0.0
    candidate[50:52] = 100.0
    found = verdict(TOP1, original, candidate)
    b, c, n = 6.5, 2.5, 102.0
    centre, margin = (b - c) / n, 1.959964 * math.sqrt(b + c - (b - c) ** 2 / n) / n
    assert found.drop == pytest.approx(4.0)
    assert found.score == pytest.approx(46.0)
    assert (found.drop_low, found.drop_high) == pytest.approx((100 * (centre - margin), 100 * (centre + margin)))


def test_no_disagreement_is_no_certainty() -> None:
    same = torch.tensor([100.0] * 30 + [0.0], dtype=torch.float64)
    found = verdict(TOP1, same, same)
    assert found.drop == 0.0
    assert found.drop_low < -1.0
    assert found.drop_high > 1.0


def test_a_lower_is_better_metric_drops_when_it_rises() -> None:
    error = Metric("error", lambda outputs, targets: outputs, higher_is_better=False)
    assert verdict(error, torch.tensor([1.0, 1.0]), torch.tensor([1.0, 3.0])).drop == 1.0


def test_a_metric_of_another_shape_is_named() -> None:
    mean = Metric("mean", lambda outputs, targets: outputs.mean())
    with pytest.raises(TaskError, match="'mean' returned shape"):
        scores_of(mean, torch.zeros(4, 2), torch.zeros(4))
    broken = Metric("broken", lambda outputs, targets: outputs[:, 0] * math.nan)
    with pytest.raises(TaskError, match="not finite"):
        scores_of(broken, torch.zeros(4, 2), torch.zeros(4))


def test_outputs_are_of_eval_mode_and_the_mode_comes_back() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.9))
    inputs = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    outputs = outputs_of(model, inputs, batch_size=4)
    assert model.training
    torch.testing.assert_close(outputs, model[0](inputs).detach())
