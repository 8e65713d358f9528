"""One conductor on a data folder at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diminuendo.services.common.errors import StartError

LOCK = "conductor.lock"


@contextmanager
def data_folder(path: Path) -> Iterator[None]:
    """Make the folder if need be, and hold it alone. The kernel lets go of it when the process ends.

    Raises:
        StartError: It cannot be made or written, or another conductor holds it.
    """
    with _opened(path) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise StartError(
                f"--data-dir {str(path)!r} is in use by another conductor (process {holder}); stop that one, or "
                "choose another folder"
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        path.mkdir(parents=True, exist_ok=True)
        handle = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StartError(
            f"--data-dir {str(path)!r} is not a folder that can be written ({error.strerror}); choose another one, "
            "or change its permissions"
        ) from None
    try:
        yield handle
    finally:
        os.close(handle)
