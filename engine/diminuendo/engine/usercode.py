"""What the owner's code raises: told apart from what is wrong here."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def user_code(what: str) -> Iterator[None]:
    """Turn what the owner's code raises into UserCodeError; memory errors and what names its remedy pass through."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, UserCodeError, TaskError):
        raise
    except Exception as error:
        if hostmemory.is_full(error):
            raise MemoryError(str(error)) from error
        raise UserCodeError(f"{what}: {type(error).__name__}: {error}", traceback.format_exc()) from error
