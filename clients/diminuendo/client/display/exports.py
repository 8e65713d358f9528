"""The table of a result's exports."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from diminuendo.client.display import text
from diminuendo.client.display.folder import ExportEntry


def exports_table(entries: Mapping[str, ExportEntry]) -> Table:
    """One line for each form: its file, size, how far its outputs are from the network's, metric and drop."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("export", no_wrap=True, overflow="ellipsis")
    for name in ("size", "difference", "metric", "drop"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("batch", no_wrap=True)
    for name, entry in entries.items():
        if entry.error or entry.file is None:
            table.add_row(Text(text.one_line(name)), Text("failed", style="yellow"))
            continue
        table.add_row(
            Text(text.one_line(entry.file)),
            "" if entry.size_bytes is None else f"{entry.size_bytes / 2**20:.3f} MB",
            "" if entry.largest_difference is None else f"{entry.largest_difference:.1e}",
            "" if entry.metric is None else text.points(entry.metric),
            "" if entry.drop is None else text.points(entry.drop),
            text.one_line(entry.batch),
        )
    return table
