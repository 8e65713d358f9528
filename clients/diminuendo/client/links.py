"""Sends and reads content by URLs that the server signs, past the server itself, where its store gives any.

Whatever goes wrong here, gRPC does it: nothing is raised, and a store that cannot be reached is not tried again.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from diminuendo.v1 import artifact_service_pb2 as pb
from diminuendo.v1 import artifact_service_pb2_grpc

from diminuendo.client.errors import DiminuendoError
from diminuendo.client.rpc import Connection
from diminuendo.client.types import Artifact

MIN_BYTES = 2**20
"""What is smaller goes by gRPC, in one message."""
_BLOCK = 2**20
_FAILURES = (OSError, http.client.HTTPException, ValueError)


def put(connection: Connection, path: Path, content: Artifact) -> bool:
    """Send a file by a URL; whether it went through. The store has checked it then."""
    if content.size_bytes < MIN_BYTES or "put" in connection.without_urls:
        return False
    stub = artifact_service_pb2_grpc.ArtifactServiceStub(connection.channel)
    asked = pb.CreateUploadUrlRequest(sha256=content.sha256, size_bytes=content.size_bytes)
    try:
        answer = connection.call(stub.CreateUploadUrl, asked)
    except DiminuendoError:
        connection.without_urls.add("put")
        return False
    if put_by(answer, path, timeout_s=connection.config.timeout_s, stopped=connection.closed):
        return True
    connection.without_urls.add("put")
    return False


def put_by(answer: pb.CreateUploadUrlResponse, path: Path, *, timeout_s: float, stopped: threading.Event) -> bool:
    """Send a file by the URL of an answer; whether it went through. Ends soon once `stopped` is set.

    Args:
        answer: What the server gave.
        path: The file.
        timeout_s: The longest that the store may be silent.
        stopped: Set by whoever does not want it any more.
    """
    try:
        with path.open("rb") as file:
            headers = {"Content-Length": str(path.stat().st_size)} | dict(answer.headers)
            request = urllib.request.Request(_web(answer.url), _blocks(file, stopped), headers, method="PUT")
            with urllib.request.urlopen(request, timeout=timeout_s):
                return True
    except _FAILURES:
        return False


def get(connection: Connection, content: Artifact, out: BinaryIO, digest: hashlib._Hash) -> None:
    """Append to a file, by a URL, as much as comes of what is missing from where it ends."""
    if content.size_bytes - out.tell() < MIN_BYTES or "get" in connection.without_urls:
        return
    stub = artifact_service_pb2_grpc.ArtifactServiceStub(connection.channel)
    try:
        answer = connection.call(stub.CreateDownloadUrl, pb.CreateDownloadUrlRequest(sha256=content.sha256))
    except DiminuendoError:
        connection.without_urls.add("get")
        return
    get_by(
        answer.url, content.size_bytes, out, digest, timeout_s=connection.config.timeout_s, stopped=connection.closed
    )
    if out.tell() < content.size_bytes:
        connection.without_urls.add("get")


def get_by(
    url: str, size: int, out: BinaryIO, digest: hashlib._Hash, *, timeout_s: float, stopped: threading.Event
) -> None:
    """Append to a file as much as comes by a URL of what is missing. Ends soon once `stopped` is set.

    Args:
        url: What the server gave.
        size: Of the whole content, in bytes.
        out: Where it ends is where the rest begins.
        digest: Of what it has; kept up to date.
        timeout_s: The longest that the store may be silent.
        stopped: Set by whoever does not want it any more.
    """
    with contextlib.suppress(*_FAILURES):
        request = urllib.request.Request(_web(url), headers={"Range": f"bytes={out.tell()}-{size - 1}"})
        with contextlib.closing(urllib.request.urlopen(request, timeout=timeout_s)) as answer:
            if answer.status != http.client.PARTIAL_CONTENT:
                return
            while not stopped.is_set() and (block := answer.read(min(_BLOCK, size - out.tell()))):
                digest.update(block)
                out.write(block)


def _blocks(file: BinaryIO, stopped: threading.Event) -> Iterator[bytes]:
    """A file's content; OSError once `stopped` is set."""
    while block := file.read(_BLOCK):
        if stopped.is_set():
            raise InterruptedError("nobody waits for it any more")
        yield block


def _web(url: str) -> str:
    """The URL itself; ValueError when it is not of the web: a server must not have us read files of ours."""
    if not url.startswith(("https://", "http://")):
        raise ValueError(f"{url!r} is no http URL")
    return url
