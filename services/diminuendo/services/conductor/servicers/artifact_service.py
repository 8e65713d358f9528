"""ArtifactService: content by its sha256."""

# ruff: noqa: N802 - the methods are named by the protos
from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any, BinaryIO

from diminuendo.v1 import artifact_service_pb2, artifact_service_pb2_grpc
from grpc.aio import ServicerContext

from diminuendo.engine.store import ArtifactMissingError, DirectoryStore
from diminuendo.services.common.errors import ArtifactNotFoundError, InvalidFieldError, Violation
from diminuendo.services.conductor import validate_held as validate

CHUNK = 256 * 1024
_Context = ServicerContext[Any, Any]


class ArtifactService(artifact_service_pb2_grpc.ArtifactServiceServicer):
    """Serves the content of a directory store."""

    def __init__(self, artifacts: DirectoryStore) -> None:
        """Read from this store."""
        self._artifacts = artifacts

    async def ReadArtifact(
        self, request: artifact_service_pb2.ReadArtifactRequest, context: _Context
    ) -> AsyncIterator[artifact_service_pb2.ReadArtifactResponse]:
        """The content from an offset on, in chunks; the disk is read off the event loop."""
        validate.artifact(request.sha256, request.offset)
        file = await asyncio.to_thread(self._open, request.sha256, request.offset)
        try:
            while data := await asyncio.to_thread(file.read, CHUNK):
                yield artifact_service_pb2.ReadArtifactResponse(data=data)
        finally:
            file.close()

    def _open(self, sha256: str, offset: int) -> BinaryIO:
        try:
            file = self._artifacts.open(sha256)
        except ArtifactMissingError as error:
            raise ArtifactNotFoundError(
                f"sha256 {sha256!r}: {error}; give one that a job's result names", sha256=sha256
            ) from None
        size = os.fstat(file.fileno()).st_size
        if offset > size:
            file.close()
            raise InvalidFieldError(
                [Violation("offset", f"{offset} is past the content's end; give 0 to its size, {size}")]
            )
        file.seek(offset)
        return file
