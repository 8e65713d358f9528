"""What the owner's code raises: told apart from what is wrong here."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch

from diminuendo.engine import hostmemory
from diminuendo.engine.task import TaskError


class UserCodeError(Exception):
    """Raised by a worker when the owner's code raised; never retried.

    Attributes:
        traceback_text: The owner's traceback.
    """

    def __init__(self, message: str, traceback_text: str) -> None:
        """What was called, and what it raised."""
        super().__init__(message)
        self.traceback_text = traceback_text


_INSTALLED = ("site-packages", "dist-packages")
_STANDARD = Path(sysconfig.get_paths()["stdlib"])
_OTHERS = ("diminuendo", "torch")


def where(error: BaseException) -> str:
    """File and line of the owner's code that an error came through last, ``train.py:12``; empty where it is in none.

    Their code is what neither torch, nor this library, nor Python has brought, nor was installed. A file in the working
    folder is named from there.
    """
    lines = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if _is_owners(frame)]
    if not lines:
        return ""
    path, line = Path(lines[-1][0].f_code.co_filename), lines[-1][1]
    folder = _working_folder()
    return f"{path.relative_to(folder) if folder and folder in path.parents else path}:{line}"


def _working_folder() -> Path | None:
    try:
        return Path.cwd()
    except FileNotFoundError:  # it was removed
        return None


def _is_owners(frame: FrameType) -> bool:
    path = Path(frame.f_code.co_filename)
    if frame.f_globals.get("__name__", "").partition(".")[0] in _OTHERS or path.name.startswith("<frozen"):
        return False
    return not (_STANDARD in path.parents or any(part in _INSTALLED for part in path.parts))


@contextmanager
def user_code(what: str) -> Iterator[None]:
    """Turn what the owner's code raises into UserCodeError; memory errors and what names its remedy pass through.

    The message says what was called, what it raised, and where in the owner's code.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, UserCodeError, TaskError):
        raise
    except Exception as error:
        if hostmemory.is_full(error):
            raise MemoryError(str(error)) from error
        line = where(error)
        message = f"{what}: {type(error).__name__}: {error}" + (f" ({line})" if line else "")
        raise UserCodeError(message, traceback.format_exc()) from error
