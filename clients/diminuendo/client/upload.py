"""Sends a file to the server's artifact store: in checked chunks, gone on with where they were cut."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path

from diminuendo.v1 import artifact_service_pb2 as pb
from diminuendo.v1 import artifact_service_pb2_grpc

from diminuendo.client import links
from diminuendo.client.errors import DiminuendoError, ServerUnavailableError, UploadError
from diminuendo.client.rpc import Backoff, Connection
from diminuendo.client.types import Artifact

CHUNK = 2**20
_AGAIN = ("CHUNK_DAMAGED", "UPLOAD_OFFSET")
"""Reasons of refusals after which the server's offset says where to go on."""
_DAMAGED = "ARTIFACT_DAMAGED"


def upload(connection: Connection, path: Path) -> Artifact:
    """Store a file's content; see `Client.upload`."""
    content = _measure(path)
    sending = _Sending(connection, path, content)
    for _ in range(2):
        try:
            sending.to_its_end()
        except DiminuendoError as error:
            if error.reason != _DAMAGED:
                raise
            if _measure(path) != content:
                raise _changed(path) from None
        else:
            return content
    raise UploadError(f"{path} arrived damaged twice (its sha256 is {content.sha256}); something on the way changes it")


def _measure(path: Path) -> Artifact:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
            size += len(block)
    return Artifact(digest.hexdigest(), size)


class _Sending:
    """One file on its way to one server."""

    def __init__(self, connection: Connection, path: Path, content: Artifact) -> None:
        self._connection, self._path, self._content = connection, path, content
        self._stub = artifact_service_pb2_grpc.ArtifactServiceStub(connection.channel)
        self._file_error: OSError | None = None

    def to_its_end(self) -> None:
        """Send until the server has stored all of it; what is cut is gone on with while there is progress."""
        backoff = Backoff(self._connection.config.retry, self._connection.closed)
        farthest = -1
        while True:
            try:
                offset, complete = self._held()
                if offset > farthest:
                    farthest = offset
                    backoff.progress()
                if not complete and not offset and links.put(self._connection, self._path, self._content):
                    offset, complete = self._held()
                if not complete:
                    self._send_from(offset)
                return
            except DiminuendoError as error:
                if not self._goes_on_after(error, backoff):
                    raise
            backoff.pause()

    def _goes_on_after(self, error: DiminuendoError, backoff: Backoff) -> bool:
        if self._connection.closed.is_set() or error.reason == "NO_SERVER":
            return False
        passing = isinstance(error, ServerUnavailableError) or error.reason in _AGAIN
        return passing and backoff.failing_s < self._connection.config.patience_s

    def _held(self) -> tuple[int, bool]:
        """How many bytes the server has, and whether it has stored them."""
        request = pb.QueryUploadRequest(sha256=self._content.sha256, size_bytes=self._content.size_bytes)
        answer = self._connection.call(self._stub.QueryUpload, request)
        return answer.offset, answer.complete

    def _send_from(self, offset: int) -> None:
        """Send the rest; UploadError when there is less of it than there was."""
        answer = self._connection.send(self._stub.WriteArtifact, self._chunks(offset))
        if self._file_error is not None:
            raise self._file_error
        if not answer.complete:
            raise _changed(self._path)

    def _chunks(self, offset: int) -> Iterator[pb.WriteArtifactRequest]:
        """The rest in chunks; one without data at least, which has what is there checked and stored."""
        sha256, size = self._content.sha256, self._content.size_bytes
        try:
            with self._path.open("rb") as file:
                file.seek(offset)
                data = file.read(min(CHUNK, size - offset))
                yield pb.WriteArtifactRequest(
                    sha256=sha256, size_bytes=size, offset=offset, data=data, crc32=zlib.crc32(data)
                )
                while data:
                    offset += len(data)
                    data = file.read(min(CHUNK, size - offset))
                    if data:
                        yield pb.WriteArtifactRequest(offset=offset, data=data, crc32=zlib.crc32(data))
        except OSError as error:  # this runs in gRPC's thread: whoever waits for the answer raises it
            self._file_error = error


def _changed(path: Path) -> UploadError:
    return UploadError(f"{path} changed while it was sent; send it again when nobody writes to it")
