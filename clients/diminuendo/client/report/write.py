"""Writes reports, and says what is missing where the extra is not installed."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from diminuendo.client.errors import DiminuendoError, InvalidArgumentError
from diminuendo.client.fleet.results import FleetReport
from diminuendo.client.report.reading import Report, read

REPORT = "report.html"
"""Name of a report in its result folder."""

GENERATOR = '<meta name="generator" content="diminuendo">'
"""What every report has near its top; nothing else is written over."""

_TOP = 1000
"""Characters that have it."""


class ReportUnavailableError(DiminuendoError):
    """What draws reports is not installed; the message says what to install."""


def render(folder: Path) -> str:
    """The report of a result folder: the same text for the same files.

    Raises:
        ResultFolderError: A file or a field is missing or wrong.
        ReportUnavailableError: The extra is not installed.
    """
    report = read(folder)
    with _extra():
        from diminuendo.client.report.html import report_page
    return report_page(report)


def render_comparison(reports: Sequence[Report]) -> str:
    """One page about several results, side by side; ReportUnavailableError as `render`."""
    with _extra():
        from diminuendo.client.report.html import comparison_page
    return comparison_page(reports)


def render_fleet(report: FleetReport) -> str:
    """One page about all models of a fleet; ReportUnavailableError as `render`."""
    with _extra():
        from diminuendo.client.report.fleet import fleet_page
    return fleet_page(report)


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the report of a result folder; returns its path.

    Args:
        folder: The result.
        out: The file; in the folder as ``report.html`` by default. An earlier report is replaced.

    Raises:
        ResultFolderError: A file or a field is missing or wrong.
        ReportUnavailableError: The extra is not installed.
        InvalidArgumentError: The file is there, and is no report.
    """
    return save(render(folder), folder / REPORT if out is None else out)


def write_beside(folder: Path) -> None:
    """Write ``report.html`` into a result folder if that can be; one line on stderr says why when it cannot."""
    try:
        write_report(folder)
    except DiminuendoError as error:
        sys.stderr.write(f"no {REPORT} was written: {error.message}\n")


def save(page: str, out: Path) -> Path:
    """Put a page in its place whole; InvalidArgumentError where something else is."""
    if out.is_dir() or (out.exists() and not is_report(out)):
        raise InvalidArgumentError.of("out", f"{out} is there and is no report; give another file, or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        unfinished.write_text(page, encoding="utf-8", newline="\n")
        os.replace(unfinished, out)
    finally:
        unfinished.unlink(missing_ok=True)
    return out


def is_report(path: Path) -> bool:
    """Whether a file is a report that was written by this package."""
    with contextlib.suppress(OSError), path.open(encoding="utf-8", errors="replace") as file:
        return GENERATOR in file.read(_TOP)
    return False


@contextlib.contextmanager
def _extra() -> Iterator[None]:
    """Imports of what the extra brings; ReportUnavailableError where it is not installed.

    matplotlib logs a warning where it makes its cache of fonts: it is nothing that a person has to know.
    """
    logger = logging.getLogger("matplotlib")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    except ModuleNotFoundError as error:
        raise ReportUnavailableError(
            f"a report needs {error.name}, which is not installed; pip install 'diminuendo[report]'"
        ) from error
    finally:
        logger.setLevel(before)
