"""Fetched bundles: unpacked once for all processes, never half, and removed when nobody uses them."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.engine.bundle.test_archive import Counting, file, tar_of

from diminuendo.engine.bundle import cache
from diminuendo.engine.bundle.archive import BundleError
from diminuendo.engine.store import ArtifactDamagedError, ArtifactMissingError, DirectoryStore


@pytest.fixture(autouse=True)
def _own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "bundles"))
    monkeypatch.setattr(cache, "_held", {})


def test_a_bundle_is_fetched_once(tmp_path: Path) -> None:
    store = Counting(tmp_path / "store")
    sha256 = store.put(tar_of(file("task.py", b"t"), file("w", b"\0" * 2_000_000)))
    folder = cache.fetched(store, sha256)
    assert (folder / "task.py").read_bytes() == b"t"
    read = store.bytes_read
    assert cache.fetched(store, sha256) == folder
    assert store.bytes_read == read
    assert cache.folder().stat().st_mode & 0o077 == 0
    assert sorted(path.name for path in folder.parent.iterdir()) == ["files", "filling", "lock"]


def test_what_is_damaged_is_put_aside_and_nothing_of_it_stays(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    content = tar_of(file("task.py", b"t"))
    sha256 = store.put(content)
    store.path(sha256).write_bytes(b"y" + content[1:])
    with pytest.raises(ArtifactDamagedError, match="store it again"):
        cache.fetched(store, sha256)
    with pytest.raises(ArtifactMissingError):
        cache.fetched(store, sha256)
    store.put(content)
    assert (cache.fetched(store, sha256) / "task.py").read_bytes() == b"t"


def test_what_is_no_bundle_leaves_nothing_half_unpacked(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    sha256 = store.put(tar_of(file("a"), file("../b")))
    with pytest.raises(BundleError, match="outside"):
        cache.fetched(store, sha256)
    assert not list(cache.folder().rglob("files"))
    assert not list(cache.folder().rglob("unfinished"))


def _fetch(store: str, sha256: str, start: float) -> str:
    while time.time() < start:
        pass
    return (cache.fetched(DirectoryStore(store), sha256) / "task.py").read_text()


def test_processes_that_fetch_at_the_same_time_all_get_it_whole(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    sha256 = store.put(tar_of(file("a.bin", b"\0" * 3_000_000), file("task.py", b"t")))
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        at = time.time() + 1.0
        assert pool.starmap(_fetch, [(str(tmp_path / "store"), sha256, at)] * 6) == ["t"] * 6


def test_bundles_that_nobody_uses_are_removed_after_a_while_and_others_are_not(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    used, unused, fresh, latest = (store.put(tar_of(file("task.py", bytes([i])))) for i in range(4))
    code = (
        "import sys; from diminuendo.engine.bundle import cache; from diminuendo.engine.store import DirectoryStore\n"
        f"store = DirectoryStore({str(tmp_path / 'store')!r})\n"
        "for sha256 in sys.argv[1:]: print(cache.fetched(store, sha256), flush=True)\n"
        "sys.stdin.read()"
    )

    def user(*sha256s: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *sha256s], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in sha256s:
            assert process.stdout.readline()
        return process

    user(unused, fresh).communicate()
    other = user(used)
    try:
        root = cache.folder()
        for sha256 in (used, unused):
            os.utime(root / sha256, (time.time() - cache.KEEP_S - 1,) * 2)
        cache.fetched(store, latest)
        assert {path.name for path in root.iterdir()} == {used, fresh, latest}
    finally:
        other.communicate()


def test_another_users_folder_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DirectoryStore(tmp_path / "store")
    sha256 = store.put(tar_of(file("task.py")))
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(PermissionError, match=f"belongs to another user; set {cache.VARIABLE}"):
        cache.fetched(store, sha256)
