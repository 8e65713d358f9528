"""Writes a result folder: every file resumed where it was cut, checked, and put in place whole."""

from __future__ import annotations

import contextlib
import hashlib
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from diminuendo.v1 import artifact_service_pb2, artifact_service_pb2_grpc

from diminuendo.client import links
from diminuendo.client.errors import DownloadError, FolderNotEmptyError
from diminuendo.client.report.write import REPORT, is_report
from diminuendo.client.rpc import Connection
from diminuendo.client.types import Artifact, ResultFile

_BLOCK = 2**20
CHUNK_TRIES = 5
"""How often a file is gone on with where a chunk came damaged, before it is looked at as a whole."""


def download(connection: Connection, files: Sequence[ResultFile], folder: Path) -> Path:
    """Fetch the files into the folder; see `Job.download`."""
    for file in missing(files, folder):
        _fetch(connection, file, folder)
    return folder


def missing(files: Sequence[ResultFile], folder: Path) -> list[ResultFile]:
    """Which of the files are still to be fetched into the folder, which is made.

    Raises:
        DownloadError: A file would leave the folder; nothing was written.
        FolderNotEmptyError: The folder holds something else; nothing was written.
    """
    for file in files:
        _check_name(file)
    _check_folder(folder, files)
    folder.mkdir(parents=True, exist_ok=True)
    return [file for file in files if not (folder / file.name).exists()]


def _check_name(file: ResultFile) -> None:
    """A server must not be able to write elsewhere than into the folder."""
    if file.name in ("", ".", "..") or Path(file.name).name != file.name or "\\" in file.name:
        raise DownloadError(
            f"the result lists a file named {file.name!r}, which would leave the folder; nothing was written"
        )


def _check_folder(folder: Path, files: Sequence[ResultFile]) -> None:
    """The folder may hold files of this very result and parts of them, a report, and nothing else."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FolderNotEmptyError(f"{folder} is a file; give a folder")
    expected = {file.name: file for file in files}
    parts = {_part_of(folder, file).name for file in files}
    for entry in sorted(folder.iterdir()):
        if entry.name in parts or (entry.name == REPORT and is_report(entry)):
            continue
        file = expected.get(entry.name)
        if file is None or not entry.is_file() or _hash_of(entry).hexdigest() != file.sha256:
            what = "is not of this result" if file is None else "has another content than this result's"
            raise FolderNotEmptyError(f"{folder} is not empty: {entry.name} {what}; give another folder, or empty it")


class Part:
    """A file that grows in a folder, resumed where an earlier try ended. Every method works on the disk.

    Attributes:
        out: Its end is where the rest begins.
        digest: Of what is there.
    """

    def __init__(self, folder: Path, file: ResultFile) -> None:
        """Open what is there of the file, or begin it."""
        self._folder, self._file = folder, file
        self._path = _part_of(folder, file)
        self.digest = _hash_of(self._path) if self._path.exists() else hashlib.sha256()
        self.out: BinaryIO = self._path.open("ab")

    @property
    def content(self) -> Artifact:
        """What it is a part of."""
        return Artifact(self._file.sha256, self._file.size_bytes)

    @property
    def missing_bytes(self) -> int:
        """How much of the file is not there yet; less than none where there is too much."""
        return self._file.size_bytes - self.out.tell()

    @property
    def full(self) -> bool:
        """Whether there is nothing to be asked for; of an empty file there is."""
        return not self.missing_bytes and self._file.size_bytes > 0

    def request(self) -> artifact_service_pb2.ReadArtifactRequest:
        """Asks for the rest."""
        return artifact_service_pb2.ReadArtifactRequest(sha256=self._file.sha256, offset=self.out.tell())

    def take(self, message: artifact_service_pb2.ReadArtifactResponse) -> bool:
        """Append a chunk; False for one that came damaged, which is not taken."""
        if message.HasField("crc32") and message.crc32 != zlib.crc32(message.data):
            return False
        self.digest.update(message.data)
        self.out.write(message.data)
        return True

    def close(self) -> None:
        """Leave what is there to a later try."""
        with self.out:
            self.out.flush()
            os.fsync(self.out.fileno())

    def put_in_place(self) -> bool:
        """Give it its name, once it is closed, where it is the file; else remove it, and return False."""
        if self.digest.hexdigest() != self._file.sha256:
            self._path.unlink()
            return False
        os.replace(self._path, self._folder / self._file.name)
        _sync_folder(self._folder)
        return True


def damaged(file: ResultFile) -> DownloadError:
    """The error of a file whose content is not what the result says."""
    return DownloadError(
        f"{file.name} arrived damaged twice (expected sha256 {file.sha256}); the server's artifact is damaged"
    )


def _fetch(connection: Connection, file: ResultFile, folder: Path) -> None:
    """Fetch one file; content that does not match is fetched once more from the start."""
    for _ in range(2):
        with contextlib.closing(Part(folder, file)) as part:
            links.get(connection, part.content, part.out, part.digest)
            for _ in range(CHUNK_TRIES):
                if part.full or _append(connection, part):
                    break
        if part.put_in_place():
            return
        connection.without_urls.add("get")  # the server looks closer than a bucket: it puts aside what is damaged
    raise damaged(file)


def _append(connection: Connection, part: Part) -> bool:
    """Append what the server sends from here on; False when a chunk came damaged, which is not taken."""
    stub = artifact_service_pb2_grpc.ArtifactServiceStub(connection.channel)
    with contextlib.closing(connection.stream(stub.ReadArtifact, part.request)) as messages:
        for message in messages:
            if not part.take(message):
                return False
            if part.missing_bytes < 0:
                break
    return True


def _hash_of(path: Path) -> hashlib._Hash:
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while block := content.read(_BLOCK):
            digest.update(block)
    return digest


def _part_of(folder: Path, file: ResultFile) -> Path:
    """Where a file grows: hidden, and named by its content, so that it is only ever resumed with the same."""
    return folder / f".{file.name}.{file.sha256[:16]}.part"


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
