"""The examples, each compressed as its README says but with less searching; and the template of a new bundle."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from diminuendo.engine import bundle, compress, starter
from diminuendo.engine.search.budget import BudgetName
from diminuendo.engine.task import Task, TaskError

EXAMPLES = Path(__file__).parents[2] / "examples"

LITTLE: Mapping[BudgetName, float] = {"evaluations": 4, "epochs": 5}
MORE: Mapping[BudgetName, float] = {"evaluations": 6, "epochs": 10}


class Case(NamedTuple):
    """An example; what its original is judged as, far from guessing; and the least ratio that has to come out."""

    name: str
    metric: str
    delta: float
    original: tuple[float, float]
    ratio: float
    budget: Mapping[BudgetName, float]
    formats: tuple[str, ...] = ()


CASES = [
    Case("images", "macro F1", 2.0, (96.0, 100.0), 3.0, MORE, ("cp",)),
    Case("diabetes", "rmse", 2.0, (45.0, 60.0), 3.0, MORE),
    Case("segmentation", "mean_iou", 4.0, (80.0, 100.0), 1.5, LITTLE, ("cp",)),
    Case("detection", "mAP at IoU 0.5", 4.0, (95.0, 100.0), 1.5, LITTLE, ("cp",)),
    Case("transformer", "perplexity", 0.2, (1.0, 1.2), 2.0, LITTLE),
    Case("own_loop", "auc", 1.0, (97.0, 100.0), 3.0, MORE),
]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_an_example_gets_smaller_inside_its_delta(case: Case) -> None:
    task = bundle.load(EXAMPLES / case.name)
    result = compress(
        task, case.delta, effort="quick", budget=case.budget, stage=1, formats=case.formats, exports=("onnx",)
    )
    certificate = result.certificate
    assert certificate["metric"] == case.metric
    assert case.original[0] < certificate["original"] < case.original[1]
    assert result.inside_delta
    sign = 1 if task.metric.higher_is_better else -1
    assert certificate["drop"] == pytest.approx(sign * (certificate["original"] - certificate["compressed"]))
    assert certificate["drop"] <= case.delta
    assert certificate["params_ratio"] > case.ratio
    made = certificate["exports"]["onnx"]
    assert "error" not in made, made
    assert made["largest_difference"] < 1e-5 * max(10.0, certificate["original"])
    assert made["metric"] == pytest.approx(certificate["compressed"], abs=0.05 * case.delta)


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_weights_are_small_and_in_half_precision(name: str) -> None:
    file = EXAMPLES / name / "weights.safetensors"
    assert file.stat().st_size < 150_000
    kinds = {value.dtype for value in load_file(file).values()}
    assert torch.float16 in kinds
    assert torch.float32 not in kinds


def test_every_example_is_told_of() -> None:
    folders = {path.name for path in EXAMPLES.iterdir() if (path / "task.py").is_file()}
    assert folders == {case.name for case in CASES}
    table = (EXAMPLES / "README.md").read_text()
    assert all(f"[{name}]({name}/" in table for name in folders)


def test_what_start_writes_runs_as_it_stands(tmp_path: Path) -> None:
    written = starter.start(tmp_path / "new" / "bundle")
    assert sorted(path.name for path in written) == sorted(starter.FILES)
    assert sorted((tmp_path / "new" / "bundle").iterdir()) == sorted(written)
    task = bundle.load(tmp_path / "new" / "bundle")
    result = compress(task, 3.0, effort="quick", budget={"evaluations": 3, "epochs": 6}, stage=1)
    assert result.certificate["original"] > 97.0
    assert result.certificate["evaluations"] == 3


def test_what_is_commented_out_in_the_template_is_a_task_when_it_is_not() -> None:
    text = (Path(starter.__file__).parent / "template" / "task.py").read_text()
    fields = ("loss", "metric", "augment", "optimizer", "scheduler", "forward", "fit", "logits", "recipe")
    code, inside = [], False
    for line in text.splitlines():
        bare = line.lstrip().removeprefix("#").removeprefix(" ") if line.lstrip().startswith("#") else None
        if bare is None or not bare:
            inside = inside and bare == ""
            code.append("" if bare == "" else line)
            continue
        inside = bare.startswith(("def ", "METRIC = ", "from ")) or (inside and bare.startswith("    "))
        entry = bare.partition("=")[0] in fields and bare.endswith(",")
        code.append(bare if inside else line[: len(line) - len(line.lstrip())] + bare if entry else "")
    folder = str(Path(starter.__file__).parent / "template")
    names: dict[str, Any] = {"__file__": f"{folder}/task.py", "__name__": "template"}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.delitem(sys.modules, "network", raising=False)
        exec(compile("\n".join(code), "task.py", "exec"), names)
        task = names["task"]()
    assert all(getattr(task, field) != Task.__dataclass_fields__[field].default for field in fields)


def test_start_takes_an_empty_folder_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert len(starter.start(tmp_path / "empty")) == len(starter.FILES)
    before = {path: path.read_bytes() for path in (tmp_path / "empty").iterdir()}
    with pytest.raises(TaskError, match=r"empty is not empty; name a new or an empty one"):
        starter.start(tmp_path / "empty")
    assert {path: path.read_bytes() for path in (tmp_path / "empty").iterdir()} == before


def test_start_leaves_nothing_of_what_it_could_not_finish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.name == "weights.safetensors":
            write(path, content[:100])
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(TaskError, match=r"bundle cannot be written to \(No space left on device\)"):
        starter.start(tmp_path / "new" / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_start_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(TaskError, match="file"):
        starter.start(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
