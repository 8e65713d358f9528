"""What came of a fleet: rows, sums, the file that can be read again, the table and the page."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from tests.client.report.test_chromium import CHROMIUM, opened

from diminuendo.client import DiminuendoError, Failure, Figures, InvalidArgumentError, JobInfo, JobState, Result
from diminuendo.client.display.fleet_tables import show_report
from diminuendo.client.fleet.results import FLEET_FILE, FleetReport, Totals, read_report, report_of
from diminuendo.client.report import render_fleet, save

REPORTS = Path(__file__).parents[1] / "report" / "data"
NAME = "projects/default/fleets/vision"


def job(model: str, state: JobState = JobState.QUEUED, **more: object) -> JobInfo:
    """A model's newest job."""
    known: dict[str, object] = {"delta": 1.0} | more
    return JobInfo(
        name=f"projects/default/jobs/vision-{model}", source="zoo:digits", effort="quick", accept="estimate", seed=0,
        state=state, fleet=NAME, model=model, **known,  # type: ignore[arg-type]
    )  # fmt: skip


def result(*, inside: bool = True, drop: float = 0.25, params: tuple[int, int] = (40_000, 10_000)) -> Result:
    """A result with its figures."""
    before, after = (
        Figures(98.5 - loss, n, 2 * n, 4 * n, 8 * n, 0.5) for loss, n in zip((0, drop), params, strict=True)
    )
    ratio = params[0] / params[1]
    return Result(
        inside, drop, ratio, 2.0, (), metric="top1", original=before, compressed=after, drop_ci=(drop - 1, drop + 1)
    )


@pytest.fixture
def report() -> FleetReport:
    """One of each kind."""
    failure = Failure("USER_CODE", "task.py, line 3:\nKeyError <b>'vineyards'</b>; correct it")
    return report_of(
        NAME,
        [
            job("wide", JobState.SUCCEEDED, result=result(params=(1_000_000, 50_000))),
            job("broken", JobState.FAILED, failure=failure),
            job("iris", JobState.SUCCEEDED, result=result()),
            job("far", JobState.SUCCEEDED, result=result(inside=False, drop=3.5)),
            job("old", JobState.SUCCEEDED, result=Result(True, 0.5, 7.5, 3.0, ()), delta=None, target={"size": 0.5}),
            job("off", JobState.CANCELLED),
            job("later"),
        ],
    )


def shown(report: FleetReport, width: int = 160) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None, record=True)
    show_report(console, report)
    return [line.rstrip() for line in console.export_text(styles=False).splitlines()]


def test_sums_are_over_results_that_say_their_figures(report: FleetReport) -> None:
    assert [row.model for row in report.rows] == ["broken", "far", "iris", "later", "off", "old", "wide"]
    assert report.states == {JobState.QUEUED: 1, JobState.CANCELLED: 1, JobState.SUCCEEDED: 4, JobState.FAILED: 1}
    assert report.inside == 3
    totals = report.totals
    assert (totals.models, totals.params, totals.params_after, totals.params_saved) == (3, 1_080_000, 70_000, 1_010_000)
    assert totals.size_mb == pytest.approx(4 * 1_080_000 / 2**20)
    assert totals.size_mb_saved == pytest.approx(4 * 1_010_000 / 2**20)
    assert FleetReport(NAME, ()).totals == Totals()


def test_the_table_has_every_model_and_why_it_has_no_result(report: FleetReport) -> None:
    lines = shown(report)
    assert lines[0].split() == [
        *("model", "state", "metric", "original", "compressed", "drop", "of", "params", "after", "ratio", "MB", "saved")
    ]
    assert lines[1].split() == ["broken", "failed", "1"]
    assert lines[2].split() == [
        "far",
        "outside",
        "top1",
        "98.50",
        "95.00",
        "3.50",
        "1",
        "40,000",
        "10,000",
        "4.00x",
        "0.114",
    ]
    assert lines[6].split() == ["old", "inside", "0.50", "size", "0.5", "MB", "7.50x"]  # what an old job says
    assert lines[8].split() == ["all", "1,080,000", "70,000", "15.43x", "3.853"]
    assert "broken: USER_CODE: task.py, line 3: KeyError <b>'vineyards'</b>; correct it" in lines
    assert "off: cancelled on request" in lines
    assert "7 models: 1 queued, 1 cancelled, 4 succeeded, 1 failed, 1 of them outside" in lines
    assert lines[-1] == "1,080,000 -> 70,000 params (15.43x), 3.85 of 4.12 MB saved, by 3 models"


def test_what_is_written_is_read_again(report: FleetReport, tmp_path: Path) -> None:
    (tmp_path / FLEET_FILE).write_text(report.to_json())
    assert read_report(tmp_path) == report
    (tmp_path / FLEET_FILE).write_text('{"name": "f", "models": [{"model": "a"}]}')
    with pytest.raises(DiminuendoError, match=r"fleet.json is not what `diminuendo fleet download` writes .*'source'"):
        read_report(tmp_path)


def test_a_folder_of_results_is_a_report_too(tmp_path: Path) -> None:
    for name in ("b", "a"):
        shutil.copytree(REPORTS, tmp_path / name)
    (tmp_path / "notes").mkdir()
    found = read_report(tmp_path)
    assert [row.model for row in found.rows] == ["a", "b"]
    assert found.rows[0].metric == "top1"
    assert (found.totals.models, found.totals.params, found.totals.params_after) == (2, 2 * 41_074, 2 * 3_630)
    with pytest.raises(InvalidArgumentError, match=r"notes has neither fleet.json nor result folders"):
        read_report(tmp_path / "notes")


def test_the_page_tells_all_of_it_and_escapes_what_came(report: FleetReport) -> None:
    page = render_fleet(report)
    assert page == render_fleet(report), "the same report gives the same page"
    for section in ("summary", "models", "sizes-section", "tradeoff-section", "without"):
        assert f'<section id="{section}"' in page
        assert f'href="#{section}"' in page
    assert "15.43x fewer params in all, 3 of 7 models keep what was asked for" in page
    assert "<b>" not in page
    assert "<strong>broken</strong>: failed, USER_CODE: task.py, line 3: KeyError &lt;b&gt;" in page
    assert "<strong>later</strong>: queued" in page
    assert "1 result is of an older version that said no figures, and in no sum." in page
    assert page.count('role="img"') == 2
    assert "100,000" in page, "the axis has numbers as people write them"
    assert "mathdefault" not in page


def test_a_fleet_without_results_has_a_page(report: FleetReport) -> None:
    page = render_fleet(replace(report, rows=tuple(row for row in report.rows if row.inside is None)))
    assert "0 of 3 models keep what was asked for" in page
    assert 'role="img"' not in page


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path: install it with `apt-get install chromium`")
def test_the_page_opens_in_a_browser_and_fetches_nothing(report: FleetReport, tmp_path: Path) -> None:
    found = opened(save(render_fleet(report), tmp_path / "fleet.html"), tmp_path / "scratch")
    assert found.fetched == []
    assert found.dom.rstrip().endswith("</html>")
    assert found.dom.count("<svg") == 2
