from __future__ import annotations

from pathlib import Path

import pytest
from tests.bench.search import at_work, gain, swept


def row(*ratios: float) -> dict[int, dict[str, float]]:
    return {seed: {"ratio": ratio} for seed, ratio in enumerate(ratios)}


def test_the_gain_is_our_median_over_the_best_of_the_others() -> None:
    table = {"ours": row(4.0, 6.0, 20.0), "tpe": row(3.0, 2.0, 9.0), "random": row(1.0, 4.0, 5.0)}
    assert gain(table) == pytest.approx(6.0 / 4.0)


def test_what_methods_share_goes_with_the_last_process_at_work(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    with at_work(tmp_path) as first:
        with at_work(tmp_path):
            assert not swept(first, work)
            assert work.exists()
        assert swept(first, work)
    assert not work.exists()
