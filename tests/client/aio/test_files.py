"""Sending and fetching on asyncio: cuts, damage, changes, cancelled tasks."""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from diminuendo.v1 import artifact_service_pb2, job_pb2
from tests.contract.artifacts import make_bucket, s3_server

from diminuendo.client import (
    Artifact,
    AsyncClient,
    DownloadError,
    FailedPreconditionError,
    FolderNotEmptyError,
    ResultFile,
    ServerError,
    ServerUnavailableError,
    UploadError,
)
from diminuendo.client.aio import download as downloading
from diminuendo.client.aio import upload as uploading
from diminuendo.client.child import Child
from diminuendo.client.download import Part
from diminuendo.client.upload import measure
from diminuendo.engine.stores import open_store

if TYPE_CHECKING:
    from tests.client.conftest import FakeServer

MIB = 2**20
CONTENT = random.Random(5).randbytes(2 * MIB + MIB // 2)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
Status = Callable[..., Any]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(CONTENT)
    return path


def sent(fake: FakeServer) -> list[tuple[int, int]]:
    """(offset, size) of every chunk."""
    return [(r.offset, len(r.data)) for r in fake.asked(artifact_service_pb2.WriteArtifactRequest)]


def read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def test_a_file_goes_in_chunks_and_then_never_again(fake: FakeServer, aclient: AsyncClient, file: Path) -> None:
    assert await aclient.upload(file) == Artifact(SHA256, len(CONTENT))
    assert fake.contents == {SHA256: CONTENT}
    assert sent(fake) == [(0, MIB), (MIB, MIB), (2 * MIB, MIB // 2)]
    await aclient.upload(str(file))
    assert len(sent(fake)) == 3


async def test_an_upload_that_is_cut_goes_on_where_it_was(fake: FakeServer, aclient: AsyncClient, file: Path) -> None:
    fake.write_cuts += [MIB + 10, 0, 500]
    await aclient.upload(file)
    assert fake.contents == {SHA256: CONTENT}
    offsets = [r.offset for r in fake.asked(artifact_service_pb2.WriteArtifactRequest) if r.sha256]
    assert offsets == [0, MIB + 10, MIB + 10, MIB + 510]


async def test_an_upload_gives_up_when_nobody_takes_it(fake: FakeServer, aclient: AsyncClient, file: Path) -> None:
    fake.write_cuts += [MIB] + [0] * 1000
    with pytest.raises(ServerUnavailableError):
        await aclient.upload(file)
    fake.write_cuts.clear()
    fake.requests.clear()
    await aclient.upload(file)
    assert sent(fake)[0] == (MIB, MIB), "a later try goes on"


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ('Failed "execute_batch": (<grpc._cython.cygrpc.SendMessageOperation object at 0x1>,)', ServerUnavailableError),
        ("UNKNOWN:Error received from peer ipv4:127.0.0.1:1 {grpc_status:13}", ServerError),
    ],
)
async def test_a_call_that_ended_while_it_was_sent_is_gone_on_with(
    aclient: AsyncClient, said: str, error: type[Exception]
) -> None:
    """grpc.aio says INTERNAL of it, whatever the server said; what the server says itself is another thing."""

    async def method(requests: object, **options: object) -> object:
        nothing = grpc.aio.Metadata()
        raise grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, nothing, nothing, "Internal error from Core", said)

    with pytest.raises(error) as caught:
        await aclient._connection.send(method, None)  # type: ignore[arg-type]
    assert type(caught.value) is error


async def test_a_file_that_changes_or_goes_while_it_is_sent_is_an_error(
    fake: FakeServer, aclient: AsyncClient, file: Path, make_status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    edits: list[Callable[[], object]] = [lambda: file.write_bytes(CONTENT[:MIB]), file.unlink]

    def then_edit(path: Path) -> Artifact:
        content = measure(path)
        if edits:
            edits.pop(0)()
        return content

    monkeypatch.setattr(uploading, "measure", then_edit)
    with pytest.raises(UploadError, match="changed while it was sent"):
        await aclient.upload(file)
    file.write_bytes(CONTENT)
    with pytest.raises(FileNotFoundError):
        await aclient.upload(file)
    file.write_bytes(CONTENT)
    fake.arrived.clear()
    fake.write_refusals += [make_status(grpc.StatusCode.DATA_LOSS, "damaged", reason="ARTIFACT_DAMAGED")] * 2
    with pytest.raises(UploadError, match=f"arrived damaged twice .its sha256 is {SHA256}"):
        await aclient.upload(file)
    assert fake.contents == {}


async def test_a_bundle_is_uploaded_with_its_job(fake: FakeServer, aclient: AsyncClient, tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text("def task():\n    ...\n")
    bundle = await aclient.upload_bundle(tmp_path)
    assert list(fake.contents) == [bundle.sha256]
    job = await aclient.submit(bundle=tmp_path, job_id="mine")
    assert fake.jobs[job.name].spec.bundle == bundle.name


async def test_a_result_is_fetched_over_cuts_and_damage_to_chunks(
    fake: FakeServer, aclient: AsyncClient, stored: dict[str, bytes], tmp_path: Path
) -> None:
    fake.read_cuts += [1500, 0, 2000]
    fake.chunk_damage = 1
    folder = tmp_path / "a" / "b"
    assert await aclient.job("recorded").download(str(folder)) == folder
    assert read(folder) == stored
    offsets = [r.offset for r in fake.asked(artifact_service_pb2.ReadArtifactRequest)]
    assert offsets[:5] == [0, 1000, 1000, 3000, 0]


async def test_damage_that_stays_and_folders_of_others_are_errors(
    fake: FakeServer, aclient: AsyncClient, stored: dict[str, bytes], tmp_path: Path
) -> None:
    fake.damage = 1
    await aclient.job("recorded").download(tmp_path / "once")
    assert read(tmp_path / "once") == stored
    fake.damage = 100
    with pytest.raises(DownloadError, match=r"model\.safetensors arrived damaged twice"):
        await aclient.job("recorded").download(tmp_path / "out")
    assert read(tmp_path / "out") == {}
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(FolderNotEmptyError, match=r"notes\.txt is not of this result; give another folder"):
        await aclient.job("recorded").download(tmp_path / "out")


async def test_a_job_without_a_result_says_why(
    fake: FakeServer, aclient: AsyncClient, stored: dict[str, bytes], tmp_path: Path
) -> None:
    job = fake.jobs["projects/default/jobs/recorded"]
    job.ClearField("result")
    job.state = job_pb2.JOB_STATE_CANCELLED
    with pytest.raises(FailedPreconditionError, match="is CANCELLED and has no result; submit it again"):
        await aclient.job("recorded").download(tmp_path)


async def test_a_download_that_is_cancelled_is_gone_on_with(
    fake: FakeServer, aclient: AsyncClient, stored: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task is cancelled while a thread writes a chunk: the file is closed after it, with what it wrote."""
    taking, loop = asyncio.Event(), asyncio.get_running_loop()
    take = Part.take

    def told(part: Part, message: artifact_service_pb2.ReadArtifactResponse) -> bool:
        taken = take(part, message)
        if part.out.tell() == 2000:
            loop.call_soon_threadsafe(taking.set)
        return taken

    monkeypatch.setattr(Part, "take", told)
    fetching = asyncio.create_task(aclient.job("recorded").download(tmp_path))
    await asyncio.wait_for(taking.wait(), 10)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    ((name, part),) = read(tmp_path).items()
    assert name.endswith(".part")
    assert len(part) >= 2000
    assert stored["model.safetensors"].startswith(part)
    monkeypatch.undo()
    fake.requests.clear()
    await aclient.job("recorded").download(tmp_path)
    assert fake.asked(artifact_service_pb2.ReadArtifactRequest)[0].offset == len(part)
    assert read(tmp_path) == stored


async def test_many_results_are_fetched_at_a_time(
    fake: FakeServer, aclient: AsyncClient, stored: dict[str, bytes], tmp_path: Path
) -> None:
    folders = [tmp_path / str(number) for number in range(40)]
    await asyncio.gather(*(aclient.job("recorded").download(folder) for folder in folders))
    assert all(read(folder) == stored for folder in folders)


async def test_where_the_store_is_a_bucket_content_goes_past_the_conductor(file: Path, tmp_path: Path) -> None:
    with s3_server() as url:
        make_bucket(url, "aio")
        location = f"s3://aio/one?endpoint_url={url}"
        command = [sys.executable, "-m", "diminuendo.client.cli.main", "conductor", "--artifacts", location]
        command += ["--data-dir", str(tmp_path / "data"), "--port", "0", "--http-port", "0"]
        child = Child(command, log=tmp_path / "conductor.log")
        try:
            ready = await asyncio.to_thread(child.read_line, "ready ", timeout_s=30)
            async with AsyncClient(ready.split()[1].partition("=")[2]) as client:
                assert (await client.upload(file)).sha256 == SHA256
                assert client._connection.without_urls == set()
                assert open_store(location).get(SHA256) == CONTENT
                out = tmp_path / "out"
                out.mkdir()
                (out / f".w.{SHA256[:16]}.part").write_bytes(CONTENT[:100_000])  # what another try left
                await downloading.download(client._connection, [ResultFile("w", SHA256, len(CONTENT))], out)
                assert (out / "w").read_bytes() == CONTENT
                assert client._connection.without_urls == set()
        finally:
            child.stop(timeout_s=15)


async def test_a_store_that_cannot_be_reached_is_gone_round(
    fake: FakeServer, aclient: AsyncClient, file: Path, tmp_path: Path, free_port: int
) -> None:
    fake.url = f"http://127.0.0.1:{free_port}/nobody"
    await aclient.upload(file)
    assert fake.contents == {SHA256: CONTENT}
    out = tmp_path / "out"
    await downloading.download(aclient._connection, [ResultFile("w", SHA256, len(CONTENT))], out)
    assert (out / "w").read_bytes() == CONTENT
    assert aclient._connection.without_urls == {"put", "get"}
