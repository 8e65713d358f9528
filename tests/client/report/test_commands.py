"""`diminuendo report` and `diminuendo compare`, and the report that comes with a download."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diminuendo.client.cli.main import FAILURE, MISTAKE

if TYPE_CHECKING:
    from tests.client.conftest import FakeServer, Recorded
    from tests.client.report.conftest import Edit

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def served(fake: FakeServer, recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server with a job that has ended."""
    monkeypatch.setenv("DIMINUENDO_SERVER", fake.target)
    fake.add(recorded.job(), recorded.events())
    fake.contents = recorded.contents()


@pytest.fixture
def second(folder: Path, tmp_path: Path) -> Path:
    """Another result of the same network, with one layer otherwise."""
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    plan = json.loads((other / "plan.json").read_text())
    plan["layers"]["classify"] = {"format": "svd", "ranks": [9]}
    (other / "plan.json").write_text(json.dumps(plan))
    certificate = json.loads((other / "certificate.json").read_text())
    (other / "certificate.json").write_text(json.dumps(certificate | {"drop": 1.25, "compressed": 98.5}))
    return other


def test_a_folders_report_is_written_into_it(run_here: Run, folder: Path) -> None:
    done = run_here("report", "smaller")
    assert (done.returncode, done.stdout, done.stderr) == (0, "report: smaller/report.html\n", "")
    first = (folder / "report.html").read_bytes()
    assert run_here("report", "smaller").returncode == 0  # a report is replaced
    assert (folder / "report.html").read_bytes() == first
    assert run_here("report", "smaller", "--out", "there/page.html").stdout == "report: there/page.html\n"
    assert Path("there/page.html").read_bytes() == first
    assert [path.name for path in Path("there").iterdir()] == ["page.html"]


def test_something_else_is_not_written_over(run_here: Run, folder: Path) -> None:
    Path("notes.html").write_text("mine")
    done = run_here("report", "smaller", "--out", "notes.html")
    assert done.returncode == MISTAKE
    assert done.stderr == "error: out: notes.html is there and is no report; give another file, or remove it\n"
    assert Path("notes.html").read_text() == "mine"


@pytest.mark.usefixtures("served")
def test_a_jobs_report_comes_without_its_folder(run_here: Run) -> None:
    done = run_here("report", "recorded")
    assert (done.returncode, done.stdout) == (0, "report: recorded.html\n")
    assert "7.92x fewer params" in Path("recorded.html").read_text()
    assert [path.name for path in Path().iterdir()] == ["recorded.html"]
    assert run_here("report", "projects/default/jobs/recorded", "--out", "r.html").returncode == 0


@pytest.mark.usefixtures("served")
def test_a_download_brings_its_report_and_can_be_repeated(run_here: Run) -> None:
    for _ in range(2):  # the report is no reason to refuse the folder
        done = run_here("download", "recorded", "--out", "here")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[-1] == "result: here"
    assert "7.92x fewer params" in Path("here/report.html").read_text()
    Path("here/report.html").write_text("mine")
    assert "report.html is not of this result" in run_here("download", "recorded", "--out", "here").stderr


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_without_the_extra_only_the_report_is_missing(
    run_here: Run, folder: Path, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("html", "charts", "svg"):  # as if nobody had imported them yet
        monkeypatch.delitem(sys.modules, f"diminuendo.client.report.{name}", raising=False)
        monkeypatch.delattr(f"diminuendo.client.report.{name}", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    remedy = f"a report needs {missing}, which is not installed; pip install 'diminuendo[report]'\n"
    done = run_here("download", "recorded", "--out", "here")
    assert (done.returncode, done.stderr) == (0, f"no report.html was written: {remedy}")
    assert done.stdout.splitlines()[-1] == "result: here"
    assert not Path("here/report.html").exists()
    done = run_here("report", "smaller")
    assert (done.returncode, done.stdout, done.stderr) == (FAILURE, "", f"error: {remedy}")
    assert run_here("compare", "smaller", "smaller").returncode == 0  # a table needs none of it


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report", "no/such"], "target: 'no/such' is neither a result folder nor a job's name"),
        (["report", "smaller/plan.json"], "is neither a result folder nor a job's name"),
        (["report", "empty"], "plan.json is missing"),
        (["compare", "smaller"], "folders: only smaller is given; give two result folders or more"),
        (["compare", "smaller", "nothing"], "folders: nothing is no folder; give result folders"),
        (["compare", "smaller", "empty"], "plan.json is missing"),
    ],
)
def test_mistakes_are_one_line(run_here: Run, folder: Path, words: list[str], message: str) -> None:
    (folder.parent / "empty").mkdir()
    done = run_here(*words)
    assert done.returncode in (MISTAKE, FAILURE)
    assert done.stdout == ""
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_two_results_side_by_side(run_here: Run, folder: Path, second: Path) -> None:
    done = run_here("compare", "smaller", "other")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert lines[0] == ["smaller", "other"]
    for row in (
        ["drop", "0.50", "1.25"],
        ["params", "ratio", "11.32x", "11.32x"],
        ["size", "0.014", "MB", "0.014", "MB"],
        ["95", "%", "interval", "[-0.35,", "1.34]", "[-0.35,", "1.34]"],
        ["classify", "svd(7)", "svd(9)"],
        ["3", "other", "layers", "are", "alike"],
    ):
        assert row in lines
    assert not any(line[:1] == ["layers.3"] for line in lines)
    assert "note:" not in done.stdout


def test_a_comparison_for_programs(run_here: Run, folder: Path, second: Path) -> None:
    done = run_here("compare", "smaller", "other", "smaller", "--output", "json")
    found = json.loads(done.stdout)
    assert [each["folder"] for each in found["results"]] == ["smaller", "other", "smaller"]
    assert [each["drop"] for each in found["results"]] == [0.5, 1.25, 0.5]
    certificate = json.loads((folder / "certificate.json").read_text())
    for name in ("params_ratio", "macs_ratio", "size_ratio", "memory_ratio", "time_ratio", "drop_ci", "delta"):
        assert found["results"][0][name] == pytest.approx(certificate[name])
    assert found["layers"] == {"classify": ["svd(7)", "svd(9)", "svd(7)"]}
    assert found["layers_same"] == 3


def test_a_comparison_as_a_page(run_here: Run, folder: Path, second: Path) -> None:
    done = run_here("compare", "smaller", "other", "--html", "both.html")
    assert done.stdout.splitlines()[-1] == "report: both.html"
    page = Path("both.html").read_text()
    assert "://" not in page
    assert "smaller 11.32x at 0.50; other 11.32x at 1.25" in page
    assert "svd(9)" in page
    done = run_here("compare", "smaller", "other", "--html", "both.html", "--output", "json")
    assert json.loads(done.stdout)["results"]
    assert done.stderr == "report: both.html\n"


def test_what_cannot_be_compared_is_said(run_here: Run, folder: Path, second: Path, edited: Edit) -> None:
    edited("certificate", metric="f1")
    profile = json.loads((folder / "profile.json").read_text())
    profile["original"]["params"] += 1
    edited("profile", **profile)
    done = run_here("compare", "smaller", "other")
    assert "note: metric or sealed samples differ" in done.stdout
    assert "note: the originals have different params" in done.stdout
