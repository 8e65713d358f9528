"""Sends and reads content by URLs that the server signs, past the server itself, where its store gives any.

Whatever goes wrong here, gRPC does it: nothing is raised, and a store that cannot be reached is not tried again.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import urllib.request
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
    try:
        with path.open("rb") as file:
            request = urllib.request.Request(_web(answer.url), file, dict(answer.headers), method="PUT")
            with urllib.request.urlopen(request, timeout=connection.config.timeout_s):
                return True
    except _FAILURES:
        connection.without_urls.add("put")
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
    with contextlib.suppress(*_FAILURES):
        _append(_web(answer.url), content.size_bytes, out, digest, connection.config.timeout_s)
    if out.tell() < content.size_bytes:
        connection.without_urls.add("get")


def _append(url: str, size: int, out: BinaryIO, digest: hashlib._Hash, timeout_s: float) -> None:
    request = urllib.request.Request(url, headers={"Range": f"bytes={out.tell()}-{size - 1}"})
    with contextlib.closing(urllib.request.urlopen(request, timeout=timeout_s)) as answer:
        if answer.status != http.client.PARTIAL_CONTENT:
            return
        while block := answer.read(min(_BLOCK, size - out.tell())):
            digest.update(block)
            out.write(block)


def _web(url: str) -> str:
    """The URL itself; ValueError when it is not of the web: a server must not have us read files of ours."""
    if not url.startswith(("https://", "http://")):
        raise ValueError(f"{url!r} is no http URL")
    return url
