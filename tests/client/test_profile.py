"""`diminuendo profile` and the tasks of `diminuendo compress`, with the real engine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file
from tests.engine.zoo.test_cifar import encoded, pixels, write_both

from diminuendo.client.cli.commands.compress import _task
from diminuendo.engine import Task, zoo
from diminuendo.engine.zoo.catalog import Source

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., subprocess.CompletedProcess[str]]


def test_json_has_the_promised_keys_and_figures(run_here: Run) -> None:
    threads = torch.get_num_threads()
    done = run_here("profile", "zoo:mobilenet_v2", "--output", "json", "--threads", "3")
    assert (done.returncode, done.stderr) == (0, "")
    figures = json.loads(done.stdout)
    assert list(figures) == ["params", "size_mb", "macs", "memory_mb", "time_ms", "layers", "uncounted", "machine"]
    assert figures["params"] == 2_412_212
    assert round(figures["macs"] / 1e9, 4) == 0.0947
    assert round(figures["memory_mb"], 4) == 22.8999
    assert round(figures["size_mb"], 4) == round(2_412_212 * 4 / 2**20, 4)
    assert figures["time_ms"] > 0
    assert figures["uncounted"] == []
    assert "3 thread(s), batch 1, float32" in figures["machine"]
    assert torch.get_num_threads() == threads
    assert {"name": "conv1", "kind": "Conv2d", "params": 864, "macs": 864 * 1024} in figures["layers"]
    assert sum(layer["params"] for layer in figures["layers"]) == figures["params"]
    assert sum(layer["macs"] for layer in figures["layers"]) == figures["macs"]


def test_the_table_shows_four_decimals_and_layers_when_asked(run_here: Run) -> None:
    short = run_here("profile", "zoo:mobilenet_v1", "--no-time").stdout
    assert re.search(r"^params +3,309,476 +3\.3095 M$", short, re.MULTILINE)
    assert re.search(r"^MACs +47,269,988 +0\.0473 G, for one sample$", short, re.MULTILINE)
    assert re.search(r"^memory +16\.6215 MB +at batch 1$", short, re.MULTILINE)
    assert "time" not in short
    assert "layers.0.conv1" not in short
    full = run_here("profile", "zoo:mobilenet_v1", "--no-time", "--layers").stdout
    assert full.startswith(short)
    # Depthwise 3x3 on 32 channels of 32x32.
    assert re.search(r"^layers\.0\.conv1 +Conv2d +32x32x32 +288 +294,912 +0\.6%$", full, re.MULTILINE)
    assert re.search(r"^total +3,309,476 +47,269,988$", full, re.MULTILINE)


def test_without_time_there_is_none(run_here: Run) -> None:
    assert json.loads(run_here("profile", "zoo:digits", "--no-time", "--output", "json").stdout)["time_ms"] is None


def test_classes_in_the_name_or_beside_it(run_here: Run) -> None:
    for words in (["zoo:resnet18_imagenet", "--classes", "16"], ["zoo:resnet18_imagenet?classes=16"]):
        done = run_here("profile", *words, "--no-time", "--output", "json")
        assert json.loads(done.stdout)["params"] == 11_184_720


def test_weights_are_checked_and_change_no_figure(run_here: Run, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({name: value.clone() for name, value in zoo.network("mobilenet_v1").state_dict().items()}, path)
    words = ["profile", "zoo:mobilenet_v1", "--no-time", "--output", "json"]
    assert run_here(*words, "--weights", str(path)).stdout == run_here(*words).stdout
    done = run_here("profile", "zoo:mobilenet_v1?classes=10", "--weights", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "was trained for 100 classes" in done.stderr
    assert "say zoo:mobilenet_v1?classes=100" in done.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["zoo:resnet81"], "source: the zoo has no network 'resnet81'; did you mean 'resnet18'?"),
        (["resnet18"], "target: 'resnet18' is neither zoo:NAME nor a folder; did you mean zoo:resnet18?"),
        (["./nowhere/at:all"], "target: './nowhere/at:all' is neither zoo:NAME nor a folder"),
        (["zoo:"], "'zoo:' is not of the form zoo:NAME"),
        (["zoo:vgg19", "--classes", "1"], "classes: '1' of vgg19 is no number of classes; give a whole number from 2"),
        (["zoo:vgg19?classes=3", "--classes", "4"], "classes: 4 is given twice: leave out --classes or"),
        (["zoo:digits", "--classes", "4"], "classes: '4' does not fit digits, whose data has 10 classes; leave it out"),
        (["zoo:vgg19", "--weights", "w"], "weights: w is not there; give a safetensors file, or train one with"),
        (["zoo:vgg19", "--threads", "0"], "Invalid value for '--threads': Input should be greater than or equal to 1"),
        (["zoo:vgg19", "--output", "yaml"], "'yaml' is not one of 'table', 'json'"),
        (["."], "has no task.py; write one that defines task()"),
        ([".", "--classes", "3"], "classes: 3 is for zoo:NAME; ./task.py says this itself"),
        ([], "TARGET"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run_here: Run, words: list[str], text: str) -> None:
    done = run_here("profile", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: [^\n]+\n", done.stderr), done.stderr
    assert text in done.stderr


BUNDLE = """
import torch
from torch import nn
from diminuendo.engine import Samples, Task

def task():
    samples = Samples(torch.zeros(5, 4), torch.zeros(5, dtype=torch.int64))
    return Task(nn.Sequential(nn.Linear(4, 3), nn.GELU()), samples, samples, name="mine")
"""


def test_a_bundles_folder_is_profiled_by_its_task(run_here: Run, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "task.py").write_text(BUNDLE)
    done = run_here("profile", "folder", "--no-time")
    assert re.search(r"^network +mine$", done.stdout, re.MULTILINE)
    assert re.search(r"^MACs +15 ", done.stdout, re.MULTILINE)
    assert re.search(r"^not counted +GELU$", done.stdout, re.MULTILINE)


def test_the_real_entry_profiles_and_imports_no_server() -> None:
    code = (
        "import sys; from diminuendo.client.cli.main import main\n"
        "try: main(['profile', 'zoo:digits', '--no-time'])\n"
        "finally: print('imported', [m for m in sys.modules if m in ('ray', 'transformers')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^params +222,570 ", done.stdout, re.MULTILINE)
    assert done.stdout.endswith("imported []\n")


def test_compress_hands_over_a_task_where_the_package_has_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    state = zoo.network("mobilenet_v1?classes=10").state_dict()
    save_file({name: value.clone() for name, value in state.items()}, path)
    write_both(tmp_path, image=[encoded(image) for image in pixels(2, seed=1)], label=[0, 9])
    task = _task(Source.parse("mobilenet_v1?classes=10"), path, tmp_path)
    assert isinstance(task, Task)
    assert task.source == "zoo:mobilenet_v1?classes=10"
    assert torch.equal(task.model.state_dict()["fc.bias"], state["fc.bias"])
    assert _task(Source.parse("digits"), None, None) == "zoo:digits"
