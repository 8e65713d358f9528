"""`diminuendo fleet ...` against a real conductor: what it writes, and how it exits."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diminuendo.client.cli.complete import candidates

if TYPE_CHECKING:
    from tests.client.conductor import Conductor
    from tests.client.fleet.conductor import Player
    from tests.client.fleet.conftest import MakeBundle

Run = Callable[..., subprocess.CompletedProcess[str]]

FILE = """\
name: vision
labels: {team: a}
defaults: {effort: quick}
models:
  - {name: first, zoo: digits, priority: 30}
  - {name: second, zoo: digits, priority: 20, delta: 2}
"""
THIRD = "  - {name: third, bundle: mine, priority: 10}\n"


@pytest.fixture
def run(run_here: Run, conductor: Conductor, project: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line in an empty folder against the conductor, in the test's project."""
    monkeypatch.setenv("DIMINUENDO_SERVER", conductor.target)
    monkeypatch.setenv("DIMINUENDO_PROJECT", project)
    Path("fleet.yaml").write_text(FILE)
    return run_here


def words(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_submit_says_what_came_of_each_model(run: Run, project: str, make_bundle: MakeBundle) -> None:
    done = run("fleet", "submit", "fleet.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    assert words(done.stdout) == [
        ["first", "created", "queued", f"projects/{project}/jobs/vision-first"],
        ["second", "created", "queued", f"projects/{project}/jobs/vision-second"],
        ["2", "created"],
    ]
    make_bundle("mine")
    Path("fleet.yaml").write_text(FILE.replace("delta: 2", "delta: 3").replace("team: a", "team: b") + THIRD)
    done = run("fleet", "submit", "fleet.yaml")
    assert done.returncode == 1
    assert words(done.stdout)[:3] == [
        ["first", "already", "there", "queued", f"projects/{project}/jobs/vision-first"],
        ["second", "changed", "queued", f"projects/{project}/jobs/vision-second"],
        ["third", "created", "queued", f"projects/{project}/jobs/vision-third"],
    ]
    why, counts = done.stdout.splitlines()[3:]
    assert why.startswith("second: model 'second' has ")
    assert "with another spec" in why
    assert counts == "1 already there, 1 changed, 1 created"
    assert done.stderr == (
        f"uploaded mine, 0.01 MB\nnote: the labels of projects/{project}/fleets/vision stay as they were made: team=a\n"
        "note: --replace-changed gives models that have changed another job\n"
    )
    found = json.loads(run("fleet", "submit", "fleet.yaml", "--output", "json").stdout)
    assert [(each["model"], each["outcome"], each["created"]) for each in found] == [
        ("first", "already there", False),
        ("second", "changed", False),
        ("third", "already there", False),
    ]


def test_a_wrong_file_is_told_line_by_line_and_nothing_is_sent(run: Run) -> None:
    Path("fleet.yaml").write_text("name: vision\nmodels:\n  - {name: a, zoo: digits, detla: 1}\n  - bundles: none/*\n")
    done = run("fleet", "submit", "fleet.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: fleet.yaml:3: detla: this key is not known; did you mean delta?\n"
        f"error: fleet.yaml:4: bundles: 'none/*' matches no folder in {Path.cwd()}; correct it\n"
    )
    assert run("fleet", "list").stdout.split() == ["fleet", "models", "states", "labels", "created"]
    done = run("fleet", "submit", "gone.yaml")
    assert (done.returncode, done.stderr) == (1, "error: No such file or directory: gone.yaml\n")


def test_a_dry_run_needs_no_server(run: Run, monkeypatch: pytest.MonkeyPatch, make_bundle: MakeBundle) -> None:
    monkeypatch.setenv("DIMINUENDO_SERVER", "127.0.0.1:1")
    make_bundle("mine")
    Path("fleet.yaml").write_text(FILE + THIRD)
    done = run("fleet", "submit", "fleet.yaml", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    lines = words(done.stdout)
    assert lines[1] == ["first", "zoo:digits", "delta", "1", "quick,", "stage", "2"]
    assert lines[3][0] == "third"
    assert lines[3][1].startswith("bundle:")
    assert done.stdout.splitlines()[-1] == "3 models, 1 bundles of 0.01 MB; nothing was sent"
    asked = json.loads(run("fleet", "submit", "fleet.yaml", "--dry-run", "--output", "json").stdout)
    assert [model["name"] for model in asked["models"]] == ["first", "second", "third"]
    (Path("mine") / "task.py").write_text("def tusk(): pass\n")
    done = run("fleet", "submit", "fleet.yaml", "--dry-run")
    assert done.returncode == 2
    assert "fleet.yaml:7: bundle: " in done.stderr
    assert "defines no function task()" in done.stderr


def test_a_fleet_from_its_file_to_its_report(run: Run, player: Player, project: str) -> None:
    name = f"projects/{project}/fleets/vision"
    Path("fleet.yaml").write_text(FILE + "  - {name: broken, zoo: digits, priority: 10}\n")
    assert run("fleet", "submit", "fleet.yaml").returncode == 0
    assert player.lease(3) == ["first", "second", "broken"]
    player.succeed("first")
    player.succeed("second", inside=False)
    player.fail("broken")

    assert [line[:4] for line in words(run("fleet", "list").stdout)[1:]] == [["vision", "3", "2", "succeeded,"]]
    assert json.loads(run("fleet", "list", "--output", "json").stdout)[0]["inside_delta"] == 1
    for call in ("vision", name, "fleet.yaml"):
        done = run("fleet", "get", call)
        assert done.stdout.startswith(f"{name}: 3 models, 2 succeeded, 1 failed, 1 of them outside; team=a\n")
        assert ["broken", "zoo:digits", "failed", "delta", "1", "vision-broken"] in words(done.stdout)
    got = json.loads(run("fleet", "get", "vision", "--output", "json").stdout)
    assert {job["model"]: job["state"] for job in got["jobs"]}["broken"] == "FAILED"

    done = run("fleet", "watch", "vision")
    assert (done.returncode, done.stdout) == (1, "   0:00  2 succeeded, 1 failed, 1 of them outside\n")
    assert done.stderr == (
        f"2 succeeded, 1 failed, 1 of them outside (failed: broken)\nsee it with: diminuendo fleet report {name}\n"
    )

    done = run("fleet", "report", "vision", "--html", "fleet.html")
    assert (done.returncode, done.stderr) == (0, "")
    lines = words(done.stdout)
    assert lines[2] == ["first", "inside", "top1", "98.50", "98.25", "0.25", "1", "40,000", "10,000", "4.00x", "0.114"]
    assert ["broken:", "USER_CODE:", "task.py,", "line", "3:", "it", "is", "broken;", "correct", "it"] in lines
    assert done.stdout.splitlines()[-1] == "report: fleet.html"
    page = Path("fleet.html").read_text()
    assert "4.00x fewer params in all, 1 of 3 models keep what was asked for" in page

    done = run("fleet", "download", "vision", "--out", "results")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "first: results/first",
        "second: results/second",
        "2 of 3 models have a result here",
        "result: results",
    ]
    assert done.stderr == "broken: no result, its job is FAILED\n"
    offline = run("fleet", "report", "results", "--output", "json")
    assert offline.stdout == run("fleet", "report", "vision", "--output", "json").stdout
    assert json.loads(offline.stdout)["totals"]["params_saved"] == 60_000
    (Path("results") / "first" / "plan.json").write_text("mine")
    done = run("fleet", "download", "fleet.yaml", "--out", "results")
    assert done.returncode == 1
    assert "first: results/first is not empty: plan.json has another content than this result's" in done.stderr

    assert run("fleet", "retry", "vision").returncode == 2
    assert run("fleet", "retry", "vision", "first", "--failed").returncode == 2
    done = run("fleet", "retry", "vision", "--failed")
    assert (done.returncode, [line[:2] for line in words(done.stdout)]) == (
        0,
        [["broken", "created"], ["1", "created"]],
    )
    assert run("fleet", "retry", "vision", "first").returncode == 1, "it succeeded"
    done = run("fleet", "delete", "vision")
    assert done.returncode == 2
    assert run("fleet", "cancel", "vision").stdout == f"{name}: 1 cancelled, 2 succeeded, 1 of them outside\n"
    assert run("fleet", "delete", "vision").stdout == f"{name} deleted\n"
    done = run("fleet", "get", "vision")
    assert (done.returncode, done.stdout) == (2, "")
    assert "vision" in done.stderr


@pytest.mark.parametrize(("inside", "code"), [(True, 0), (False, 3)])
def test_a_followed_fleet_exits_by_what_came_of_it(run: Run, player: Player, inside: bool, code: int) -> None:
    run("fleet", "submit", "fleet.yaml")
    player.lease(2)
    player.succeed("first")
    player.succeed("second", inside=inside)
    done = run("fleet", "submit", "fleet.yaml", "--watch")
    assert done.returncode == code
    assert "2 succeeded" in done.stderr
    assert words(done.stdout)[0][:3] == ["first", "already", "there"]
    assert run("fleet", "watch", "fleet.yaml").returncode == code


def test_a_files_project_counts_unless_an_option_says_another(run: Run, project: str) -> None:
    Path("fleet.yaml").write_text(FILE + f"project: {project}-b\n")
    assert f"projects/{project}-b/jobs/vision-first" in run("fleet", "submit", "fleet.yaml").stdout
    assert run("fleet", "get", "fleet.yaml").returncode == 0
    assert run("fleet", "get", "fleet.yaml", "--project", project).returncode == 2
    assert f"projects/{project}-b/fleets/vision" in run("fleet", "list", "--project", "-").stdout
    assert run("fleet", "cancel", "fleet.yaml").returncode == 0


def test_fleets_and_their_models_are_completed(run: Run) -> None:
    run("fleet", "submit", "fleet.yaml")
    assert [row.value for row in candidates(["fleet"], "re")] == ["report", "retry"]
    rows = candidates(["fleet", "watch"], "v")
    assert [(row.value, row.kind) for row in rows] == [("vision", "plain"), ("", "file")]
    assert rows[0].help == "0 of 2 models ended"
    assert [row.value for row in candidates(["fleet", "retry", "vision"], "")] == ["first", "second"]
    assert [row.kind for row in candidates(["fleet", "submit"], "")] == ["file"]
