"""Content-addressed files: weights, factors, results. What a store promises, and the store in a directory.

Imports no torch. The store in a bucket is `s3store`; `stores.open_store` takes either by its location.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

BLOCK = 2**20
TEMPORARY = ".put-"
_HEX = frozenset("0123456789abcdef")


class ArtifactMissingError(LookupError):
    """Raised by a store that lacks the content asked for."""


class ArtifactDamagedError(ArtifactMissingError):
    """Raised by a store that found content with another sha256 than its own. It was put aside; store it again."""


class StoreAwayError(OSError):
    """Raised by a store that cannot be reached or refuses us. Nothing was half-written; try again later."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Content in a store.

    Attributes:
        size: In bytes.
        time: When it was last stored, seconds since the epoch.
    """

    sha256: str
    size: int
    time: float


@dataclass(frozen=True, slots=True)
class SignedPut:
    """Where content may be put by HTTP, and the headers that the request must have."""

    url: str
    headers: Mapping[str, str]


class ArtifactStore(Protocol):
    """Where content lives under its sha256 (lower-case hex)."""

    def put(self, content: bytes) -> str:
        """Store the content and return its sha256; storing it again only makes it count as stored now."""
        ...

    def get(self, sha256: str) -> bytes:
        """The content, checked; ArtifactMissingError when the store lacks it, ArtifactDamagedError when damaged."""
        ...


class SharedStore(ArtifactStore, Protocol):
    """An ArtifactStore that several processes share. Content is seen whole or not at all.

    Every method may raise StoreAwayError; those that take the sha256 of what they need raise ArtifactMissingError.
    """

    def put_file(self, path: Path, sha256: str) -> None:
        """Store a file's content, whatever its size, in bounded memory.

        Raises:
            ValueError: Its sha256 is another one; nothing was stored.
        """
        ...

    def size(self, sha256: str) -> int:
        """Of the content, in bytes."""
        ...

    def read(self, sha256: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset` on, unchecked; fewer only at the end."""
        ...

    def missing(self, sha256s: Iterable[str]) -> set[str]:
        """Those that the store lacks, what is no sha256 among them."""
        ...

    def stored(self) -> Iterator[Stored]:
        """Everything in the store, in no order."""
        ...

    def remove(self, sha256: str, *, before: float) -> bool:
        """Remove the content unless it was stored, again or first, at or after a time; whether it is gone."""
        ...

    def sweep(self, *, before: float) -> int:
        """Remove what writers that ended left half-written before a time, and say how many."""
        ...

    def set_aside(self, sha256: str) -> None:
        """Take damaged content out of the way of whoever stores it again."""
        ...

    def url(self, sha256: str, *, expires_s: int) -> str | None:
        """Where the content may be read by HTTP for so long; None where the store cannot give that."""
        ...

    def upload_url(self, sha256: str, size: int, *, expires_s: int) -> SignedPut | None:
        """Where this very content may be put by HTTP for so long; None where the store cannot give that."""
        ...


def is_sha256(text: str) -> bool:
    """Whether a text is a sha256 in lower-case hex."""
    return len(text) == 64 and _HEX.issuperset(text)


def checked(sha256: str) -> str:
    """The sha256 itself; ArtifactMissingError when it is none, so that it never becomes a path."""
    if not is_sha256(sha256):
        raise ArtifactMissingError(f"{sha256!r} is not a sha256 in lower-case hex")
    return sha256


def sha256_of(path: Path) -> str:
    """Of a file's content, in bounded memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def no_content(sha256: str) -> ArtifactMissingError:
    """The error of a store that lacks content."""
    return ArtifactMissingError(f"no content is stored under {sha256}")


def check_file(path: Path, sha256: str) -> None:
    """ValueError when a file's content is not what it should be."""
    found = sha256_of(path)
    if found != sha256:
        raise ValueError(f"{path.name}: the content's sha256 is {found}, not {sha256}")


def write_whole(path: Path, write: Callable[[BinaryIO], object], *, mode: int | None = None) -> None:
    """Have a file appear whole or not at all: written beside, synced, renamed.

    Args:
        write: Writes the content.
        mode: Who may read it; None: its owner.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class DirectoryStore:
    """A SharedStore in a directory: ``root/ab/abcdef...``.

    Files appear whole or not at all (written beside, synced, renamed), so a crash leaves no damaged content.
    Safe for several processes on one file system.
    """

    def __init__(self, root: Path | str) -> None:
        """Use ``root``, which is made when the first content comes."""
        self.root = Path(root)

    def path(self, sha256: str) -> Path:
        """Where the content is or would be."""
        return self.root / checked(sha256)[:2] / sha256

    def put(self, content: bytes) -> str:
        """Store the content and return its sha256."""
        sha256 = hashlib.sha256(content).hexdigest()
        self._put(sha256, len(content), lambda file: file.write(content))
        return sha256

    def put_file(self, path: Path, sha256: str) -> None:
        """Store a file's content."""
        check_file(path, checked(sha256))

        def copy(out: BinaryIO) -> None:
            with path.open("rb") as file:
                shutil.copyfileobj(file, out, BLOCK)

        self._put(sha256, path.stat().st_size, copy)

    def _put(self, sha256: str, size: int, write: Callable[[BinaryIO], object]) -> None:
        path = self.path(sha256)
        try:
            os.utime(path)  # stored now, for `remove`, which looks at it after it took the file away
            if path.stat().st_size == size:
                return
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, write)

    def get(self, sha256: str) -> bytes:
        """The content, checked against its sha256."""
        with self.open(sha256) as file:
            content = file.read()
        if hashlib.sha256(content).hexdigest() != sha256:
            self.set_aside(sha256)
            raise ArtifactDamagedError(
                f"the content stored under {sha256} was damaged and put aside in {self.root}/damaged; store it again"
            )
        return content

    def open(self, sha256: str) -> BinaryIO:
        """The content as a binary file, unchecked; ArtifactMissingError when it is not there."""
        try:
            return self.path(sha256).open("rb")
        except FileNotFoundError:
            raise no_content(sha256) from None

    def size(self, sha256: str) -> int:
        """Of the content, in bytes."""
        try:
            return self.path(sha256).stat().st_size
        except FileNotFoundError:
            raise no_content(sha256) from None

    def read(self, sha256: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset` on."""
        with self.open(sha256) as file:
            file.seek(offset)
            return file.read(length)

    def missing(self, sha256s: Iterable[str]) -> set[str]:
        """Those that are not there."""
        return {sha256 for sha256 in sha256s if not (is_sha256(sha256) and self.path(sha256).exists())}

    def stored(self) -> Iterator[Stored]:
        """Everything that is there; what is removed meanwhile may or may not come."""
        for path in self.root.glob("[0-9a-f][0-9a-f]/*"):
            if is_sha256(path.name):
                try:
                    stat = path.stat()
                except FileNotFoundError:
                    continue
                yield Stored(path.name, stat.st_size, stat.st_mtime)

    def remove(self, sha256: str, *, before: float) -> bool:
        """Remove the content unless it was stored at or after a time.

        The file is taken away first and looked at then: a writer that found it in place has renewed its time by
        then and gets it back, a later one writes it anew.
        """
        path = self.path(sha256)
        taken = path.with_name(f"{TEMPORARY}{sha256}")
        try:
            os.rename(path, taken)
        except FileNotFoundError:
            return True
        if taken.stat().st_mtime >= before:
            os.rename(taken, path)
            return False
        taken.unlink()
        return True

    def sweep(self, *, before: float) -> int:
        """Remove half-written files."""
        count = 0
        for path in self.root.glob(f"[0-9a-f][0-9a-f]/{TEMPORARY}*"):
            try:
                if path.stat().st_mtime < before:
                    path.unlink()
                    count += 1
            except FileNotFoundError:
                continue
        return count

    def set_aside(self, sha256: str) -> None:
        """Move damaged content to ``damaged/``."""
        aside = self.root / "damaged"
        aside.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(self.path(sha256), aside / sha256)
        except FileNotFoundError:
            return

    def url(self, sha256: str, *, expires_s: int) -> str | None:
        """None: a directory serves no HTTP."""
        return None

    def upload_url(self, sha256: str, size: int, *, expires_s: int) -> SignedPut | None:
        """None: a directory serves no HTTP."""
        return None
