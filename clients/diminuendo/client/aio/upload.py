"""Sends a file to the server's artifact store, as `diminuendo.client.upload` does; the disk is read in threads."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from pathlib import Path

from diminuendo.v1 import artifact_service_pb2 as pb

from diminuendo.client import links
from diminuendo.client.aio.rpc import AsyncConnection
from diminuendo.client.aio.threads import stopped_in_thread
from diminuendo.client.errors import DiminuendoError
from diminuendo.client.types import Artifact
from diminuendo.client.upload import DAMAGED, changed, chunk, damaged, is_passing, measure, query, spans


async def upload(connection: AsyncConnection, path: Path) -> Artifact:
    """Store a file's content; see `AsyncClient.upload`."""
    content = await asyncio.to_thread(measure, path)
    for _ in range(2):
        try:
            await _send(connection, path, content)
        except DiminuendoError as error:
            if error.reason != DAMAGED:
                raise
            if await asyncio.to_thread(measure, path) != content:
                raise changed(path) from None
        else:
            return content
    raise damaged(path, content)


async def _send(connection: AsyncConnection, path: Path, content: Artifact) -> None:
    """Send until the server has stored all of it; what is cut is gone on with while there is progress."""
    backoff, farthest = connection.backoff(), -1
    while True:
        try:
            held = await _held(connection, content)
            if held.offset > farthest:
                farthest = held.offset
                backoff.progress()
            if not held.complete and not held.offset and await _put(connection, path, content):
                held = await _held(connection, content)
            if not held.complete:
                await _send_from(connection, path, content, held.offset)
            return
        except DiminuendoError as error:
            if connection.closed.is_set() or not is_passing(error):
                raise
            if backoff.failing_s >= connection.config.patience_s:
                raise
        await connection.pause(backoff)


async def _held(connection: AsyncConnection, content: Artifact) -> pb.QueryUploadResponse:
    """How much the server has, and whether it has stored it."""
    return await connection.call(connection.artifacts.QueryUpload, query(content))


async def _send_from(connection: AsyncConnection, path: Path, content: Artifact, offset: int) -> None:
    """Send the rest; UploadError when there is less of it than there was."""
    failed: list[OSError] = []

    async def chunks() -> AsyncIterator[pb.WriteArtifactRequest]:
        try:
            for span in spans(content, offset):
                request = await asyncio.to_thread(chunk, path, content, span)
                yield request
                if len(request.data) < span.size_bytes:
                    return  # the file has become shorter, which the server's answer shows
        except OSError as error:  # gRPC asks for these, in a task of its own
            failed.append(error)

    try:
        answer = await connection.send(connection.artifacts.WriteArtifact, chunks())
    finally:
        if failed:  # whatever the server says of what it did not get
            raise failed[0]
    if not answer.complete:
        raise changed(path)


async def _put(connection: AsyncConnection, path: Path, content: Artifact) -> bool:
    """Send a file by a URL past the server, where it gives one; whether it went through."""
    if content.size_bytes < links.MIN_BYTES or "put" in connection.without_urls:
        return False
    asked = pb.CreateUploadUrlRequest(sha256=content.sha256, size_bytes=content.size_bytes)
    try:
        answer = await connection.call(connection.artifacts.CreateUploadUrl, asked)
    except DiminuendoError:
        connection.without_urls.add("put")
        return False
    put = functools.partial(links.put_by, answer, path, timeout_s=connection.config.timeout_s)
    if await stopped_in_thread(lambda stopped: put(stopped=stopped)):
        return True
    connection.without_urls.add("put")
    return False
