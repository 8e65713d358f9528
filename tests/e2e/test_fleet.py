"""The example's fleet through a whole server on two evaluators: what breaks and what cannot be had disturb nobody."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.e2e.server import left_after, serving

from diminuendo.client import Client, FleetFile, JobState
from diminuendo.client.fleet.results import read_report

EXAMPLE = Path(__file__).parents[2] / "examples" / "fleet"
MINUTES = 40
"""Far more than it takes: 10 on two quiet cores."""


@pytest.mark.apart
@pytest.mark.timeout(60 * MINUTES + 300)
def test_fifteen_models_to_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIMINUENDO_SERVE_JOBS", "2")  # an evaluator that changes between bundles starts anew
    subprocess.run([sys.executable, str(EXAMPLE / "make.py"), str(tmp_path / "nets")], check=True, timeout=300)
    shutil.copyfile(EXAMPLE / "fleet.yaml", tmp_path / "fleet.yaml")
    file = FleetFile.read(tmp_path / "fleet.yaml")
    assert len(file.models) == 15
    cli = [sys.executable, "-m", "diminuendo.client.cli.main", "fleet"]
    with serving(tmp_path / "state", evaluators=2) as server:
        begin = time.monotonic()
        remote = ["--server", server.target]
        followed = subprocess.run(
            [*cli, "submit", str(file.path), "--watch", *remote], check=False, timeout=60 * MINUTES
        )
        took_s = time.monotonic() - begin
        assert followed.returncode == 1, "one model fails"
        with Client(server.target) as client:
            fleet = client.fleet(file.name)
            assert {status.created for status in fleet.submit(file.models)} == {False}, "none is new"
            jobs = {job.model: job for job in fleet.jobs()}
            report = fleet.report()
            fleet.download(tmp_path / "results")
        table = subprocess.run(
            [*cli, "report", file.name, "--html", str(tmp_path / "fleet.html"), *remote],
            capture_output=True, text=True, check=True, timeout=120,
        ).stdout  # fmt: skip
    assert left_after(server.mark) == []
    with capsys.disabled():
        print(f"\n{table}\n{len(jobs)} models in {took_s / 60:.1f} minutes")

    rows = {row.model: row for row in report.rows}
    assert rows.keys() == {model.name for model in file.models}
    broken, unreachable = rows.pop("broken"), rows.pop("unreachable")
    assert (broken.state, jobs["broken"].epoch) == (JobState.FAILED, 1)
    assert broken.reason.startswith("USER_CODE: ")
    assert "vineyards" in broken.reason
    assert (unreachable.state, unreachable.inside) == (JobState.SUCCEEDED, False)
    for row in rows.values():
        assert row.state is JobState.SUCCEEDED, row
        assert jobs[row.model].epoch == 1, "it was worked on once, undisturbed"
        assert row.inside, row
        assert row.original is not None
        assert row.compressed is not None
        assert row.compressed.params < row.original.params
    assert report.totals.params_saved > 100_000
    assert read_report(tmp_path / "results") == report
    assert sorted(path.parent.name for path in (tmp_path / "results").glob("*/model.safetensors")) == sorted(
        [*rows, "unreachable"]
    )
