"""The archive that a bundle travels as: an uncompressed tar in an artifact store. Imports no torch.

Whoever has it made it, so nothing of it is trusted: no member lies outside of the folder, none is a link or a device.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from diminuendo.engine.store import BLOCK, SharedStore

REQUIREMENTS = "requirements.txt"
MOST_MEMBERS = 100_000
MOST_REQUIREMENTS_BYTES = 2**20


class BundleError(ValueError):
    """An archive that is no bundle; says what is wrong with it and what to do."""


def unpack(archive: Path, folder: Path) -> None:
    """Write what is in an archive into a new folder.

    Raises:
        BundleError: It is no tar, it is cut, or a member is no plain file or folder within it.
    """
    folder.mkdir(parents=True)
    with _opened(archive.open("rb")) as tar:
        for member in _members(tar):
            try:
                tar.extract(member, folder, set_attrs=False, filter="data")
            except (tarfile.TarError, OSError, ValueError) as error:
                raise BundleError(f"bundle: {member.name!r} cannot be unpacked ({error}); submit it again") from error


def requirements(store: SharedStore, sha256: str) -> tuple[str, ...]:
    """Lines of a stored bundle's requirements.txt, without comments; none where it has no such file.

    Raises:
        BundleError: It is no bundle, or the file is no text.
        ArtifactMissingError: The store lacks it.
    """
    with _opened(io.BufferedReader(StoredFile(store, sha256), BLOCK)) as tar:
        for member in _members(tar):
            if PurePosixPath(member.name) == PurePosixPath(REQUIREMENTS) and member.isfile():
                return _lines(tar, member)
    return ()


def _lines(tar: tarfile.TarFile, member: tarfile.TarInfo) -> tuple[str, ...]:
    if member.size > MOST_REQUIREMENTS_BYTES:
        raise BundleError(f"{REQUIREMENTS}: {member.size:,} bytes are too many; name packages, one in a line")
    file = tar.extractfile(member)
    try:
        text = (file.read() if file else b"").decode()
    except UnicodeDecodeError:
        raise BundleError(f"{REQUIREMENTS}: it is no UTF-8 text; name packages, one in a line") from None
    return requirement_lines(text)


def requirement_lines(text: str) -> tuple[str, ...]:
    """Requirements as pip reads them: joined where a line ends in a backslash, without comments and empty lines."""
    joined = text.replace("\\\r\n", " ").replace("\\\n", " ").splitlines()
    bare = (line.split(" #", 1)[0].strip() for line in joined)
    return tuple(line for line in bare if line and not line.startswith("#"))


@contextmanager
def _opened(file: io.BufferedReader) -> Iterator[tarfile.TarFile]:
    with file:
        try:
            tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - closed below
        except tarfile.TarError as error:
            raise BundleError(
                f"bundle: its archive is no uncompressed tar ({error}); have it made by `diminuendo submit --bundle`"
            ) from error
        with tar:
            yield tar


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Its files and folders."""
    try:
        for count, member in enumerate(tar):
            if count >= MOST_MEMBERS:
                raise BundleError(
                    f"bundle: more than {MOST_MEMBERS:,} files; leave data out and name it by path or URI"
                )
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts:
                raise BundleError(f"bundle: {member.name!r} lies outside of it; have it made from a folder")
            if not member.isfile() and not member.isdir():
                raise BundleError(f"bundle: {member.name!r} is neither a file nor a folder; have it made from a folder")
            yield member
    except tarfile.TarError as error:
        raise BundleError(f"bundle: its archive is damaged ({error}); submit it again") from error


class StoredFile(io.RawIOBase):
    """Content of a store as a file that can be read and sought in; unchecked."""

    def __init__(self, store: SharedStore, sha256: str) -> None:
        """Of some content; ArtifactMissingError when the store lacks it."""
        super().__init__()
        self._store, self._sha256 = store, sha256
        self._size, self._at = store.size(sha256), 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a buffer as far as there is content."""
        wanted = min(len(buffer), max(0, self._size - self._at))
        data = self._store.read(self._sha256, self._at, wanted) if wanted else b""
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
