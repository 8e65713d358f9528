"""ArtifactService: content by its sha256, in and out."""

# ruff: noqa: N802 - the methods are named by the protos
from __future__ import annotations

import asyncio
import hashlib
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from diminuendo.v1 import artifact_service_pb2, artifact_service_pb2_grpc
from google.protobuf import timestamp_pb2
from grpc.aio import ServicerContext

from diminuendo.engine.store import ArtifactMissingError, SharedStore, StoreAwayError
from diminuendo.services.common import logs
from diminuendo.services.common.errors import (
    ArtifactDamagedError,
    ArtifactNotFoundError,
    ChunkDamagedError,
    InvalidFieldError,
    NoSignedUrlsError,
    StoreUnavailableError,
    Violation,
)
from diminuendo.services.conductor import validate_artifacts as validate
from diminuendo.services.conductor.garbage import Collector
from diminuendo.services.conductor.jobs import timestamp
from diminuendo.services.conductor.metrics import Metrics
from diminuendo.services.conductor.store.base import Clock, Store
from diminuendo.services.conductor.uploads import Upload, Uploads

T = TypeVar("T")
CHUNK = 256 * 1024
_log = logs.get(__name__)
_Context = ServicerContext[Any, Any]


class ArtifactService(artifact_service_pb2_grpc.ArtifactServiceServicer):
    """Serves the content of a store, and takes more."""

    def __init__(
        self,
        store: Store,
        artifacts: SharedStore,
        uploads: Uploads,
        collector: Collector,
        metrics: Metrics,
        clock: Clock,
        *,
        max_bytes: int,
    ) -> None:
        """Read from this artifact store, and let what is sent, of at most so many bytes, go to it."""
        self._store, self._artifacts, self._uploads, self._collector = store, artifacts, uploads, collector
        self._metrics, self._clock, self._max_bytes = metrics, clock, max_bytes

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
            self._metrics.bytes_out.inc(len(data))
            yield artifact_service_pb2.ReadArtifactResponse(data=data, crc32=zlib.crc32(data))
        if not request.offset and digest.hexdigest() != request.sha256:
            await asyncio.to_thread(self._artifacts.set_aside, request.sha256)
            _log.error("artifact_damaged", sha256=request.sha256)
            raise ArtifactDamagedError(
                f"the content stored under {request.sha256} is damaged; it was put aside, store it again",
                sha256=request.sha256,
            )

    async def QueryUpload(
        self, request: artifact_service_pb2.QueryUploadRequest, context: _Context
    ) -> artifact_service_pb2.QueryUploadResponse:
        """How much of a content is here."""
        validate.upload(request.sha256, request.size_bytes, self._max_bytes)
        upload = self._uploads.of(request.sha256, request.size_bytes)
        if await self._stored(upload):
            return artifact_service_pb2.QueryUploadResponse(offset=upload.size, complete=True)
        return artifact_service_pb2.QueryUploadResponse(offset=await asyncio.to_thread(upload.held))

    async def WriteArtifact(
        self, request_iterator: AsyncIterator[artifact_service_pb2.WriteArtifactRequest], context: _Context
    ) -> artifact_service_pb2.WriteArtifactResponse:
        """Take content chunk by chunk; no more than one is in memory. Whole, it is checked and stored."""
        upload, held = None, 0
        async for request in request_iterator:
            if upload is None:
                validate.upload(request.sha256, request.size_bytes, self._max_bytes)
                upload = self._uploads.of(request.sha256, request.size_bytes)
                if await self._stored(upload):
                    return artifact_service_pb2.WriteArtifactResponse(offset=upload.size, complete=True)
            held = await self._take(upload, request)
            self._metrics.bytes_in.inc(len(request.data))
            if held == upload.size:
                await self._uploads.store(upload)
                return artifact_service_pb2.WriteArtifactResponse(offset=held, complete=True)
        if upload is None:
            raise InvalidFieldError([Violation("sha256", "is missing: no message came; send one with it at least")])
        return artifact_service_pb2.WriteArtifactResponse(offset=held)

    async def CreateDownloadUrl(
        self, request: artifact_service_pb2.CreateDownloadUrlRequest, context: _Context
    ) -> artifact_service_pb2.CreateDownloadUrlResponse:
        """Where the content may be read directly."""
        ttl_s = validate.download_url(request)
        expires = self._expiry(ttl_s)
        await asyncio.to_thread(self._size, request.sha256, 0)
        url = await asyncio.to_thread(_signed, lambda: self._artifacts.url(request.sha256, expires_s=ttl_s))
        if url is None:
            raise _no_urls("read it with ReadArtifact")
        return artifact_service_pb2.CreateDownloadUrlResponse(url=url, expire_time=expires)

    async def CreateUploadUrl(
        self, request: artifact_service_pb2.CreateUploadUrlRequest, context: _Context
    ) -> artifact_service_pb2.CreateUploadUrlResponse:
        """Where the content may be put directly; the store checks it."""
        ttl_s = validate.upload_url(request, self._max_bytes)
        expires = self._expiry(ttl_s)
        signed = await asyncio.to_thread(
            _signed, lambda: self._artifacts.upload_url(request.sha256, request.size_bytes, expires_s=ttl_s)
        )
        if signed is None:
            raise _no_urls("send it with WriteArtifact")
        return artifact_service_pb2.CreateUploadUrlResponse(
            url=signed.url, headers=dict(signed.headers), expire_time=expires
        )

    def _expiry(self, ttl_s: int) -> timestamp_pb2.Timestamp:
        return timestamp(self._clock() + ttl_s * 1_000_000)

    async def CollectGarbage(
        self, request: artifact_service_pb2.CollectGarbageRequest, context: _Context
    ) -> artifact_service_pb2.CollectGarbageResponse:
        """Remove what no job refers to, or say what that would be."""
        found = await self._collector.collect(dry_run=request.dry_run)
        return artifact_service_pb2.CollectGarbageResponse(
            removed_artifacts=found.removed.artifacts,
            removed_bytes=found.removed.bytes,
            removed_evaluations=found.evaluations,
            waiting_artifacts=found.waiting.artifacts,
            waiting_bytes=found.waiting.bytes,
            kept_artifacts=found.kept.artifacts,
            kept_bytes=found.kept.bytes,
        )

    async def _stored(self, upload: Upload) -> bool:
        """Whether the content is there to stay; if it is, whoever asks has the time to keep to refer to it."""
        return await self._store.want_artifact(upload.sha256) and await asyncio.to_thread(self._uploads.stored, upload)

    async def _take(self, upload: Upload, request: artifact_service_pb2.WriteArtifactRequest) -> int:
        validate.chunk(request, upload.sha256, upload.size)
        if zlib.crc32(request.data) != request.crc32:
            raise ChunkDamagedError(
                f"the {len(request.data)} bytes at offset {request.offset} of {upload.sha256} do not have the crc32 "
                f"{request.crc32:#010x} that came with them; send them again",
                sha256=upload.sha256,
                offset=str(request.offset),
            )
        return await asyncio.to_thread(upload.append, request.offset, request.data)

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


def _signed(sign: Callable[[], T]) -> T:
    try:
        return sign()
    except StoreAwayError as error:
        raise StoreUnavailableError(str(error)) from None


def _no_urls(instead: str) -> NoSignedUrlsError:
    return NoSignedUrlsError(f"the artifact store gives no URL for this content; {instead}")


def _not_found(sha256: str, error: ArtifactMissingError) -> ArtifactNotFoundError:
    return ArtifactNotFoundError(f"sha256 {sha256!r}: {error}; give one that a job's result names", sha256=sha256)
