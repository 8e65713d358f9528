from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from diminuendo.engine.search.isotonic import Monotone, fit


@pytest.mark.parametrize("seed", range(5))
def test_fit_at_the_knots_agrees_with_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y, w = rng.permutation(20).astype(float), rng.normal(size=20).cumsum(), rng.uniform(0.5, 2, 20)
    reference = IsotonicRegression().fit(x, y, sample_weight=w).predict(np.sort(x))
    ours = fit(x.tolist(), y.tolist(), w.tolist())
    # A block is one knot here and a plateau there: its value must be among the plateaus, in order.
    plateaus = [reference[0]]
    for value in reference[1:]:
        if not math.isclose(value, plateaus[-1], abs_tol=1e-12):
            plateaus.append(value)
    assert ours.y == pytest.approx(plateaus)
    assert all(a < b for a, b in zip(ours.x, ours.x[1:], strict=False))


def test_equal_positions_are_averaged() -> None:
    assert fit([1.0, 1.0, 2.0], [0.0, 2.0, 3.0]) == Monotone((1.0, 2.0), (1.0, 3.0))


def test_crossing_is_where_the_level_is_passed() -> None:
    line = Monotone((0.0, 1.0, 2.0), (0.0, 1.0, 3.0))
    assert line.crossing(2.0) == pytest.approx(1.5)
    assert line.crossing(-1.0) is None
    assert line.crossing(6.0) == pytest.approx(4.0)  # the overall slope is 1.5
    assert Monotone((0.0, 1.0), (0.5, 0.5)).crossing(1.0) == math.inf


def test_beyond_the_last_knot_the_overall_slope_is_followed() -> None:
    line = Monotone((0.0, 1.0, 2.0), (0.0, 0.0, 1.0))
    assert line(4.0) == pytest.approx(2.0)
    assert line(-3.0) == 0.0


def test_no_observation_is_refused() -> None:
    with pytest.raises(ValueError, match="as many positions"):
        fit([], [])
