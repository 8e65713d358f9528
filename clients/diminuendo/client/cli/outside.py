"""Sees which files the code of a bundle reads that are not of the bundle: evaluators have to find them, too."""

from __future__ import annotations

import os
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_SYSTEM = ("/proc", "/sys", "/dev", "/etc", "/usr", "/lib", "/bin")
_listening: list[Outside] = []
_hooked: list[bool] = []
"""Whether Python tells us: a hook stays for as long as the process does."""


class Outside:
    """A context manager that notes files that Python code opens for reading.

    Files of Python itself, its packages, the system and caches are not noted, nor those that compiled code opens by
    itself.

    Attributes:
        files: Absolute paths, in the order in which they were opened first.
    """

    def __init__(self, folder: Path) -> None:
        """Of a bundle's folder."""
        self.files: list[str] = []
        home = Path.home()
        own = [sys.prefix, sys.base_prefix, sysconfig.get_paths()["stdlib"], *_SYSTEM, home / ".cache", home / ".local"]
        scratch = os.path.join(os.path.realpath(tempfile.gettempdir()), "diminuendo-")
        places = [f"{os.path.realpath(str(path))}{os.sep}" for path in (*own, folder, *filter(None, sys.path))]
        self._known = (*places, scratch)

    def __enter__(self) -> Self:
        """Begin to listen."""
        if not _hooked:
            sys.addaudithook(_heard)
            _hooked.append(True)
        _listening.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Listen no longer."""
        _listening.remove(self)

    def note(self, path: str) -> None:
        """A file is about to be opened."""
        whole = os.path.realpath(path)
        if whole not in self.files and not whole.startswith(self._known) and os.path.isfile(whole):
            self.files.append(whole)


def _heard(event: str, details: tuple[Any, ...]) -> None:
    """Python's word that something is about to be done."""
    if event == "open" and _listening and isinstance(details[0], str) and not _writes(details[1]):
        for outside in tuple(_listening):
            outside.note(details[0])


def _writes(mode: object) -> bool:
    return isinstance(mode, str) and any(letter in mode for letter in "wax+")
