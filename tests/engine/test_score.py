from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from diminuendo.engine import bootstrap, metrics
from diminuendo.engine.score import (
    Divergence,
    NotFiniteError,
    Varying,
    deviation_of,
    divergence,
    joined_scores,
    outputs_of,
    scores_of,
    value_of_metric,
    verdict,
)
from diminuendo.engine.task import TOP1, Metric, SetMetric, TaskError


def test_top1_is_in_points_of_each_sample() -> None:
    outputs = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0]])
    assert scores_of(TOP1, outputs, torch.tensor([0, 0, 0])).tolist() == [100.0, 0.0, 100.0]


def test_divergence_of_two_classes_by_hand() -> None:
    # p = (3/4, 1/4), q = (1/2, 1/2): KL = 3/4 ln(3/2) + 1/4 ln(1/2).
    p, q = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    assert divergence(p, q) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-7)
    assert divergence(p, p) == 0.0
    assert math.isnan(divergence(p, torch.full((1, 2), math.nan)))


@pytest.mark.parametrize("shape", [(12, 5), (12, 3, 2, 2), (12, 1), (12,)])
def test_divergence_of_batches_is_that_of_all(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(shape, generator=generator) for _ in range(2))
    found = Divergence()
    for start, end in ((0, 5), (5, 6), (6, 12)):
        found.add(p[start:end], q[start:end])
    assert found.value == pytest.approx(divergence(p, q), rel=1e-12)
    found.add(p, torch.full_like(p, torch.nan))
    assert math.isnan(found.value)


def test_how_much_outputs_vary_by_hand() -> None:
    # Softmax (3/4, 1/4), (1/4, 3/4) and (1/2, 1/2): squares of distances to (1/2, 1/2) are 1/8, 1/8 and 0.
    log3 = math.log(3.0)
    reference = torch.tensor([[log3, 0.0], [0.0, log3], [1.0, 1.0]])
    half = torch.tensor([[log3, 0.0], [0.0, log3], [log3, 0.0], [0.0, log3]])
    found = Varying()
    found.add(reference, reference + torch.tensor([[1.0], [-2.0], [5.0]]))
    assert found.share == pytest.approx(1.0)
    found.add(half, torch.tensor([[5.0, 1.0]]).expand(4, 2))  # the same for every sample: (1/4) of (1/4 + 1/2) are left
    assert found.share == pytest.approx(1 / 3)
    constant = Varying()
    constant.add(half, torch.full((4, 2), -math.inf).index_fill(1, torch.tensor([0]), 0.0))
    assert constant.share == 0.0
    values, shifted = torch.tensor([1.0, 3.0]), torch.tensor([[[5.0, 0.0]], [[5.0, 1.0]]])
    columns = Varying()
    columns.add(values, values / 2)
    assert columns.share == pytest.approx(0.25)
    positions = Varying()  # at each position by itself: the second one alone varies
    positions.add(torch.tensor([[[0.0, 0.0]], [[2.0, 0.0]]]), shifted)
    assert positions.share == pytest.approx(0.25)


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_outputs_of_a_reference_that_does_not_vary_are_no_less_varied(value: float) -> None:
    found = Varying()
    found.add(torch.full((3, 2), value), torch.zeros(3, 2))
    assert found.share == 1.0
    assert Varying().share == 1.0


def test_divergence_is_a_mean_over_positions_too() -> None:
    # One position of each kind: KL 0 and the one above.
    p = torch.stack([torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)], dim=2)
    q = torch.zeros(1, 2, 2)
    assert divergence(p, q) == pytest.approx((0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2, abs=1e-7)


def test_classes_that_are_ruled_out_do_not_count() -> None:
    out = -math.inf
    p, q = torch.tensor([[math.log(3.0), 0.0, out]]), torch.tensor([[0.0, 0.0, out]])
    assert divergence(p, q) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-7)
    assert math.isnan(divergence(q, torch.tensor([[0.0, out, out]])))


@pytest.mark.parametrize("shape", [(4,), (4, 1), (2, 1, 2)])
def test_one_column_diverges_by_its_squared_difference(shape: tuple[int, ...]) -> None:
    # Variance of 0, 2, 4, 6: 5. Differences 1, 1, 0, 0: mean square 1/2. Half of 1/2 / 5.
    p = torch.tensor([0.0, 2.0, 4.0, 6.0]).reshape(shape)
    q = torch.tensor([1.0, 1.0, 4.0, 6.0]).reshape(shape)
    assert divergence(p, q) == pytest.approx(0.05, abs=1e-12)
    assert divergence(torch.ones(shape), torch.ones(shape) * 3) == 2.0  # no variance counts as 1


def test_numbers_of_any_kind_diverge_finitely() -> None:
    whole = torch.tensor([[3, 0], [1, 2]])
    assert divergence(whole, whole) == 0.0
    assert divergence(whole, whole.flip(1)) > 0.0
    assert divergence(whole == 0, whole == 3) > 0.0
    narrow = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    assert 0.0 < divergence(narrow, narrow.roll(1, 0)) < 10.0


def test_logits_of_other_shapes_are_not_compared() -> None:
    with pytest.raises(TaskError, match=r"^logits: shape \(1, 2\) where the original network has \(3, 2\)"):
        divergence(torch.zeros(3, 2), torch.zeros(1, 2))


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
    number = Metric("number", lambda outputs, targets: 3.0)  # type: ignore[arg-type, return-value]
    with pytest.raises(TaskError, match="'number' returned a float for 4 samples"):
        scores_of(number, torch.zeros(4, 2), torch.zeros(4))
    broken = Metric("broken", lambda outputs, targets: outputs[:, 0] * math.nan)
    with pytest.raises(NotFiniteError, match="not finite"):
        scores_of(broken, torch.zeros(4, 2), torch.zeros(4))


def test_outputs_are_of_eval_mode_and_every_mode_comes_back() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.9), nn.BatchNorm1d(3).eval())
    inputs = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    outputs = outputs_of(model, inputs, batch_size=4)
    assert [module.training for module in model] == [True, True, False]
    torch.testing.assert_close(outputs, model[2](model[0](inputs)).detach())
    assert not outputs.requires_grad
    assert not outputs.is_inference()


class Many(nn.Module):
    """Takes two inputs and gives a record with a tensor, a tuple and words; remembers a tensor of its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.seen = torch.zeros(())

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Any]:
        self.seen = a.sum()
        return {"logits": self.scale * a, "parts": (b, "words"), "none": None}


def test_outputs_of_any_kind_are_put_together() -> None:
    a, b = torch.arange(10.0).reshape(5, 2), torch.arange(5)
    model = Many()
    found = outputs_of(model, (a, b), batch_size=2)
    assert torch.equal(found["logits"], 2 * a)
    assert torch.equal(found["parts"][0], b)
    assert (found["parts"][1], found["none"]) == ("words", None)
    assert torch.equal(outputs_of(model, {"b": b, "a": a}, part=lambda o: o["logits"]), 2 * a)
    (model.seen * model.scale).backward()  # type: ignore[no-untyped-call] # kept tensors can be trained with


class Counting(nn.Module):
    """Counts its calls in a buffer, in eval mode too, and shows the count."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


def test_buffers_that_a_forward_changes_come_back() -> None:
    model = Counting()
    assert outputs_of(model, torch.ones(3, 1), batch_size=2).tolist() == [[1.0], [1.0], [2.0]]
    assert model.calls.tolist() == [0.0]


class LastState(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x.T  # (N, C) and (C, N), as the last states of an nn.LSTM


def test_outputs_whose_other_parts_have_no_sample_dimension_first_are_left_out() -> None:
    x = torch.arange(6.0).reshape(3, 2)
    assert torch.equal(outputs_of(LastState(), x, batch_size=2, part=lambda outputs: outputs[0]), x)


# --- metrics of a set of samples -------------------------------------------------------------------------------


def mean_metric(*, higher_is_better: bool = True) -> SetMetric:
    """A mean in disguise."""
    return SetMetric("mean", lambda outputs, targets: outputs, lambda values: float(values.mean()), higher_is_better)


def normal(count: int, seed: int) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_set_metric_is_the_value_of_all_samples_statistics() -> None:
    metric = metrics.rmse()
    outputs, targets = torch.tensor([[3.0], [0.0], [1.0]]), torch.tensor([[0.0], [4.0], [1.0]])
    scores = scores_of(metric, outputs, targets)
    assert (scores.tolist(), scores.dtype) == ([9.0, 16.0, 0.0], torch.float64)
    assert value_of_metric(metric, scores) == pytest.approx(math.sqrt(25 / 3))
    assert value_of_metric(TOP1, torch.tensor([100.0, 0.0])) == 50.0
    shapes = [torch.zeros(2, 3), torch.zeros(1, 3)]
    assert joined_scores(metric, shapes).shape == (3, 3)


def test_a_value_that_sorts_in_place_leaves_the_statistics_alone() -> None:
    median = SetMetric("median", lambda outputs, targets: outputs, lambda values: float(values.median()))
    sorting = SetMetric("median", median.statistics, lambda values: float(values.copy_(values.sort()[0])[1]))
    scores = torch.tensor([3.0, 1.0, 2.0])
    assert value_of_metric(sorting, scores) == value_of_metric(median, scores) == 2.0
    assert scores.tolist() == [3.0, 1.0, 2.0]


@pytest.mark.parametrize("found", [2, 2.0, torch.tensor(2.0), torch.tensor([2]), numpy.float32(2), numpy.int64(2)])
def test_a_number_of_any_kind_is_a_value(found: Any) -> None:
    metric = SetMetric("two", lambda outputs, targets: outputs, lambda values: found)
    assert value_of_metric(metric, torch.zeros(3)) == 2.0


@pytest.mark.parametrize(
    ("found", "error", "message"),
    [
        (math.nan, NotFiniteError, r"metric 'odd' is nan of 3 samples; let SetMetric\.value give a finite number"),
        (math.inf, NotFiniteError, r"metric 'odd' is inf"),
        (torch.zeros(3), TaskError, r"metric 'odd': its value is shape \(3,\); let .* return one real number"),
        (torch.tensor(1j), TaskError, r"metric 'odd': its value is shape \(\)"),
        (None, TaskError, r"metric 'odd': its value is a NoneType"),
        (True, TaskError, r"metric 'odd': its value is a bool"),
        (1j, TaskError, r"metric 'odd': its value is a complex"),
    ],
)
def test_what_is_no_value_is_said(found: Any, error: type[Exception], message: str) -> None:
    metric = SetMetric("odd", lambda outputs, targets: outputs, lambda values: found)
    with pytest.raises(error, match=message):
        value_of_metric(metric, torch.zeros(3))


@pytest.mark.parametrize(
    ("found", "error", "message"),
    [
        (torch.zeros(2, 3), TaskError, r"returned shape \(2, 3\) for 3 samples; .* shape \(N, \.\.\.\) with N = 3"),
        (torch.tensor(1.0), TaskError, r"returned shape \(\) for 3 samples"),
        (7.0, TaskError, r"returned a float for 3 samples"),
        (torch.zeros(3, dtype=torch.complex64), TaskError, r"returned shape \(3,\) for 3 samples"),
        (torch.full((3, 2), math.nan), NotFiniteError, r"returned a value that is not finite"),
    ],
)
def test_statistics_of_another_shape_are_said(found: Any, error: type[Exception], message: str) -> None:
    metric = SetMetric("odd", lambda outputs, targets: found, lambda values: 0.0)
    with pytest.raises(error, match=message):
        scores_of(metric, torch.zeros(3), torch.zeros(3))


def test_statistics_that_differ_in_shape_from_batch_to_batch_are_said() -> None:
    with pytest.raises(TaskError, match=r"metric 'mean' returned statistics of other shapes .* \(2,\), \(3,\)\)"):
        joined_scores(mean_metric(), [torch.zeros(4, 2), torch.zeros(4, 3)])


def test_the_interval_of_a_mean_in_disguise_is_that_of_the_mean() -> None:
    """1000 draws tell a standard error to 1 / sqrt(2000), about 2 %; the pseudo-samples add alike."""
    mean = Metric("mean", lambda outputs, targets: outputs)
    for lost in (0, 1, 3, 40):
        original = torch.where(torch.arange(200) < 150, 100.0, 0.0).to(torch.float64)
        candidate = original.clone()
        candidate[:lost] = 0.0
        expected, found = verdict(mean, original, candidate), verdict(mean_metric(), original, candidate)
        assert (found.score, found.drop) == pytest.approx((expected.score, expected.drop))
        widths = [each.drop_high - each.drop_low for each in (expected, found)]
        assert widths[1] == pytest.approx(widths[0], rel=0.08)
        assert verdict(mean_metric(), original, candidate) == found  # the same draws


def test_no_sample_that_differs_is_no_certainty_about_a_set() -> None:
    """Of 400 samples one is missed by both: F1 would lose what one sample weighs, whichever it were."""
    targets = torch.arange(400) % 2
    logits = torch.where(targets == 1, 1.0, -1.0).index_fill(0, torch.tensor([1]), -1.0)
    scores = scores_of(metrics.f1(), logits, targets)
    found = verdict(metrics.f1(), scores, scores)
    assert found.drop == 0.0
    # F1 = 2 * 199 / 399; without the miss 1, and without a hit 2 * 198 / 397.
    f1 = 100 * 2 * 199 / 399
    spread = (f1 - 100 * 2 * 198 / 397) - (f1 - 100.0)
    assert found.drop_high == pytest.approx(1.959964 * spread, rel=1e-6)
    assert found.drop_low == -found.drop_high


def test_where_less_is_better_a_set_metric_drops_when_it_rises() -> None:
    one, two = torch.ones(30, dtype=torch.float64), torch.full((30,), 2.0, dtype=torch.float64)
    assert verdict(mean_metric(higher_is_better=False), one, two).drop == 1.0
    assert verdict(mean_metric(), one, two).drop == -1.0


def test_intervals_of_a_root_mean_square_hold_its_true_drop_as_often_as_they_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Errors of standard deviation 1 and 1.2, half of whose variance is shared: the true drop is 0.2."""
    monkeypatch.setattr(bootstrap, "USUAL", bootstrap.Effort(60, 32))
    metric, hits, trials = metrics.rmse(), 0, 300
    for seed in range(trials):
        shared, one, other = (normal(250, 3 * seed + place) for place in range(3))
        original, candidate = (shared + one) / math.sqrt(2), 1.2 * (shared + other) / math.sqrt(2)
        found = verdict(metric, original.square(), candidate.square())
        hits += found.drop_low <= 0.2 <= found.drop_high
    assert 0.90 <= hits / trials <= 0.99


def test_draws_that_have_no_value_are_left_out_and_few_that_have_one_are_refused() -> None:
    """Of 30 samples one is of class 1: it is in 1 - (29 / 30)^30, 64 %, of the draws."""
    targets = torch.zeros(30, dtype=torch.int64).index_fill(0, torch.tensor([0]), 1)
    scores = scores_of(metrics.auc(), torch.arange(30.0), targets)
    draws = bootstrap.Draws(metrics.auc().value, scores)
    figures = draws.of(scores)
    assert float(figures.isfinite().double().mean()) == pytest.approx(1 - (29 / 30) ** 30, abs=0.05)
    assert math.isfinite(bootstrap.standard_error(figures))
    assert len(draws.influences(scores)) == 29  # without the one there is no area

    def value(values: Tensor) -> float:
        if len(set(values.tolist())) < 30:
            raise ValueError("a sample is there twice")
        return 1.0

    with pytest.raises(TaskError, match=r"^metric: it has a finite value on 0 of 1000 random draws"):
        deviation_of(SetMetric("whole", lambda outputs, targets: outputs, value), torch.arange(30.0))


def test_memory_that_runs_out_in_a_draw_is_not_taken_for_a_draw_without_a_value() -> None:
    def value(values: Tensor) -> float:
        raise MemoryError

    with pytest.raises(MemoryError):
        bootstrap.Draws(value, torch.zeros(3))


def test_a_slow_value_is_asked_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    for seconds, effort in ((0.001, bootstrap.USUAL), (0.02, bootstrap.SLOW), (1.0, bootstrap.SLOWEST)):
        monkeypatch.setattr(
            "diminuendo.engine.bootstrap.time.perf_counter", lambda seconds=seconds: seconds * next(clock)
        )
        draws = bootstrap.Draws(lambda values: float(values.mean()), torch.arange(50.0))
        assert draws.effort == effort
        assert len(draws.of(torch.arange(50.0))) == effort.draws
        assert len(draws.influences(torch.arange(50.0))) == min(50, effort.lacking)


def test_the_deviation_is_what_the_standard_error_is_made_of() -> None:
    values = 10.0 * normal(400, 0)
    expected = float(values.std(correction=0))
    assert deviation_of(Metric("mean", lambda outputs, targets: outputs), values) == pytest.approx(expected)
    assert deviation_of(mean_metric(), values) == pytest.approx(expected, rel=0.08)
    # The delta method: d sqrt(m) = dm / (2 sqrt(m)), and the variance of squares of normal errors is 2 sigma^4.
    assert deviation_of(metrics.rmse(), values.square()) == pytest.approx(10.0 / math.sqrt(2), rel=0.12)
