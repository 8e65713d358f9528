"""ArtifactService: content by its sha256."""

# ruff: noqa: N802 - the methods are named by the protos
from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

from diminuendo.v1 import artifact_service_pb2, artifact_service_pb2_grpc
from grpc.aio import ServicerContext

from diminuendo.engine.store import ArtifactMissingError, SharedStore, StoreAwayError
from diminuendo.services.common import logs
from diminuendo.services.common.errors import (
    ArtifactDamagedError,
    ArtifactNotFoundError,
    InvalidFieldError,
    StoreUnavailableError,
    Violation,
)
from diminuendo.services.conductor import validate_held as validate

CHUNK = 256 * 1024
_log = logs.get(__name__)
_Context = ServicerContext[Any, Any]


class ArtifactService(artifact_service_pb2_grpc.ArtifactServiceServicer):
    """Serves the content of a store."""

    def __init__(self, artifacts: SharedStore) -> None:
        """Read from this store."""
        self._artifacts = artifacts

    async def ReadArtifact(
        self, request: artifact_service_pb2.ReadArtifactRequest, context: _Context
    ) -> AsyncIterator[artifact_service_pb2.ReadArtifactResponse]:
        """The content from an offset on, in chunks; the store is read off the event loop.

        Who reads from the start on is told at the end when the content was damaged; who reads from further on finds
        that himself, and then reads from the start.
        """
        validate.artifact(request.sha256, request.offset)
        size = await asyncio.to_thread(self._size, request.sha256, request.offset)
        digest, offset = hashlib.sha256(), request.offset
        while offset < size:
            data = await asyncio.to_thread(self._read, request.sha256, offset, min(CHUNK, size - offset))
            if not data:
                break  # it was replaced by something shorter: damaged, and so the reader will find
            digest.update(data)
            offset += len(data)
            yield artifact_service_pb2.ReadArtifactResponse(data=data)
        if not request.offset and digest.hexdigest() != request.sha256:
            await asyncio.to_thread(self._artifacts.set_aside, request.sha256)
            _log.error("artifact_damaged", sha256=request.sha256)
            raise ArtifactDamagedError(
                f"the content stored under {request.sha256} is damaged; it was put aside, store it again",
                sha256=request.sha256,
            )

    def _size(self, sha256: str, offset: int) -> int:
        try:
            size = self._artifacts.size(sha256)
        except ArtifactMissingError as error:
            raise _not_found(sha256, error) from None
        except StoreAwayError as error:
            raise StoreUnavailableError(str(error)) from None
        if offset > size:
            raise InvalidFieldError(
                [Violation("offset", f"{offset} is past the content's end; give 0 to its size, {size}")]
            )
        return size

    def _read(self, sha256: str, offset: int, length: int) -> bytes:
        try:
            return self._artifacts.read(sha256, offset, length)
        except ArtifactMissingError as error:
            raise _not_found(sha256, error) from None
        except StoreAwayError as error:
            raise StoreUnavailableError(str(error)) from None


def _not_found(sha256: str, error: ArtifactMissingError) -> ArtifactNotFoundError:
    return ArtifactNotFoundError(f"sha256 {sha256!r}: {error}; give one that a job's result names", sha256=sha256)
