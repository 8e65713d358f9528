"""What displays on a terminal share: the colours of states, and lines of cells."""

from __future__ import annotations

from rich.table import Table

from diminuendo.client.types import JobState

STATE_STYLES = {
    JobState.QUEUED: "yellow",
    JobState.RUNNING: "cyan",
    JobState.CANCELLING: "yellow",
    JobState.PAUSING: "yellow",
    JobState.PAUSED: "yellow",
    JobState.CANCELLED: "magenta",
    JobState.SUCCEEDED: "green",
    JobState.FAILED: "red",
}


def line_of_cells(*justify: str, flexible: int) -> Table:
    """A line of cells across the whole width, one of which takes what is left.

    Args:
        justify: ``left`` or ``right`` for each cell.
        flexible: Index of the cell that takes what is left.
    """
    row = Table.grid(expand=True, padding=(0, 2, 0, 0))
    for index, side in enumerate(justify):
        row.add_column(
            justify="right" if side == "right" else "left",
            ratio=1 if index == flexible else None,
            no_wrap=True,
            overflow="ellipsis",
        )
    return row
