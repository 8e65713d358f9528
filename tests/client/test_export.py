"""`diminuendo export`, with the real engine; and how exports are shown."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from diminuendo.client.cli.main import FAILURE, MISTAKE
from diminuendo.client.cli.options import Wishes
from diminuendo.client.display.folder import ResultFolderError, read_result
from diminuendo.client.display.result import show_result
from diminuendo.engine import apply
from diminuendo.engine.exports import onnxfile
from diminuendo.engine.plan import Choice, Plan

Run = Callable[..., subprocess.CompletedProcess[str]]
PLAN = Plan.of({"block3.conv1": Choice("tucker2", (8, 8))})
TASK = """
from diminuendo.engine import zoo

def task():
    return zoo.task("digits")
"""
ENTRY = {
    "file": "model.fp16.onnx",
    "size_bytes": 262144,
    "batch": "dynamic",
    "largest_difference": 0.00321,
    "metric": 98.5,
    "drop": 0.25,
}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "digits"
    apply(PLAN, "zoo:digits", delta=100.0, out=folder)
    return folder


def test_files_are_made_shown_and_told_of_in_the_certificate(run_here: Run, result: Path) -> None:
    done = run_here("export", str(result), "--format", "torchscript", "--format", "pt2")
    assert done.returncode == 0, done.stderr
    header, script, program = (line.split() for line in done.stdout.splitlines())
    certificate = json.loads((result / "certificate.json").read_text())
    assert header == ["export", "size", "difference", "metric", "drop", "batch"]
    metric, drop = f"{certificate['compressed']:.2f}", f"{certificate['drop']:.2f}"
    size = f"{(result / 'model.ts').stat().st_size / 2**20:.3f}"
    assert script[:3] == ["model.ts", size, "MB"]
    assert script[-3:] == [metric, drop, "dynamic"]
    assert program[0] == "model.pt2"
    assert set(certificate["exports"]) == {"torchscript", "pt2"}
    again = run_here("export", str(result), "--format", "pt2")
    assert again.returncode == MISTAKE
    assert "model.pt2: there already" in again.stderr
    assert again.stderr.count("\n") == 1


def test_a_failure_is_told_and_is_the_exit_code(run_here: Run, result: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any) -> None:
        raise RuntimeError("[ONNXRuntimeError] : 10 : INVALID_GRAPH : Type 'tensor(bfloat16)' is invalid")

    monkeypatch.setattr(onnxfile, "write", refuse)  # it takes seconds to find that out
    words = ["export", str(result), "--format", "onnx", "--format", "safetensors", "--dtype", "bf16"]
    done = run_here(*words, "--output", "json", "--out", "out")
    assert done.returncode == FAILURE
    told = json.loads(done.stdout)
    assert list(told) == ["onnx:bf16", "safetensors:bf16"]
    assert "no bf16 kernel" in told["onnx:bf16"]["error"]
    assert told["safetensors:bf16"]["samples"] == 400
    assert [path.name for path in Path("out").iterdir()] == ["model.bf16.safetensors"]


def test_a_bundle_brings_the_data(run_here: Run, result: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "task.py").write_text(TASK)
    words = ["--format", "safetensors:fp16", "--out", "out", "--output", "json"]
    done = run_here("export", str(result), "--bundle", "mine", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["safetensors:fp16"]["metric"] > 90.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere is not there; name a result folder"),
        (["."], "has neither plan.json nor model.pt2"),
        ([".", "--format", "onxn"], "'onxn' is no form of export; did you mean 'onnx'?"),
        ([".", "--format", "onnx:fp16", "--dtype", "fp16"], "dtype: fp16 is beside --format onnx:fp16"),
        ([".", "--opset", "9"], "opset: 9 cannot be written; give 18 to 24"),
        ([".", "--bundle", "nothing"], "nothing"),
    ],
)
def test_mistakes_are_one_line(run_here: Run, words: list[str], message: str) -> None:
    done = run_here("export", *words)
    assert (done.returncode, done.stdout) == (MISTAKE, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


# --- display ----------------------------------------------------------------------------------------------


def shown(folder: Path, exports: Any, warnings: Any = ()) -> str:
    path = folder / "certificate.json"
    certificate = json.loads(path.read_text()) | {"exports": exports, "warnings": list(warnings)}
    path.write_text(json.dumps(certificate))
    console = Console(file=io.StringIO(), width=80, record=True)
    show_result(console, read_result(folder))
    return console.export_text(styles=False)


def test_a_result_shows_its_exports_and_why_one_failed(result_folder: Path) -> None:
    failed = {"file": None, "error": "no kernel;\x1b[31m give onnx"}
    warning = {"reason": "EXPORT_FAILED", "message": "onnx:bf16: no kernel"}
    text = shown(result_folder, {"onnx:fp16": ENTRY, "onnx:bf16": failed}, [warning])
    lines = [line.split() for line in text.splitlines()]
    assert ["model.fp16.onnx", "0.250", "MB", "3.2e-03", "98.50", "0.25", "dynamic"] in lines
    assert ["onnx:bf16", "failed"] in lines
    assert "onnx:bf16 was not exported: no kernel;" in text
    assert "warning EXPORT_FAILED" not in text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_result_without_exports_shows_none(result_folder: Path) -> None:
    assert "export" not in shown(result_folder, {})


def test_an_entry_of_another_version_is_named(result_folder: Path) -> None:
    with pytest.raises(ResultFolderError, match=r"certificate.json: exports: onnx: size_bytes is 'x', not a number"):
        shown(result_folder, {"onnx": ENTRY | {"size_bytes": "x"}})


# --- wishes -----------------------------------------------------------------------------------------------


def test_a_compression_takes_forms_one_by_one_or_with_commas(run_here: Run) -> None:
    assert Wishes(export=["onnx,pt2:fp16", "torchscript"]).arguments()["exports"] == ["onnx", "pt2:fp16", "torchscript"]
    assert Wishes().arguments()["exports"] == []
    done = run_here("compress", "zoo:digits", "--export", "onnx", "--export", "onnx:int8")
    assert (done.returncode, done.stdout) == (MISTAKE, "")
    assert "exports: 'onnx:int8' is no form of export" in done.stderr
    assert done.stderr.count("\n") == 1
