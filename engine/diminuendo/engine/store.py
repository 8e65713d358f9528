"""Content-addressed files in a directory: weights, factors, results. Imports no torch."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import BinaryIO, Protocol


class ArtifactMissingError(LookupError):
    """Raised by a store that lacks the content asked for."""


class ArtifactStore(Protocol):
    """Where content lives under its sha256 (lower-case hex)."""

    def put(self, content: bytes) -> str:
        """Store the content and return its sha256; storing it again changes nothing."""
        ...

    def get(self, sha256: str) -> bytes:
        """The content; ArtifactMissingError when the store lacks it or holds it damaged."""
        ...


class DirectoryStore:
    """An ArtifactStore in a directory: ``root/ab/abcdef...``.

    Files appear whole or not at all (written beside, synced, renamed), so a crash leaves no damaged content.
    Safe for several processes on one file system.
    """

    def __init__(self, root: Path | str) -> None:
        """Use ``root``, which is made when the first content comes."""
        self.root = Path(root)

    def path(self, sha256: str) -> Path:
        """Where the content is or would be."""
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise ArtifactMissingError(f"{sha256!r} is not a sha256 in lower-case hex")
        return self.root / sha256[:2] / sha256

    def put(self, content: bytes) -> str:
        """Store the content and return its sha256."""
        sha256 = hashlib.sha256(content).hexdigest()
        path = self.path(sha256)
        if path.exists():
            return sha256
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".put-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return sha256

    def get(self, sha256: str) -> bytes:
        """The content, checked against its sha256."""
        with self.open(sha256) as file:
            content = file.read()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ArtifactMissingError(f"the content stored under {sha256} is damaged; remove {self.path(sha256)}")
        return content

    def open(self, sha256: str) -> BinaryIO:
        """The content as a binary file, unchecked; ArtifactMissingError when it is not there."""
        try:
            return self.path(sha256).open("rb")
        except FileNotFoundError:
            raise ArtifactMissingError(f"no content is stored under {sha256}") from None
