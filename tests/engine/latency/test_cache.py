from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest

from diminuendo.engine.latency import LatencyCache, default_folder

DEVICE = {"device": "a processor", "threads": 1, "torch": "2"}
LAYER = {"kind": "conv", "channels": [8, 4, 1], "inputs": [[[1, 4, 8, 8], [256, 64, 8, 1], 1]]}


def test_what_was_added_is_read_by_whoever_looks_next(tmp_path: Path) -> None:
    cache = LatencyCache(tmp_path / "deep" / "er")
    assert cache.read(DEVICE, LAYER) == {}
    cache.add(DEVICE, LAYER, {"svd(3)": 0.5})
    cache.add(DEVICE, LAYER, {"svd(4)": 0.75})
    assert LatencyCache(tmp_path / "deep" / "er").read(DEVICE, LAYER) == {"svd(3)": 0.5, "svd(4)": 0.75}


def test_devices_and_layers_do_not_mix(tmp_path: Path) -> None:
    cache = LatencyCache(tmp_path)
    cache.add(DEVICE, LAYER, {"svd(3)": 0.5})
    assert cache.read(DEVICE | {"threads": 2}, LAYER) == {}
    assert cache.read(DEVICE, LAYER | {"kind": "linear"}) == {}


def test_a_damaged_file_is_as_good_as_none(tmp_path: Path) -> None:
    cache = LatencyCache(tmp_path)
    cache.add(DEVICE, LAYER, {"svd(3)": 0.5})
    (file,) = tmp_path.rglob("*.json")
    whole = json.loads(file.read_text())
    for text in (
        "",
        "{",
        "[]",
        "{}",
        json.dumps(whole | {"ratios": [1]}),
        json.dumps(whole | {"ratios": {"svd(3)": "x"}}),
    ):
        file.write_text(text)
        assert cache.read(DEVICE, LAYER) == {}
    file.write_text(json.dumps(whole | {"ratios": {"svd(3)": -1.0, "svd(4)": 0.25}}))
    assert cache.read(DEVICE, LAYER) == {"svd(4)": 0.25}
    file.write_text(json.dumps(whole | {"layer": {}}))
    assert cache.read(DEVICE, LAYER) == {}
    cache.add(DEVICE, LAYER, {"svd(5)": 0.5})
    assert cache.read(DEVICE, LAYER) == {"svd(5)": 0.5}


def test_without_a_folder_nothing_is_kept_and_nothing_fails(tmp_path: Path) -> None:
    nowhere = LatencyCache(None)
    nowhere.add(DEVICE, LAYER, {"svd(3)": 0.5})
    assert nowhere.read(DEVICE, LAYER) == {}
    (tmp_path / "file").write_text("")
    blocked = LatencyCache(tmp_path / "file" / "under")
    blocked.add(DEVICE, LAYER, {"svd(3)": 0.5})
    assert blocked.read(DEVICE, LAYER) == {}


def add_many(folder: Path, first: int) -> None:
    for i in range(first, first + 40):
        LatencyCache(folder).add(DEVICE, LAYER, {f"svd({i})": 0.5})


def test_processes_that_write_at_once_leave_a_whole_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=add_many, args=(tmp_path, first)) for first in (0, 1000)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        for file in tmp_path.rglob("*.json"):
            assert json.loads(file.read_text())["layer"] == LAYER
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    found = LatencyCache(tmp_path).read(DEVICE, LAYER)
    assert found.keys() & {"svd(39)", "svd(1039)"}  # the last one to write is never lost
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_folder_is_where_the_system_keeps_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "diminuendo" / "latency"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for unusable in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert default_folder() == tmp_path / "home" / ".cache" / "diminuendo" / "latency"
    assert os.environ["HOME"] == str(tmp_path / "home")
