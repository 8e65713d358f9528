"""A chart in characters: how much smaller candidates are against what they lose, with the line of delta."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from diminuendo.client.display import text
from diminuendo.client.types import Candidate

_LABEL = 7
"""Cells left of the axis."""

LEAST_HEIGHT = 5


@dataclass(frozen=True, slots=True)
class _Marks:
    """What stands for what."""

    inside: str = "●"
    outside: str = "·"
    best: str = "◆"
    beyond: str = "›"
    delta: str = "┊"
    axis: str = "│"
    tick: str = "┤"
    corner: str = "└"
    floor: str = "─"


_UNICODE = _Marks()
_ASCII = _Marks("o", ".", "*", ">", ":", "|", "+", "+", "-")


@dataclass(frozen=True, slots=True)
class _Scale:
    """Where drops and ratios lie: drops evenly, ratios by their logarithm."""

    columns: int
    rows: int
    low: float
    high: float
    least: float
    most: float

    def column(self, drop: float) -> int:
        """0 is the left end; what lies beyond an end is drawn at it."""
        part = (drop - self.low) / (self.high - self.low)
        return min(self.columns - 1, max(0, round(part * (self.columns - 1))))

    def row(self, ratio: float) -> int:
        """0 is the top."""
        part = math.log(max(ratio, self.least) / self.least) / math.log(self.most / self.least)
        return self.rows - 1 - min(self.rows - 1, max(0, round(part * (self.rows - 1))))

    def ratio(self, row: int) -> float:
        """What lies at a row."""
        return float(self.least * (self.most / self.least) ** ((self.rows - 1 - row) / (self.rows - 1)))


def chart(
    candidates: Sequence[Candidate],
    best: Candidate | None,
    delta: float | None,
    *,
    width: int,
    height: int,
    ascii_only: bool = False,
) -> list[Text]:
    """Lines that show every candidate's params ratio over its drop.

    Args:
        candidates: Plans that were scored.
        best: The one that counts so far.
        delta: Where the line is; None: there is none.
        width: Cells of each line.
        height: Lines, at least 5: the last two are the axis of drops and its labels.
        ascii_only: Whether the terminal knows no other characters.
    """
    candidates = [one for one in candidates if _can_be_drawn(one)]
    best = best if best is not None and _can_be_drawn(best) else None
    marks = _ASCII if ascii_only else _UNICODE
    scale = _scale(candidates, best, delta, columns=width - _LABEL - 1, rows=height - 2)
    cells = [[(" ", "")] * scale.columns for _ in range(scale.rows)]
    if delta is not None:
        for row in cells:
            row[scale.column(delta)] = (marks.delta, "yellow")
    for candidate in sorted(candidates, key=lambda one: _is_inside(one, delta)):
        inside = _is_inside(candidate, delta)
        mark = (marks.inside, "green") if inside else (marks.outside, "")
        if candidate.drop > scale.high:
            mark = (marks.beyond, "dim")
        cells[scale.row(candidate.params_ratio)][scale.column(candidate.drop)] = mark
    if best is not None:
        cells[scale.row(best.params_ratio)][scale.column(best.drop)] = (marks.best, "bold green")
    labelled = {0, scale.rows - 1} | ({scale.rows // 2} if scale.rows >= 5 else set())
    lines = []
    for number, row in enumerate(cells):
        label = _times(scale.ratio(number)) if number in labelled else ""
        edge = marks.tick if label else marks.axis
        lines.append(Text.assemble((f"{label:>{_LABEL}}{edge}", "dim"), *row, no_wrap=True))
    lines.append(Text(f"{'':>{_LABEL}}{marks.corner}{marks.floor * scale.columns}", style="dim", no_wrap=True))
    lines.append(Text.assemble(" " * (_LABEL + 1), (_labels(scale, delta), "dim"), no_wrap=True))
    return lines


def caption(candidates: Sequence[Candidate], delta: float | None) -> str:
    """What the chart shows, in a line."""
    found = f"{len(candidates)} candidate{'' if len(candidates) == 1 else 's'}"
    if delta is None:
        return f"params ratio against drop: {found}"
    inside = sum(_is_inside(one, delta) for one in candidates)
    return f"params ratio against drop: {found}, {inside} inside delta"


def _times(ratio: float) -> str:
    """A ratio in no more cells than there are."""
    shown = text.times(ratio)
    return shown if len(shown) <= _LABEL else f"{ratio:.0e}x"


def _can_be_drawn(candidate: Candidate) -> bool:
    return math.isfinite(candidate.drop) and math.isfinite(candidate.params_ratio)


def _is_inside(candidate: Candidate, delta: float | None) -> bool:
    return delta is None or candidate.drop <= delta


def _scale(
    candidates: Sequence[Candidate], best: Candidate | None, delta: float | None, *, columns: int, rows: int
) -> _Scale:
    """With a delta the ends of the drops stay where they are, so that the picture is steady."""
    shown = [*candidates, *([] if best is None else [best])]
    drops, ratios = [one.drop for one in shown], [one.params_ratio for one in shown]
    if delta is not None:
        low, high = -0.5 * delta, 2.5 * delta
    else:
        low, high = min(0.0, *drops, 0.0), max(1.0, *drops, 1.0)
    least = max(0.1, min([1.0, *ratios]))
    return _Scale(columns, rows, low, high, least, max(2.0, 1.05 * max(ratios, default=2.0)))


def _labels(scale: _Scale, delta: float | None) -> str:
    """The numbers below the axis; those for which there is no room are left out."""
    line = [" "] * scale.columns
    end = f"{text.points(scale.high)} drop"
    wanted = [("0", scale.column(0.0)), (end, scale.columns - len(end))]
    if delta is not None:
        name = f"delta {delta:g}"
        wanted.insert(0, (name, scale.column(delta) - len(name) // 2))
    for label, start in wanted:
        begin = max(0, start)
        room = line[max(0, begin - 1) : begin + len(label) + 1]
        if begin + len(label) <= scale.columns and not "".join(room).strip():
            line[begin : begin + len(label)] = label
    return "".join(line)
