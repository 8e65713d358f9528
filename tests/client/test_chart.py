"""What the chart of candidates draws: where they are, where delta is, and that it fits."""

from __future__ import annotations

import itertools
import math

import pytest

from diminuendo.client import Candidate
from diminuendo.client.display.chart import caption, chart

Points = list[tuple[float, float]]


def drawn(
    points: Points,
    best: int | None = None,
    delta: float | None = 1.0,
    *,
    width: int = 68,
    height: int = 12,
    ascii_only: bool = False,
) -> list[str]:
    candidates = [Candidate(ratio, ratio, drop) for ratio, drop in points]
    chosen = None if best is None else candidates[best]
    lines = chart(candidates, chosen, delta, width=width, height=height, ascii_only=ascii_only)
    return [line.plain for line in lines]


def places(lines: list[str], mark: str) -> list[tuple[int, int]]:
    """(row, column right of the axis) of every such mark."""
    return [
        (row, column - 8) for row, line in enumerate(lines[:-2]) for column, cell in enumerate(line) if cell == mark
    ]


def test_candidates_are_where_their_figures_say() -> None:
    # 60 columns for drops from -0.5 to 2.5, 10 rows for ratios from 1 to 1.05 * 16 by their logarithm.
    lines = drawn([(16.0, 0.5), (4.0, 0.0), (1.0, 2.0), (8.0, 0.9)], best=0)
    assert places(lines, "◆") == [(9 - round(9 * math.log(16) / math.log(16.8)), round(59 / 3))]
    below = round(9 * math.log(4) / math.log(16.8)), round(59 * 0.5 / 3)
    near = round(9 * math.log(8) / math.log(16.8)), round(59 * 1.4 / 3)
    assert places(lines, "●") == [(9 - near[0], near[1]), (9 - below[0], below[1])]
    assert places(lines, "·") == [(9, round(59 * 2.5 / 3))], "not inside delta"


def test_delta_has_a_line_and_its_number_below() -> None:
    lines = drawn([(3.0, 0.1)])
    assert places(lines, "┊") == [(row, round(59 / 2)) for row in range(10)]
    assert lines[-1].index("delta 1") + len("delta 1") // 2 == 8 + round(59 / 2)
    assert lines[-1].split() == ["0", "delta", "1", "2.50", "drop"]
    assert "┊" not in "".join(drawn([(3.0, 0.1), (2.0, 9.0)], delta=None))
    assert drawn([(3.0, 0.1), (2.0, 9.0)], delta=None)[-1].split() == ["0", "9.00", "drop"]


def test_what_is_beyond_is_told_at_the_edge() -> None:
    lines = drawn([(30.0, 60.0), (2.0, -7.0)])
    assert [column for _, column in places(lines, "›")] == [59]
    assert [column for _, column in places(lines, "●")] == [0]


def test_ratios_are_named_at_both_ends() -> None:
    lines = drawn([(16.0, 0.5), (0.5, 0.0)])
    assert lines[0].startswith(" 16.80x┤")
    assert lines[9].startswith("  0.50x┤")
    assert lines[1].startswith("       │")
    assert drawn([(5000.0, 0.5)])[0].startswith("  5250x┤")


@pytest.mark.parametrize("height", [5, 6, 20])
@pytest.mark.parametrize("width", [40, 60, 158])
def test_it_has_its_size_whatever_there_is_to_show(width: int, height: int) -> None:
    for points, delta in itertools.product(
        ([], [(1.0, 0.0)], [(1e6, 1e9), (0.01, -1e9)], [(math.inf, 1.0), (2.0, math.nan)]), (0.001, 100.0, None)
    ):
        lines = drawn(points, best=0 if points else None, delta=delta, width=width, height=height)
        assert len(lines) == height
        assert max(map(len, lines)) <= width


def test_a_terminal_without_such_characters_gets_others() -> None:
    lines = drawn([(16.0, 0.5), (4.0, 0.0), (1.0, 2.0), (3.0, 70.0)], best=0, ascii_only=True)
    assert all(line.isascii() for line in lines)
    assert set("*o.>:") <= set("".join(lines))


def test_the_caption_counts() -> None:
    candidates = [Candidate(2.0, 2.0, drop) for drop in (0.5, 1.0, 1.5)]
    assert caption(candidates, 1.0) == "params ratio against drop: 3 candidates, 2 inside delta"
    assert caption(candidates[:1], None) == "params ratio against drop: 1 candidate"
