"""Where data lies: paths and addresses, found and opened by fsspec."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diminuendo.engine.task import TaskError

_BESIDE = "; give one that is there, on every machine that evaluates as well as here"


@dataclass(frozen=True)
class Place:
    """A file or a folder, on this machine or elsewhere.

    Attributes:
        system: fsspec's, of its files.
        path: In it.
        what: How messages call it.
    """

    system: Any
    path: str
    what: str

    @classmethod
    def of(cls, path: str, folder: Path, key: str) -> Place:
        """A path of a ``data.toml``: relative to its folder, absolute, or an address.

        Raises:
            TaskError: An address of a kind that nothing here reads.
        """
        address = path if "://" in path else str(folder / path)
        what = f"{key} = {path!r}" if address == path else f"{key} = {path!r} ({address})"
        try:
            system, inner = importlib.import_module("fsspec.core").url_to_fs(address)
        except (ImportError, ValueError) as error:
            raise TaskError(f"data: {what} cannot be read ({error}); install what reads it, or give a path") from error
        return cls(system, inner, what)

    def missing(self) -> TaskError:
        """The error of nothing that is there."""
        return TaskError(f"data: {self.what} is not there{_BESIDE}")

    def files(self, *endings: str) -> list[str]:
        """The files that it is: itself, those of a pattern, or those in a folder with one of the endings; sorted.

        Raises:
            TaskError: There are none.
        """
        try:
            if any(mark in self.path for mark in "*?["):
                found = sorted(self.system.glob(self.path))
            elif self.system.isdir(self.path):
                found = [path for path in sorted(self.system.ls(self.path, detail=False)) if path.endswith(endings)]
            else:
                found = [self.path] if self.system.exists(self.path) else []
        except OSError as error:
            raise self.unread(error) from error
        if not found:
            raise self.missing()
        return [str(path) for path in found]

    def folders(self) -> list[str]:
        """The folders in it, sorted.

        Raises:
            TaskError: It is no folder, or has none.
        """
        try:
            if not self.system.isdir(self.path):
                raise self.missing()
            entries = self.system.ls(self.path, detail=True)
        except OSError as error:
            raise self.unread(error) from error
        found = sorted(str(each["name"]) for each in entries if each["type"] == "directory")
        found = [path for path in found if not _name(path).startswith(".")]
        if not found:
            raise TaskError(f"data: {self.what} has no folders; give one with a folder of images for each class")
        return found

    def tree(self, folder: str) -> list[str]:
        """All files below a folder of it, sorted; hidden ones left out."""
        return sorted(str(path) for path in self.system.find(folder) if not _name(path).startswith("."))

    def bytes_of(self, path: str) -> bytes:
        """Content of a file.

        Raises:
            TaskError: It cannot be read.
        """
        try:
            content: bytes = self.system.cat_file(path)
        except OSError as error:
            raise TaskError(f"data: {path} cannot be read ({error}){_BESIDE}") from error
        return content

    def unread(self, error: Exception) -> TaskError:
        """The error of what is there and cannot be read."""
        return TaskError(f"data: {self.what} cannot be read ({error}); mend or replace it")


def _name(path: str) -> str:
    return str(path).rstrip("/").rpartition("/")[2]


def package(module: str, name: str, what: str) -> Any:
    """A module of the extra ``data``.

    Raises:
        TaskError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise TaskError(f"data: reading {what} takes {name} ({error}); pip install 'diminuendo[data]'") from error
