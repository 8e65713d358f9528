"""Content that is sent to a conductor, over a real channel: resumed, shared, damaged, refused, swept."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import resource
import sys
import threading
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from diminuendo.v1 import artifact_service_pb2 as pb

from diminuendo.engine.store import DirectoryStore
from diminuendo.services.common.errors import ArtifactDamagedError, StoreUnavailableError, UploadOffsetError
from diminuendo.services.conductor.app import conducting
from diminuendo.services.conductor.settings import ConductorSettings
from diminuendo.services.conductor.uploads import MAX_CHUNK, Uploads

Api = Any
Failing = Callable[[Awaitable[object]], Awaitable[Any]]
CONTENT = random.Random(9).randbytes(2_600_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def chunks(
    content: bytes, start: int = 0, end: int | None = None, *, sha256: str = "", size: int | None = None
) -> list[pb.WriteArtifactRequest]:
    """Messages of an upload from an offset to another."""
    sha256, size = sha256 or hashlib.sha256(content).hexdigest(), len(content) if size is None else size
    pieces = [(i, content[i : min(i + MAX_CHUNK, end or len(content))]) for i in range(start, end or size, MAX_CHUNK)]
    return [
        pb.WriteArtifactRequest(sha256=sha256, size_bytes=size, offset=offset, data=data, crc32=zlib.crc32(data))
        for offset, data in pieces or [(start, b"")]
    ]


async def send(api: Api, messages: list[pb.WriteArtifactRequest]) -> pb.WriteArtifactResponse:
    answer: pb.WriteArtifactResponse = await api.artifacts.WriteArtifact(iter(messages), timeout=20)
    return answer


async def query(api: Api, sha256: str = SHA256, size: int = len(CONTENT)) -> tuple[int, bool]:
    answer = await api.artifacts.QueryUpload(pb.QueryUploadRequest(sha256=sha256, size_bytes=size), timeout=10)
    return answer.offset, answer.complete


@pytest.fixture
def stored(settings: ConductorSettings) -> DirectoryStore:
    """The conductor's store."""
    return DirectoryStore(settings.artifacts_location)


def staged(settings: ConductorSettings) -> list[str]:
    return [path.name for path in settings.uploads_dir.iterdir()] if settings.uploads_dir.exists() else []


async def test_content_is_sent_whole_stored_and_then_known(
    api: Api, stored: DirectoryStore, settings: ConductorSettings
) -> None:
    assert await query(api) == (0, False)
    assert await send(api, chunks(CONTENT)) == pb.WriteArtifactResponse(offset=len(CONTENT), complete=True)
    assert stored.get(SHA256) == CONTENT
    assert staged(settings) == []
    assert await query(api) == (len(CONTENT), True)
    assert (await send(api, chunks(CONTENT, 0, 10))).complete, "nothing more is needed"
    empty = hashlib.sha256(b"").hexdigest()
    assert (await send(api, chunks(b""))).complete
    assert stored.get(empty) == b""


async def test_what_was_cut_goes_on_where_it_was_also_at_the_next_conductor(
    settings: ConductorSettings, connect: Callable[[str], Api], stored: DirectoryStore
) -> None:
    async with conducting(settings) as running:
        api = connect(running.grpc)

        async def cut() -> AsyncIterator[pb.WriteArtifactRequest]:
            yield chunks(CONTENT, 0, 1_000_000)[0]
            while (await query(api))[0] < 1_000_000:
                await asyncio.sleep(0.01)
            call.cancel()

        call = api.artifacts.WriteArtifact(cut(), timeout=20)
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await send(api, chunks(CONTENT, 1_000_000, 1_500_000)) == pb.WriteArtifactResponse(offset=1_500_000)
    async with conducting(settings) as running:
        api = connect(running.grpc)
        assert await query(api) == (1_500_000, False)
        assert (await send(api, chunks(CONTENT, 1_500_000))).complete
    assert stored.get(SHA256) == CONTENT


async def test_chunks_that_overlap_are_taken_once_and_gaps_are_refused(
    api: Api, failing: Failing, stored: DirectoryStore
) -> None:
    await send(api, chunks(CONTENT, 0, 700_000))
    assert (await send(api, chunks(CONTENT, 0, 500_000))).offset == 700_000
    failure = await failing(send(api, chunks(CONTENT, 700_001)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.ABORTED, "UPLOAD_OFFSET")
    assert failure.metadata == {"sha256": SHA256, "offset": "700000"}
    assert (await send(api, chunks(CONTENT, 600_000))).complete
    assert stored.get(SHA256) == CONTENT


async def test_several_send_the_same_content_at_once(
    api: Api, connect: Callable[[str], Api], conductor: Any, stored: DirectoryStore, settings: ConductorSettings
) -> None:
    others = [connect(conductor.grpc) for _ in range(3)]
    answers = await asyncio.gather(*(send(one, chunks(CONTENT)) for one in (api, *others)))
    assert [answer.complete for answer in answers] == [True] * 4
    assert stored.get(SHA256) == CONTENT
    assert staged(settings) == []


async def test_a_damaged_chunk_is_not_taken(api: Api, failing: Failing, stored: DirectoryStore) -> None:
    first, second, third = chunks(CONTENT)
    broken = pb.WriteArtifactRequest()
    broken.CopyFrom(second)
    broken.data = bytes([second.data[0] ^ 1]) + second.data[1:]
    failure = await failing(send(api, [first, broken, third]))
    assert (failure.code, failure.reason) == (grpc.StatusCode.DATA_LOSS, "CHUNK_DAMAGED")
    assert await query(api) == (MAX_CHUNK, False)
    assert (await send(api, [second, third])).complete
    assert stored.get(SHA256) == CONTENT


async def test_other_content_than_was_named_leaves_nothing(
    api: Api, failing: Failing, stored: DirectoryStore, settings: ConductorSettings
) -> None:
    wrong = b"x" + CONTENT[1:]
    failure = await failing(send(api, chunks(wrong, sha256=SHA256)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.DATA_LOSS, "ARTIFACT_DAMAGED")
    assert failure.metadata == {"sha256": SHA256}
    assert (staged(settings), list(stored.stored())) == ([], [])
    assert await query(api) == (0, False)
    # Who lies about the size harms nobody who tells the truth.
    await send(api, chunks(CONTENT, 0, 1_000_000))
    assert (await failing(send(api, chunks(CONTENT[:500], sha256=SHA256)))).reason == "ARTIFACT_DAMAGED"
    assert await query(api) == (1_000_000, False)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"sha256": "../../etc/passwd"}, "sha256"),
        ({"sha256": ""}, "sha256"),
        ({"size_bytes": -1}, "size_bytes"),
        ({"size_bytes": 2**21 + 1}, "size_bytes"),
        ({"data": bytes(MAX_CHUNK + 1), "size_bytes": 2**21}, "data"),
        ({"offset": -1}, "offset"),
        ({"offset": 6}, "offset"),
    ],
)
async def test_a_bad_field_is_named(
    settings: ConductorSettings, connect: Callable[[str], Api], failing: Failing, change: dict[str, Any], field: str
) -> None:
    fields: dict[str, Any] = {"sha256": SHA256, "size_bytes": 10, "data": b"12345", "crc32": zlib.crc32(b"12345")}
    async with conducting(settings.model_copy(update={"max_artifact_bytes": 2**21})) as running:
        failure = await failing(send(connect(running.grpc), [pb.WriteArtifactRequest(**fields | change)]))
    assert (failure.code, list(failure.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, [field])
    assert staged(settings) == []


async def test_a_stream_is_of_one_content_and_not_empty(api: Api, failing: Failing) -> None:
    assert "no message came" in (await failing(send(api, []))).fields["sha256"]
    first, second, _ = chunks(CONTENT)
    second.sha256, second.size_bytes = "0" * 64, 7
    failure = await failing(send(api, [first, second]))
    assert set(failure.fields) == {"sha256", "size_bytes"}


def highest_kib() -> int:
    """The most memory that this process has held."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
async def test_memory_is_bounded_however_large_the_content(api: Api, stored: DirectoryStore) -> None:
    """64 MiB, sent by a client that would send faster than the conductor takes it."""
    block, count = random.Random(1).randbytes(MAX_CHUNK), 64
    digest = hashlib.sha256()
    for _ in range(count):
        digest.update(block)
    sha256, crc32 = digest.hexdigest(), zlib.crc32(block)

    async def messages() -> AsyncIterator[pb.WriteArtifactRequest]:
        for i in range(count):
            yield pb.WriteArtifactRequest(
                sha256=sha256, size_bytes=count * MAX_CHUNK, offset=i * MAX_CHUNK, data=block, crc32=crc32
            )

    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is what is held now
    before = highest_kib()
    assert (await api.artifacts.WriteArtifact(messages(), timeout=60)).complete
    assert highest_kib() - before < 40 * 1024, "client and conductor are both in this process"
    assert stored.size(sha256) == count * MAX_CHUNK


async def test_a_disk_that_is_full_is_a_reason_to_try_later(
    api: Api, failing: Failing, settings: ConductorSettings, stored: DirectoryStore
) -> None:
    """A limit on the size of files stands in for it: what can still be written stays, and is gone on with."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_200_000, hard))
    try:
        failure = await failing(send(api, chunks(CONTENT)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    assert "File too large" in failure.message
    offset, complete = await query(api)
    assert (0 < offset <= 1_200_000, complete) == (True, False)
    assert (await send(api, chunks(CONTENT, offset))).complete
    assert stored.get(SHA256) == CONTENT


async def test_what_nobody_sends_on_to_is_swept(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path / "uploads", DirectoryStore(tmp_path / "artifacts"))
    assert uploads.sweep(before=time.time()) == 0
    old, new = uploads.of(SHA256, 10), uploads.of("0" * 64, 10)
    old.append(0, b"12345")
    new.append(0, b"12345")
    os.utime(old.path, (0, 0))
    assert uploads.sweep(before=time.time() - 60) == 1
    assert (old.held(), new.held()) == (0, 5)
    with pytest.raises(UploadOffsetError, match="is past the 0 bytes that are here; send on from 0"):
        old.append(5, b"67890")


async def test_all_who_wait_for_the_store_hear_how_it_went(tmp_path: Path) -> None:
    class Away(DirectoryStore):
        def put_file(self, path: Path, sha256: str) -> None:
            raise OSError(28, "No space left on device")

    uploads = Uploads(tmp_path / "uploads", Away(tmp_path / "artifacts"))
    upload = uploads.of(SHA256, 5)
    upload.append(0, b"12345")
    answers = await asyncio.gather(*(uploads.store(upload) for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [StoreUnavailableError] * 3
    assert "No space left on device" in str(answers[0])
    assert upload.held() == 5, "it waits for room"
    again = Uploads(tmp_path / "uploads", DirectoryStore(tmp_path / "artifacts"))
    with pytest.raises(ArtifactDamagedError):
        await again.store(again.of(SHA256, 5))
    assert again.of(SHA256, 5).held() == 0


async def test_who_leaves_while_content_is_stored_takes_nothing_from_the_others(tmp_path: Path) -> None:
    started, may_end = threading.Event(), threading.Event()

    class Slow(DirectoryStore):
        def put_file(self, path: Path, sha256: str) -> None:
            started.set()
            assert may_end.wait(10)
            super().put_file(path, sha256)

    store = Slow(tmp_path / "artifacts")
    uploads = Uploads(tmp_path / "uploads", store)
    upload = uploads.of(hashlib.sha256(b"12345").hexdigest(), 5)
    upload.append(0, b"12345")
    leaves, stays = asyncio.create_task(uploads.store(upload)), asyncio.create_task(uploads.store(upload))
    await asyncio.to_thread(started.wait, 10)
    leaves.cancel()
    await asyncio.wait({leaves})
    may_end.set()
    await stays
    assert leaves.cancelled()
    assert store.get(upload.sha256) == b"12345"
