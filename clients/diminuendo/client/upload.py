"""Sends a file to the server's artifact store: in checked chunks, gone on with where they were cut."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
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
DAMAGED = "ARTIFACT_DAMAGED"
"""Reason of the refusal of content that is not what its sha256 says."""


def upload(connection: Connection, path: Path) -> Artifact:
    """Store a file's content; see `Client.upload`."""
    content = measure(path)
    sending = _Sending(connection, path, content)
    for _ in range(2):
        try:
            sending.to_its_end()
        except DiminuendoError as error:
            if error.reason != DAMAGED:
                raise
            if measure(path) != content:
                raise changed(path) from None
        else:
            return content
    raise damaged(path, content)


def measure(path: Path) -> Artifact:
    """What a file's content is; OSError where it cannot be read."""
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
        if self._connection.closed.is_set():
            return False
        return is_passing(error) and backoff.failing_s < self._connection.config.patience_s

    def _held(self) -> tuple[int, bool]:
        """How many bytes the server has, and whether it has stored them."""
        answer = self._connection.call(self._stub.QueryUpload, query(self._content))
        return answer.offset, answer.complete

    def _send_from(self, offset: int) -> None:
        """Send the rest; UploadError when there is less of it than there was."""
        try:
            answer = self._connection.send(self._stub.WriteArtifact, self._chunks(offset))
        finally:
            if self._file_error is not None:  # whatever the server says of what it did not get
                raise self._file_error
        if not answer.complete:
            raise changed(self._path)

    def _chunks(self, offset: int) -> Iterator[pb.WriteArtifactRequest]:
        """The rest in chunks; one without data at least, which has what is there checked and stored."""
        try:
            for span in spans(self._content, offset):
                request = chunk(self._path, self._content, span)
                yield request
                if len(request.data) < span.size_bytes:
                    return  # the file has become shorter, which the server's answer shows
        except OSError as error:  # this runs in gRPC's thread: whoever waits for the answer raises it
            self._file_error = error


def query(content: Artifact) -> pb.QueryUploadRequest:
    """Asks how much of the content has arrived."""
    return pb.QueryUploadRequest(sha256=content.sha256, size_bytes=content.size_bytes)


@dataclass(frozen=True, slots=True)
class Span:
    """A chunk's place: from `offset`, `size_bytes` long; the first one sent says whose it is."""

    offset: int
    size_bytes: int
    first: bool


def spans(content: Artifact, offset: int) -> Iterator[Span]:
    """The chunks of what follows the offset; one without data at least, which has what is there checked and stored."""
    yield Span(offset, min(CHUNK, content.size_bytes - offset), first=True)
    for start in range(offset + CHUNK, content.size_bytes, CHUNK):
        yield Span(start, min(CHUNK, content.size_bytes - start), first=False)


def chunk(path: Path, content: Artifact, span: Span) -> pb.WriteArtifactRequest:
    """A chunk as it is sent, shorter where the file has become so; OSError where it cannot be read."""
    with path.open("rb") as file:
        file.seek(span.offset)
        data = file.read(span.size_bytes)
    request = pb.WriteArtifactRequest(offset=span.offset, data=data, crc32=zlib.crc32(data))
    if span.first:
        request.sha256, request.size_bytes = content.sha256, content.size_bytes
    return request


def is_passing(error: DiminuendoError) -> bool:
    """Whether an upload may be gone on with after this error."""
    return error.reason != "NO_SERVER" and (isinstance(error, ServerUnavailableError) or error.reason in _AGAIN)


def changed(path: Path) -> UploadError:
    """The error of a file that is not any more what it was when its sha256 was taken."""
    return UploadError(f"{path} changed while it was sent; send it again when nobody writes to it")


def damaged(path: Path, content: Artifact) -> UploadError:
    """The error of content that does not arrive as it was sent."""
    return UploadError(
        f"{path} arrived damaged twice (its sha256 is {content.sha256}); something on the way changes it"
    )
