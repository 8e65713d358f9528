"""ArtifactService over a real channel."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from diminuendo.v1 import artifact_service_pb2
from tests.contract.artifacts import make_bucket, s3_server

from diminuendo.engine.store import DirectoryStore
from diminuendo.engine.stores import open_store
from diminuendo.services.conductor.app import conducting
from diminuendo.services.conductor.settings import ConductorSettings

Api = Any
Failing = Callable[[Awaitable[object]], Awaitable[Any]]


async def read(api: Api, sha256: str, offset: int = 0) -> list[bytes]:
    """The chunks as they come."""
    request = artifact_service_pb2.ReadArtifactRequest(sha256=sha256, offset=offset)
    return [reply.data async for reply in api.artifacts.ReadArtifact(request, timeout=10)]


@pytest.fixture
def content(settings: ConductorSettings) -> bytes:
    """Content of many chunks, in the conductor's store."""
    data = random.Random(0).randbytes(2_500_000)
    DirectoryStore(settings.artifacts_location).put(data)
    return data


async def test_content_comes_in_chunks_from_any_offset(api: Api, content: bytes) -> None:
    sha256 = hashlib.sha256(content).hexdigest()
    chunks = await read(api, sha256)
    assert b"".join(chunks) == content
    assert len(chunks) > 2
    assert max(map(len, chunks)) <= 1024 * 1024
    for offset in (1, 262_144, 2_499_999):
        assert b"".join(await read(api, sha256, offset)) == content[offset:]
    assert await read(api, sha256, len(content)) == []


async def test_a_reader_that_leaves_harms_nobody(api: Api, content: bytes) -> None:
    request = artifact_service_pb2.ReadArtifactRequest(sha256=hashlib.sha256(content).hexdigest())
    call = api.artifacts.ReadArtifact(request, timeout=10)
    assert content.startswith((await call.read()).data)
    call.cancel()
    assert b"".join(await read(api, request.sha256)) == content


async def test_unknown_content_is_not_found(api: Api, failing: Failing) -> None:
    failure = await failing(read(api, "0" * 64))
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "ARTIFACT_NOT_FOUND")
    assert failure.metadata == {"sha256": "0" * 64}


@pytest.mark.parametrize(
    ("sha256", "offset", "field"),
    [("../../etc/passwd", 0, "sha256"), ("", 0, "sha256"), ("AB" * 32, 0, "sha256"), ("0" * 64, -1, "offset")],
)
async def test_a_bad_field_is_named(api: Api, failing: Failing, sha256: str, offset: int, field: str) -> None:
    failure = await failing(read(api, sha256, offset))
    assert (failure.code, list(failure.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_an_offset_past_the_end_is_refused(api: Api, failing: Failing, content: bytes) -> None:
    failure = await failing(read(api, hashlib.sha256(content).hexdigest(), len(content) + 1))
    assert "give 0 to its size, 2500000" in failure.fields["offset"]


async def test_damaged_content_is_told_apart_and_put_aside(
    api: Api, failing: Failing, content: bytes, settings: ConductorSettings
) -> None:
    store, sha256 = DirectoryStore(settings.artifacts_location), hashlib.sha256(content).hexdigest()
    store.path(sha256).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    failure = await failing(read(api, sha256))
    assert (failure.code, failure.reason) == (grpc.StatusCode.DATA_LOSS, "ARTIFACT_DAMAGED")
    assert (await failing(read(api, sha256))).code == grpc.StatusCode.NOT_FOUND
    store.put(content)
    assert b"".join(await read(api, sha256)) == content


async def test_a_conductor_on_a_bucket_serves_from_it_and_outlives_it(
    settings: ConductorSettings, connect: Callable[[str], Api], failing: Failing
) -> None:
    data = random.Random(1).randbytes(600_000)
    with s3_server() as url:
        make_bucket(url, "artifacts")
        location = f"s3://artifacts/one?endpoint_url={url}"
        sha256 = open_store(location).put(data)
        async with conducting(settings.model_copy(update={"artifacts": location})) as running:
            api = connect(running.grpc)
            assert b"".join(await read(api, sha256)) == data
            assert b"".join(await read(api, sha256, 599_990)) == data[599_990:]
            assert (await failing(read(api, "0" * 64))).code == grpc.StatusCode.NOT_FOUND
            open_store(location).remove(sha256, before=2e9)
            assert (await failing(read(api, sha256))).code == grpc.StatusCode.NOT_FOUND
    async with conducting(settings.model_copy(update={"artifacts": location})) as running:  # its server is gone
        api = connect(running.grpc)
        failure = await failing(read(api, sha256))
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert "s3://artifacts/one cannot be used now" in failure.message
        await running.store.ping()


async def test_a_directory_has_no_urls_and_says_what_to_use(api: Api, failing: Failing, content: bytes) -> None:
    sha256 = hashlib.sha256(content).hexdigest()
    asked = artifact_service_pb2.CreateUploadUrlRequest(sha256=sha256, size_bytes=7)
    failure = await failing(api.artifacts.CreateUploadUrl(asked, timeout=10))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_SIGNED_URLS")
    assert "send it with WriteArtifact" in failure.message
    wanted = artifact_service_pb2.CreateDownloadUrlRequest(sha256=sha256)
    failure = await failing(api.artifacts.CreateDownloadUrl(wanted, timeout=10))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_SIGNED_URLS")
    assert "read it with ReadArtifact" in failure.message
    wanted.sha256 = "0" * 64
    assert (await failing(api.artifacts.CreateDownloadUrl(wanted, timeout=10))).reason == "ARTIFACT_NOT_FOUND"
    wanted.sha256, wanted.ttl.seconds = "x", 86_401
    assert set((await failing(api.artifacts.CreateDownloadUrl(wanted, timeout=10))).fields) == {"sha256", "ttl"}
    asked.sha256, asked.size_bytes, asked.ttl.nanos = "x", -1, 5
    assert set((await failing(api.artifacts.CreateUploadUrl(asked, timeout=10))).fields) == {
        "sha256",
        "size_bytes",
        "ttl",
    }


async def test_a_bucket_has_urls_for_a_while(
    settings: ConductorSettings, connect: Callable[[str], Api], clock: Any
) -> None:
    sha256 = hashlib.sha256(b"content").hexdigest()
    with s3_server() as url:
        make_bucket(url, "artifacts")
        location = f"s3://artifacts/two?endpoint_url={url}"
        async with conducting(settings.model_copy(update={"artifacts": location}), clock=clock) as running:
            api = connect(running.grpc)
            asked = artifact_service_pb2.CreateUploadUrlRequest(sha256=sha256, size_bytes=7)
            answer = await api.artifacts.CreateUploadUrl(asked, timeout=10)
            assert "X-Amz-Expires=3600" in answer.url
            assert answer.expire_time.seconds == clock.micros // 1_000_000 + 3600
            assert set(answer.headers) == {"Content-Length", "Content-Type", "x-amz-checksum-sha256"}
            open_store(location).put(b"content")
            wanted = artifact_service_pb2.CreateDownloadUrlRequest(sha256=sha256)
            wanted.ttl.seconds = 60
            found = await api.artifacts.CreateDownloadUrl(wanted, timeout=10)
            assert "X-Amz-Expires=60" in found.url
            assert found.expire_time.seconds == clock.micros // 1_000_000 + 60
