from __future__ import annotations

import pytest
from tests.bench.search import gain


def row(*ratios: float) -> dict[int, dict[str, float]]:
    return {seed: {"ratio": ratio} for seed, ratio in enumerate(ratios)}


def test_the_gain_is_our_median_over_the_best_of_the_others() -> None:
    table = {"ours": row(4.0, 6.0, 20.0), "tpe": row(3.0, 2.0, 9.0), "random": row(1.0, 4.0, 5.0)}
    assert gain(table) == pytest.approx(6.0 / 4.0)
