"""`diminuendo apply`, with the real engine."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from diminuendo.client.cli.main import MISTAKE
from diminuendo.engine import load

Run = Callable[..., subprocess.CompletedProcess[str]]

PLAN = {
    "version": 1,
    "source": "zoo:digits",
    "layers": {
        "block3.conv1": {"format": "tucker2", "ranks": [8, 8]},
        "block3.conv2": {"format": "spatial", "ranks": [12]},
        "fc": {"format": "dense"},
    },
}
TASK = """
from diminuendo.engine import zoo

def task():
    return zoo.task("digits")
"""


def written(content: object = PLAN) -> Path:
    path = Path("plan.json")
    path.write_text(json.dumps(content))
    return path


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    return str(done.stdout.splitlines()[-1])


def test_a_plan_of_ones_own_becomes_a_result(run_here: Run) -> None:
    done = run_here("apply", str(written()), "--to", "zoo:digits")
    assert done.returncode == 0
    assert last_line(done) == "result: results/digits"
    assert "tucker2(8,8)" in done.stdout
    assert "spatial(12)" in done.stdout
    files = {path.name for path in Path("results/digits").iterdir()}
    results = {"model.safetensors", "plan.json", "profile.json", "certificate.json", "search.json"}
    assert files == results | {"report.html"}
    assert len(list(load("results/digits").get_submodule("block3.conv2").children())) == 2
    wishes = ["--epochs", "1", "--delta", "2", "--export", "pt2"]
    again = run_here("apply", "results/digits", "--to", "zoo:digits", *wishes, "--out", "tuned")
    assert last_line(again) == "result: tuned"
    assert Path("tuned/model.pt2").is_file()
    assert json.loads(Path("tuned/certificate.json").read_text())["delta"] == 2


def test_a_bundle_is_a_target(run_here: Run, tmp_path: Path) -> None:
    bundle = tmp_path / "mine"
    bundle.mkdir()
    (bundle / "task.py").write_text(TASK)
    done = run_here("apply", str(written()), "--to", "mine", "--out", "out")
    assert done.returncode == 0
    assert json.loads(Path("out/plan.json").read_text())["source"] == f"bundle:{bundle}"
    load("out")


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ({"fcc": {"format": "dense"}}, "the network has no layer 'fcc'; did you mean 'fc'?"),
        ({"fc": {"format": "svd", "ranks": [0]}}, "layer 'fc': svd rank 0 of [0] is out of range; legal: 1..10"),
        ({"fc": {"format": "tucker", "ranks": [2]}}, "layer 'fc': unknown format 'tucker'; known: dense, svd,"),
        ({"fc": {"form": "svd"}}, "plan.json: layers.fc.format: Field required"),
    ],
)
def test_a_plan_that_does_not_fit_is_one_line(run_here: Run, layers: object, words: str) -> None:
    done = run_here("apply", str(written({**PLAN, "layers": layers})), "--to", "zoo:digits")
    assert done.returncode == MISTAKE
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "--to", "zoo:digits"], "nowhere is not there; name a plan.json, or a result folder that has one"),
        (["plan.json", "--to", "digits"], "to: 'digits' is neither zoo:NAME nor a folder; did you mean zoo:digits?"),
        (["plan.json", "--to", "zoo:resnet18"], "weights: the package has none for zoo:resnet18; train them with"),
        (["plan.json", "--to", "."], "has no task.py; write one that defines task()"),
        (["plan.json", "--to", "zoo:digits", "--delta", "0"], "delta: 0 is not"),
        (["plan.json", "--to", ".", "--data", "."], "data: . is for zoo:NAME; ./task.py says this itself"),
    ],
)
def test_mistakes_are_one_line(run_here: Run, words: list[str], message: str) -> None:
    written()
    done = run_here("apply", *words)
    assert (done.returncode, done.stdout) == (MISTAKE, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_bundle_that_raises_is_a_users_mistake_with_its_words(run_here: Run) -> None:
    Path("task.py").write_text("def task():\n    raise RuntimeError('no disk')\n")
    done = run_here("apply", str(written()), "--to", ".")
    assert done.returncode == MISTAKE
    assert "no disk" in done.stderr
