from __future__ import annotations

from pathlib import Path

import pytest

from diminuendo.engine import bundle
from diminuendo.engine.task import TaskError
from diminuendo.engine.workbench import UserCodeError

TASK = """
import torch
from beside_{name} import network
from diminuendo.engine import Samples, Task

def task():
    samples = Samples(torch.zeros(40, 4), torch.zeros(40, dtype=torch.int64))
    return Task(network(), samples, samples, name="{name}")
"""
BESIDE = "from torch import nn\ndef network():\n    return nn.Sequential(nn.Linear(4, 3))\n"


def written(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "task.py").write_text(text)
    return folder


def test_a_bundle_is_loaded_with_what_lies_beside_it(tmp_path: Path) -> None:
    for name in ("one", "two"):
        folder = written(tmp_path / name, TASK.format(name=name))
        (folder / f"beside_{name}.py").write_text(BESIDE)
        task = bundle.load(folder)
        assert (task.name, task.source) == (name, f"bundle:{folder}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", r"task\.py defines no function task\(\)"),
        ("def task():\n    return 3", r"returned a int; return a diminuendo\.engine\.Task"),
    ],
)
def test_a_bundle_that_is_none_says_what_it_lacks(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        bundle.load(written(tmp_path / "b", text))
    with pytest.raises(TaskError, match=r"has no task\.py; write one"):
        bundle.load(tmp_path)


@pytest.mark.parametrize("text", ["import does_not_exist", "def task():\n    raise ValueError('boom')"])
def test_the_owners_error_comes_with_its_traceback(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserCodeError, match=r"does_not_exist|boom") as caught:
        bundle.load(written(tmp_path / "b", text))
    assert "task.py" in caught.value.traceback_text
