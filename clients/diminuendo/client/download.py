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
    for file in files:
        _check_name(file)
    _check_folder(folder, files)
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        if not (folder / file.name).exists():
            _fetch(connection, file, folder)
    return folder


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
    parts = {_part(folder, file).name for file in files}
    for entry in sorted(folder.iterdir()):
        if entry.name in parts or (entry.name == REPORT and is_report(entry)):
            continue
        file = expected.get(entry.name)
        if file is None or not entry.is_file() or _hash_of(entry).hexdigest() != file.sha256:
            what = "is not of this result" if file is None else "has another content than this result's"
            raise FolderNotEmptyError(f"{folder} is not empty: {entry.name} {what}; give another folder, or empty it")


def _fetch(connection: Connection, file: ResultFile, folder: Path) -> None:
    """Fetch one file; content that does not match is fetched once more from the start."""
    part = _part(folder, file)
    for _ in range(2):
        if _stream_to(connection, file, part) == file.sha256:
            os.replace(part, folder / file.name)
            _sync_folder(folder)
            return
        part.unlink()
        connection.without_urls.add("get")  # the server looks closer than a bucket: it puts aside what is damaged
    raise DownloadError(
        f"{file.name} arrived damaged twice (expected sha256 {file.sha256}); the server's artifact is damaged"
    )


def _stream_to(connection: Connection, file: ResultFile, part: Path) -> str:
    """Append to the part until it has the file's size; returns its sha256."""
    digest = _hash_of(part) if part.exists() else hashlib.sha256()
    with part.open("ab") as out:
        links.get(connection, Artifact(file.sha256, file.size_bytes), out, digest)
        for _ in range(CHUNK_TRIES):
            if out.tell() == file.size_bytes > 0 or _append(connection, file, out, digest):
                break
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()


def _append(connection: Connection, file: ResultFile, out: BinaryIO, digest: hashlib._Hash) -> bool:
    """Append what the server sends from here on; False when a chunk came damaged, which is not taken."""
    stub = artifact_service_pb2_grpc.ArtifactServiceStub(connection.channel)
    messages = connection.stream(
        stub.ReadArtifact,
        lambda: artifact_service_pb2.ReadArtifactRequest(sha256=file.sha256, offset=out.tell()),
    )
    with contextlib.closing(messages):
        for message in messages:
            if message.HasField("crc32") and message.crc32 != zlib.crc32(message.data):
                return False
            digest.update(message.data)
            out.write(message.data)
            if out.tell() > file.size_bytes:
                break
    return True


def _hash_of(path: Path) -> hashlib._Hash:
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while block := content.read(_BLOCK):
            digest.update(block)
    return digest


def _part(folder: Path, file: ResultFile) -> Path:
    """Where a file grows: hidden, and named by its content, so that it is only ever resumed with the same."""
    return folder / f".{file.name}.{file.sha256[:16]}.part"


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
