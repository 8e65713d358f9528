"""Writes a result folder, as `diminuendo.client.download` does; the disk is written in threads."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from pathlib import Path

from diminuendo.v1 import artifact_service_pb2 as pb

from diminuendo.client import links
from diminuendo.client.aio.rpc import AsyncConnection
from diminuendo.client.aio.threads import in_thread, stopped_in_thread
from diminuendo.client.download import CHUNK_TRIES, Part, damaged, missing
from diminuendo.client.errors import DiminuendoError
from diminuendo.client.types import ResultFile


async def download(connection: AsyncConnection, files: Sequence[ResultFile], folder: Path) -> Path:
    """Fetch the files into the folder; see `AsyncJob.download`."""
    for file in await in_thread(missing, files, folder):
        await _fetch(connection, file, folder)
    return folder


async def _fetch(connection: AsyncConnection, file: ResultFile, folder: Path) -> None:
    """Fetch one file; content that does not match is fetched once more from the start."""
    for _ in range(2):
        part = await in_thread(Part, folder, file)
        try:
            await _get(connection, part)
            for _ in range(CHUNK_TRIES):
                if part.full or await _append(connection, part):
                    break
        finally:
            await in_thread(part.close)
        if await in_thread(part.put_in_place):
            return
        connection.without_urls.add("get")  # the server looks closer than a bucket: it puts aside what is damaged
    raise damaged(file)


async def _append(connection: AsyncConnection, part: Part) -> bool:
    """Append what the server sends from here on; False when a chunk came damaged, which is not taken."""
    async with contextlib.aclosing(connection.stream(connection.artifacts.ReadArtifact, part.request)) as messages:
        async for message in messages:
            if not await in_thread(part.take, message):
                return False
            if part.missing_bytes < 0:
                break
    return True


async def _get(connection: AsyncConnection, part: Part) -> None:
    """Append, by a URL past the server, as much as comes of what is missing."""
    if part.missing_bytes < links.MIN_BYTES or "get" in connection.without_urls:
        return
    asked = pb.CreateDownloadUrlRequest(sha256=part.content.sha256)
    try:
        answer = await connection.call(connection.artifacts.CreateDownloadUrl, asked)
    except DiminuendoError:
        connection.without_urls.add("get")
        return
    get = functools.partial(links.get_by, answer.url, part.content.size_bytes, part.out, part.digest)
    await stopped_in_thread(lambda stopped: get(timeout_s=connection.config.timeout_s, stopped=stopped))
    if part.missing_bytes > 0:
        connection.without_urls.add("get")
