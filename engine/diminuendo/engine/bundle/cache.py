"""Bundles that were fetched from an artifact store, unpacked: one folder for all processes of a machine.

Whoever uses a bundle holds its lock; one that nobody has used for a while is removed when the next one is fetched.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diminuendo.engine.bundle.archive import unpack
from diminuendo.engine.store import BLOCK, ArtifactDamagedError, SharedStore, checked

VARIABLE = "DIMINUENDO_BUNDLES"
"""Environment variable: the folder, where it is not the usual one."""

KEEP_S = 3600.0
"""How long a bundle that nobody uses is kept, in seconds."""

_FILES, _LOCK = "files", "lock"
_held: dict[Path, int] = {}
"""Locks of the bundles that this process uses, until it ends."""


def folder() -> Path:
    """Where bundles are unpacked: only this user can read it."""
    given = os.environ.get(VARIABLE)
    return Path(given) if given else Path(tempfile.gettempdir()) / f"diminuendo-bundles-{os.getuid()}"


def fetched(store: SharedStore, sha256: str) -> Path:
    """The folder of a bundle, fetched unless it is here; it stays for as long as this process lives.

    Raises:
        ArtifactMissingError: The store lacks it.
        BundleError: It is no bundle.
    """
    root = folder()
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if root.stat().st_uid != os.getuid():
        raise PermissionError(f"{root} belongs to another user; set {VARIABLE} to a folder of your own")
    place = root / checked(sha256)
    _hold(place)
    with _alone(place):
        if not (place / _FILES).is_dir():
            _fill(store, sha256, place)
    os.utime(place)
    _remove_unused(root)
    return place / _FILES


def _hold(place: Path) -> None:
    """Keep others from removing it."""
    if place in _held:
        return
    while True:
        place.mkdir(exist_ok=True)
        lock = os.open(place / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(lock, fcntl.LOCK_SH)
        try:
            if os.fstat(lock).st_ino == (place / _LOCK).stat().st_ino:
                _held[place] = lock
                return
        except FileNotFoundError:  # it was removed between the two
            pass
        os.close(lock)


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Wait until nobody else fills it."""
    filling = os.open(place / "filling", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(filling, fcntl.LOCK_EX)
        yield
    finally:
        os.close(filling)


def _fill(store: SharedStore, sha256: str, place: Path) -> None:
    """Fetch and unpack; the folder appears whole."""
    unfinished = place / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that ended over it
    unfinished.mkdir()
    try:
        archive = unfinished / "archive"
        _fetch(store, sha256, archive)
        unpack(archive, unfinished / _FILES)
        (unfinished / _FILES).rename(place / _FILES)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _fetch(store: SharedStore, sha256: str, archive: Path) -> None:
    """The content as a file, checked, in bounded memory."""
    digest, at = hashlib.sha256(), 0
    with archive.open("wb") as file:
        while data := store.read(sha256, at, BLOCK):
            digest.update(data)
            file.write(data)
            at += len(data)
    if digest.hexdigest() != sha256:
        store.set_aside(sha256)
        raise ArtifactDamagedError(f"the content stored under {sha256} was damaged and put aside; store it again")


def _remove_unused(root: Path) -> None:
    """Remove bundles that nobody has used for a while."""
    for place in root.iterdir():
        try:
            unused = time.time() - place.stat().st_mtime > KEEP_S and place not in _held
            if unused:
                _remove(place)
        except (FileNotFoundError, BlockingIOError):  # another process removes or uses it
            continue


def _remove(place: Path) -> None:
    lock = os.open(place / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(place, ignore_errors=True)
    finally:
        os.close(lock)
