from __future__ import annotations

import itertools

import pytest

from diminuendo.engine.formats.ladder import greedy_path, spread


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 50, 512, 5000])
def test_spread_is_short_and_has_both_ends(count: int) -> None:
    chosen = spread(count)
    assert len(chosen) == min(count, 32)
    assert chosen == sorted(set(chosen))
    if count:
        assert (chosen[0], chosen[-1]) == (1, count)
    if count > 100:  # even on a log scale once steps are larger than one
        ratios = [b / a for a, b in zip(chosen[-9:], chosen[-8:], strict=False)]
        assert max(ratios) / min(ratios) < 1.05


def test_each_step_saves_most_for_its_params() -> None:
    # Shares (0.6, 0.3, 0.1) and (0.5, 0.5); a step of the first costs 1, of the second 2.
    path = list(greedy_path([[6, 3, 1], [5, 5]], (3, 2), lambda ranks: ranks[0] + 2 * ranks[1]))
    # From (1, 1): the first gains 0.3 * 0.5 / 1 = 0.15, the second 0.6 * 0.5 / 2 = 0.15: the first of equals. From
    # (2, 1): 0.1 * 0.5 = 0.05 against 0.9 * 0.5 / 2 = 0.225.
    assert path == [(1, 1), (2, 1), (2, 2), (3, 2)]


@pytest.mark.parametrize("first", [[1.0], [0.0, 0.0], [5.0, 1.0, 1.0, 0.0]])
def test_a_path_rises_by_one_rank_at_a_time_to_the_top_whatever_the_spectra(first: list[float]) -> None:
    path = list(greedy_path([first, [0.0, 0.0, 0.0]], (4, 3), sum))
    assert path[0] == (1, 1)
    assert path[-1] == (4, 3)
    for low, high in itertools.pairwise(path):
        assert sum(b - a for a, b in zip(low, high, strict=True)) == 1
