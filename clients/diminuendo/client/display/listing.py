"""Long lists as lines that are written as they come: a table of thousands of rows is drawn too slowly for one piece."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice

from rich.cells import cell_len, set_cell_size

from diminuendo.client.oneline import one_line

BLOCK = 100
"""Rows that are lined up with each other, and with those before them."""

_GAP = "   "


def listed(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[str] = (), width: int | None = None
) -> Iterator[str]:
    """A heading and a line for each row, without trailing blanks, as soon as a block of rows has come.

    Args:
        columns: Their names. A column is as wide as what was in it so far needs.
        rows: As many cells each.
        right: Names of the columns that are flush right.
        width: Cells that a line may have; what is longer is cut. None: as many as it needs.
    """
    widths = [len(name) for name in columns]
    flush = [name in right for name in columns]
    source, begun = iter(rows), False
    while block := [[one_line(cell) for cell in row] for row in islice(source, BLOCK)]:
        for row in block:
            widths = [max(most, cell_len(cell)) for most, cell in zip(widths, row, strict=True)]
        if not begun:
            yield _line(columns, widths, flush, width)
            begun = True
        yield from (_line(row, widths, flush, width) for row in block)
    if not begun:
        yield _line(columns, widths, flush, width)


def _line(cells: Sequence[str], widths: Sequence[int], flush: Sequence[bool], width: int | None) -> str:
    parts = []
    for cell, most, right in zip(cells, widths, flush, strict=True):
        gap = " " * (most - cell_len(cell))
        parts.append(gap + cell if right else cell + gap)
    line = _GAP.join(parts).rstrip()
    return line if width is None or cell_len(line) <= width else f"{set_cell_size(line, width - 1)}…"
