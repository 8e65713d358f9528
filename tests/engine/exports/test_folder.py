"""Exports with a compression, with a plan that is applied, and from a result's folder later."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from tests.engine.tasks import two_inputs
from torch import nn

from diminuendo.engine import Compressed, Task, apply, compress, export, load
from diminuendo.engine.exports import onnxfile
from diminuendo.engine.plan import Choice, Plan, PlanError
from diminuendo.engine.search.check import request_of
from diminuendo.engine.task import TaskError
from diminuendo.engine.workbench import Workbench

PLAN = Plan.of({"middle": Choice("svd", (20,))})


def refuse(*given: Any) -> None:
    """In the place of what writes ONNX files: it takes seconds to find out that there is no such kernel."""
    raise RuntimeError("[ONNXRuntimeError] : 10 : INVALID_GRAPH : Type 'tensor(bfloat16)' is invalid")


@pytest.fixture(scope="module")
def task() -> Task:
    return two_inputs()


@pytest.fixture(scope="module")
def compressed(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Compressed:
    out = tmp_path_factory.mktemp("compressed") / "result"
    budget: Any = {"evaluations": 3}
    exports = ("pt2", "onnx:bf16", "safetensors:fp16")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxfile, "write", refuse)
        return compress(task, 5.0, effort="quick", budget=budget, exports=exports, out=out)


@pytest.fixture
def folder(compressed: Compressed, tmp_path: Path) -> Path:
    assert compressed.folder is not None
    return Path(shutil.copytree(compressed.folder, tmp_path / "result"))


def certificate(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "certificate.json").read_text())
    return found


def points(compressed: Compressed, task: Task, network: nn.Module) -> float:
    """A network's metric on the half that the certificate is about."""
    bench = Workbench(task, compressed.certificate["seed"])
    return float(bench.measure(network, bench.sealed_half)[0].mean())


def test_a_compression_brings_its_exports(compressed: Compressed, task: Task) -> None:
    folder, found = compressed.folder, compressed.certificate
    assert folder is not None
    files = {path.name for path in folder.iterdir()}
    assert files == {
        "model.safetensors", "plan.json", "certificate.json", "profile.json", "search.json",
        "model.pt2", "model.fp16.safetensors",
    }  # fmt: skip
    told = found["exports"]["pt2"]
    assert told["metric"] == found["compressed"]
    assert told["drop"] == found["drop"]
    assert told["samples"] == found["sealed_samples"] == 200
    assert told["largest_difference"] < 1e-5
    assert told["size_bytes"] == (folder / "model.pt2").stat().st_size
    assert found["exports"]["safetensors:fp16"]["metric"] == pytest.approx(found["compressed"], abs=2.0)
    assert "no bf16 kernel" in found["exports"]["onnx:bf16"]["error"]
    assert [each["reason"] for each in found["warnings"]].count("EXPORT_FAILED") == 1
    assert points(compressed, task, compressed.model) == found["compressed"]


def test_half_precision_weights_are_loaded_from_their_file_or_rounded(folder: Path, task: Task) -> None:
    whole, half = load(folder, task.model), load(folder, task.model, dtype="fp16")
    expected = {name: value.half() for name, value in whole.state_dict().items()}
    assert all(torch.equal(value, expected[name]) for name, value in half.state_dict().items())
    (folder / "model.fp16.safetensors").unlink()
    rounded = load(folder, task.model, dtype="fp16")
    assert all(torch.equal(value, expected[name]) for name, value in rounded.state_dict().items())
    assert load(folder, task.model, "bf16").get_parameter("out.weight").dtype == torch.bfloat16
    with pytest.raises(PlanError, match="dtype: 'fp8' is unknown; give fp16 or bf16"):
        load(folder, task.model, "fp8")  # type: ignore[arg-type]


def test_a_task_brings_inputs_and_metric_and_the_certificate_tells(
    folder: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxfile, "write", refuse)
    before = certificate(folder)
    made, failed = export(folder, ["torchscript", "onnx:bf16"], task=task)
    assert (made.metric, made.drop, made.samples) == (before["compressed"], before["drop"], 200)
    assert failed.error
    after = certificate(folder)
    assert list(after["exports"]) == ["pt2", "onnx:bf16", "safetensors:fp16", "torchscript"]
    assert after["exports"]["pt2"] == before["exports"]["pt2"]
    assert after["exports"]["torchscript"]["file"] == "model.ts"
    assert {k: v for k, v in after.items() if k != "exports"} == {k: v for k, v in before.items() if k != "exports"}


def test_a_program_alone_is_enough_for_onnx(folder: Path, task: Task, tmp_path: Path) -> None:
    network, alone = load(folder, task.model), tmp_path / "alone"
    alone.mkdir()
    (folder / "model.pt2").rename(alone / "model.pt2")
    (made,) = export(alone, ["onnx"])
    assert (made.error, made.batch, made.compared, made.metric) == ("", "dynamic", 2, None)
    assert {path.name for path in alone.iterdir()} == {"model.pt2", "model.onnx"}
    session = onnxruntime.InferenceSession(str(alone / "model.onnx"), providers=["CPUExecutionProvider"])
    left, right = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0))
    given = dict(zip((each.name for each in session.get_inputs()), (left.numpy(), right.numpy()), strict=True))
    assert set(given) == {"left", "right"}
    torch.testing.assert_close(torch.as_tensor(session.run(None, given)[0]), network(left, right), rtol=0, atol=1e-5)
    with pytest.raises(TaskError, match=r"onnx:fp16 cannot be made from model.pt2, which computes in float32 alone"):
        export(alone, ["onnx:fp16"])


def test_inputs_of_ones_own_will_do(folder: Path, task: Task) -> None:
    (folder / "model.pt2").unlink()
    with pytest.raises(PlanError, match="pass the original architecture"):
        export(folder, ["pt2"])
    with pytest.raises(TaskError, match=r"inputs: .*'task:blobs' cannot be built here.*give inputs="):
        export(folder, ["pt2"], model=task.model)
    (made,) = export(folder, ["pt2"], model=task.model, inputs=(torch.randn(6, 4), torch.randn(6, 4)), out=folder / "x")
    assert (made.error, made.compared, made.metric) == ("", 6, None)
    assert (folder / "x" / "model.pt2").exists()
    assert certificate(folder)["exports"].keys() == {"pt2", "onnx:bf16", "safetensors:fp16"}


def test_a_file_is_replaced_where_that_is_said_and_kept_where_its_successor_fails(
    folder: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, content = certificate(folder), (folder / "model.pt2").read_bytes()
    with pytest.raises(TaskError, match=r"model.pt2: there already in .*overwrite=True"):
        export(folder, ["torchscript", "pt2"], task=task)
    assert not (folder / "model.ts").exists()

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.export, "save", full)
    (failed,) = export(folder, ["pt2"], task=task, overwrite=True)
    assert "No space left" in failed.error
    assert (folder / "model.pt2").read_bytes() == content
    assert certificate(folder) == before
    monkeypatch.undo()
    (made,) = export(folder, ["pt2"], task=task, overwrite=True, dynamic_batch=False)
    assert made.batch == "static"
    assert certificate(folder)["exports"]["pt2"]["batch"] == "static"
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("forms", "options", "says"),
    [
        (["onxn"], {}, "forms: 'onxn' is no form of export; did you mean 'onnx'?"),
        ([], {}, "forms: there are none"),
        ("onnx", {}, "forms: 'onnx' is one text"),
        (["onnx"], {"opset": 12}, "opset: 12 cannot be written; give 18 to 24"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(folder: Path, forms: Any, options: Any, says: str) -> None:
    with pytest.raises(TaskError) as caught:
        export(folder, forms, **options)
    assert str(caught.value).startswith(says)


def test_a_folder_that_holds_no_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="is not there; name a result folder"):
        export(tmp_path / "nothing", ["onnx"])
    with pytest.raises(TaskError, match=r"has neither plan.json nor model.pt2"):
        export(tmp_path, ["onnx"])
    (tmp_path / "model.pt2").write_bytes(b"no program")
    with pytest.raises(TaskError, match=r"model.pt2: it cannot be read"):
        export(tmp_path, ["onnx"])


def test_a_plan_that_is_applied_is_exported_too(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxfile, "write", refuse)
    done = apply(PLAN, task, delta=100.0, exports=["torchscript", "onnx:bf16"])
    told = done.certificate["exports"]
    assert told["torchscript"]["metric"] == done.certificate["compressed"]
    assert [each["reason"] for each in done.certificate["warnings"]].count("EXPORT_FAILED") == 1
    with pytest.raises(TaskError, match="exports: 'onxn' is no form"):
        apply(PLAN, task, exports=["onxn"])


def test_a_network_that_cannot_be_exported_is_compressed_all_the_same(task: Task) -> None:
    class Deciding(type(task.model)):  # type: ignore[misc]
        def forward(self, left: torch.Tensor, right: torch.Tensor) -> Any:
            return super().forward(left, right) * (2.0 if left.sum() > 1e9 else 1.0)

    model = copy.deepcopy(task.model)
    model.__class__ = Deciding
    done = apply(PLAN, Task(model, task.train, task.evaluation, recipe=task.recipe), delta=100.0, exports=["pt2"])
    assert done.inside_delta
    assert "decides by the values of its data" in done.certificate["exports"]["pt2"]["error"]
    assert "test_folder.py:" in done.certificate["exports"]["pt2"]["error"]


def test_a_package_that_is_missing_is_told_before_the_search(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TaskError, match=r"exports: 'onnx' needs onnx and onnxscript and onnxruntime; pip install"):
        compress(task, 1.0, exports=["onnx"])
    assert request_of("zoo:digits", exports=["onnx"]).exports == ("onnx",)  # a server may have it
