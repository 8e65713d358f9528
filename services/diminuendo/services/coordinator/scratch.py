"""The short-lived folder of a local Ray: made with a short path, removed even after a SIGKILL. Imports no ray."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diminuendo.services.common.errors import StartError

PREFIX = "dim-ray-"
_LOCK = "lock"
_LONGEST = 38
"""Unix socket paths end at 107 bytes, and Ray adds up to 67: session_DATE_TIME_MICROSECONDS_PID/sockets/NAME."""


def base_folder() -> Path:
    """The system's folder for temporary files, or /tmp when that path is too long for Ray's sockets."""
    usual = tempfile.gettempdir()
    return Path(usual if len(os.fsencode(usual)) + len(PREFIX) + 8 <= _LONGEST else "/tmp")


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder of one's own that is removed at the end; those that others left behind are removed first.

    Raises:
        StartError: The folder for temporary files cannot be written.
    """
    base = base_folder()
    remove_abandoned(base)
    try:
        folder, lock = _make(base)
    except OSError as error:
        raise StartError(f"{base} cannot be written ({error.strerror}); set TMPDIR to a folder that can") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _make(base: Path) -> tuple[Path, int]:
    """A folder, and its lock, held. It gets its name when it is locked, so that nobody takes it for abandoned."""
    unnamed = Path(tempfile.mkdtemp(prefix=".dim-", dir=base))
    lock = os.open(unnamed / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return unnamed.rename(base / (PREFIX + unnamed.name.removeprefix(".dim-"))), lock


def remove_abandoned(base: Path | None = None) -> list[Path]:
    """Remove the folders whose owners have ended, however they ended: nobody holds their lock."""
    removed = []
    for folder in sorted((base or base_folder()).glob(f"{PREFIX}*")):
        if _abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
    return removed


def _abandoned(folder: Path) -> bool:
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR)
    except OSError:
        return False  # another user's, or just being made
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(lock)
