from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.bench.results import command_line, record, version


def test_a_record_tells_what_it_was_measured_with(tmp_path: Path) -> None:
    command = command_line("tests.bench.x", ["--data", "a folder", "--runs", "3"])
    assert command == "python -m tests.bench.x --data 'a folder' --runs 3"
    path = record("x", {"seconds": 1.5}, command=command, seed=4, folder=tmp_path / "new", runs=3, threads=7)
    assert path == tmp_path / "new" / "x.json"
    found = json.loads(path.read_text())
    assert list(found)[:7] == ["command", "date", "machine", "torch", "version", "threads", "seed"]
    assert (found["command"], found["seed"], found["runs"], found["seconds"]) == (command, 4, 3, 1.5)
    assert (found["torch"], found["threads"], found["version"]) == (torch.__version__, 7, version())
    assert version().startswith("0.1.0")


def test_figures_do_not_take_the_place_of_what_every_record_tells(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="figures: seed say"):
        record("x", {"seed": 1.0}, command="", seed=4, folder=tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        record("x", {"ratio": float("nan")}, command="", seed=4, folder=tmp_path)
    assert not list(tmp_path.iterdir())
