"""A bundle through real processes: an owner's folder goes in, files that need none of its code come out."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from tests.e2e.server import left_after, serving

from diminuendo.client import Client
from diminuendo.client.types import EvaluationFinished, JobState
from diminuendo.engine import bundle, export, load
from diminuendo.engine.starter import start

pytestmark = pytest.mark.timeout(600)
BUDGET = {"evaluations": 5.0, "epochs": 4.0}
LESS = {"evaluations": 4.0, "epochs": 2.0}
EXPORTS = ("onnx", "onnx:fp16", "pt2", "torchscript", "safetensors:bf16")

DATA = """
[task]
kind = "classification"
name = "digits without code"

[train]
kind = "npz"
path = "train.npz"
inputs = "inputs"
target = "targets"

[evaluation]
kind = "npz"
path = "evaluation.npz"
inputs = "inputs"
target = "targets"
"""


def run_onnx(path: Path, inputs: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (name,) = (each.name for each in session.get_inputs())
    return torch.from_numpy(session.run(None, {name: inputs.numpy()})[0])


def without_code(folder: Path, network: Path, mine: Path) -> Path:
    """A bundle of a network's file and data."""
    folder.mkdir()
    (folder / "digits.onnx").write_bytes(network.read_bytes())
    task = bundle.load(mine)
    for name, samples in (("train", task.train), ("evaluation", task.evaluation)):
        np.savez(folder / f"{name}.npz", inputs=samples.inputs.numpy(), targets=samples.targets.numpy())  # type: ignore[union-attr]
    (folder / "data.toml").write_text(DATA)
    return folder


def test_a_bundle_goes_in_and_files_that_need_no_code_come_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine"
    start(mine)
    monkeypatch.chdir(mine)
    with (mine / "task.py").open("a") as file:  # reads what lies beside it as on its owner's machine
        file.write("\nassert Path('note.txt').read_text() == 'here'\nprint('task.py was run')\n")
    (mine / "note.txt").write_text("here")
    with serving(tmp_path / "data", evaluators=2) as server, Client(server.target) as client:
        job = client.submit(bundle=mine, delta=2.0, effort="quick", budget=BUDGET, exports=EXPORTS)
        info = job.wait(timeout_s=400)
        assert info.state is JobState.SUCCEEDED, info.failure
        assert info.result is not None
        assert info.result.inside_delta
        assert info.result.params_ratio > 1.2
        assert info.source.startswith("bundle:")
        assert info.exports == EXPORTS
        result = job.download(tmp_path / "result")
        check_files(result, mine)

        # The same folder from elsewhere is the same bundle: nothing of it is done again.
        elsewhere = tmp_path / "elsewhere" / "copy"
        elsewhere.mkdir(parents=True)
        for path in mine.iterdir():
            if path.is_file():
                (elsewhere / path.name).write_bytes(path.read_bytes())
        again = client.submit(bundle=elsewhere, delta=2.0, effort="quick", budget=BUDGET, exports=EXPORTS)
        assert again.wait(timeout_s=60).source == info.source
        assert all(event.remembered for event in again.watch() if isinstance(event, EvaluationFinished))

        # What came out of one job can go into another, without any code.
        plain = without_code(tmp_path / "plain", result / "model.onnx", mine)
        bare = client.submit(bundle=plain, delta=2.0, effort="quick", budget=LESS, exports=["pt2"])
        ended = bare.wait(timeout_s=300)
        assert ended.state is JobState.SUCCEEDED, ended.failure
        program = torch.export.load(bare.download(tmp_path / "bare") / "model.pt2").module()
        assert program(torch.zeros(3, 1, 8, 8)).shape == (3, 10)

        # The owner's mistakes end the job with the owner's file and line.
        (mine / "task.py").write_text("def task():\n    return open('/nowhere/data.npz')\n")
        failed = client.submit(bundle=mine, delta=1.0).wait(timeout_s=60)
        assert failed.state is JobState.FAILED
        assert failed.failure is not None
        assert failed.failure.reason == "USER_CODE"
        assert "/nowhere/data.npz" in failed.failure.message
        assert "task.py:2" in failed.failure.message
    assert left_after(server.mark) == []


def check_files(result: Path, mine: Path) -> None:
    """Every file of a result gives what its network gives, and the certificate says so."""
    task = bundle.load(mine)
    inputs = task.evaluation.inputs[:50]  # type: ignore[union-attr]
    with torch.no_grad():
        wanted = load(result, task.model)(inputs)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is deprecated", category=DeprecationWarning)
            script = torch.jit.load(str(result / "model.ts"))(inputs)  # type: ignore[no-untyped-call]
        narrow = load(result, task.model, dtype="bf16")(inputs.to(torch.bfloat16)).float()
    torch.testing.assert_close(run_onnx(result / "model.onnx", inputs), wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.export.load(result / "model.pt2").module()(inputs), wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(script, wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(run_onnx(result / "model.fp16.onnx", inputs), wanted, atol=0.2, rtol=0.05)
    torch.testing.assert_close(narrow, wanted, atol=1.0, rtol=0.1)
    said = json.loads((result / "certificate.json").read_text())["exports"]
    assert set(said) == set(EXPORTS)
    for form, entry in said.items():
        assert not entry.get("error"), (form, entry)
        assert entry["size_bytes"] == (result / entry["file"]).stat().st_size
        assert entry["largest_difference"] < (1e-3 if ":" not in form else 1.0)
    (later,) = export(result, ["onnx"], opset=20, overwrite=True)  # from model.pt2: without the bundle
    assert (later.error, later.opset) == ("", 20)
