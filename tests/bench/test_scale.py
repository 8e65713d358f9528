"""The simulation of the scheduler, small."""

from __future__ import annotations

import pytest
from tests.bench import scale


def test_evaluators_are_busy_and_shares_are_fair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "EVALUATIONS", 10)
    found = scale.simulate(4, 15, seed=1, effort="quick")
    assert found["busy_while_queued"] > 0.95
    assert found["worst_share_off"] < 0.35, "in so short a time; without weights it would be 1"
    assert found["worst_off_while_in_line"] < 0.35
    assert list(found["search_us_by_outcomes_told"])[:2] == ["0 to 9", "10 to 19"]
    assert found["late_jobs_begin_s"]["worst"] < 3 * scale.MEAN_S
    assert found["attempts_lost"] > 0
    assert found["works"] >= 15 * 10
