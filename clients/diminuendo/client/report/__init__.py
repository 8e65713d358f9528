"""Reports of results: one HTML file that opens offline. Needs the extra ``[report]``, and no server."""

from __future__ import annotations

from diminuendo.client.report.write import (
    REPORT,
    ReportUnavailableError,
    render,
    render_comparison,
    render_fleet,
    save,
    write_beside,
    write_report,
)

__all__ = [
    "REPORT",
    "ReportUnavailableError",
    "render",
    "render_comparison",
    "render_fleet",
    "save",
    "write_beside",
    "write_report",
]
