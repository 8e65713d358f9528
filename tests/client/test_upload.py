"""Sending files: what is cut is gone on with, what the server has is not sent, what changes is found."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from diminuendo.v1 import artifact_service_pb2

from diminuendo.client import (
    Artifact,
    Client,
    InvalidArgumentError,
    ServerError,
    ServerUnavailableError,
    UploadError,
)

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


def test_a_file_goes_in_chunks_and_then_never_again(fake: FakeServer, client: Client, file: Path) -> None:
    assert client.upload(file) == Artifact(SHA256, len(CONTENT))
    assert fake.contents == {SHA256: CONTENT}
    assert sent(fake) == [(0, MIB), (MIB, MIB), (2 * MIB, MIB // 2)]
    assert client.upload(str(file)).sha256 == SHA256
    assert len(sent(fake)) == 3


def test_an_empty_file_is_stored_too(fake: FakeServer, client: Client, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    empty = hashlib.sha256(b"").hexdigest()
    assert client.upload(tmp_path / "empty") == Artifact(empty, 0)
    assert (fake.contents, sent(fake)) == ({empty: b""}, [(0, 0)])


def test_a_cut_is_gone_on_with_where_it_was(fake: FakeServer, client: Client, file: Path) -> None:
    fake.write_cuts += [MIB + 10, 0, 500]
    client.upload(file)
    assert fake.contents == {SHA256: CONTENT}
    offsets = [r.offset for r in fake.asked(artifact_service_pb2.WriteArtifactRequest) if r.sha256]
    assert offsets == [0, MIB + 10, MIB + 10, MIB + 510]


def test_a_later_try_goes_on_with_what_an_earlier_one_sent(fake: FakeServer, client: Client, file: Path) -> None:
    fake.write_cuts += [MIB] + [0] * 1000
    with pytest.raises(ServerUnavailableError):
        client.upload(file)
    fake.write_cuts.clear()
    fake.requests.clear()
    client.upload(file)
    assert sent(fake)[0] == (MIB, MIB)


def test_what_waits_to_be_stored_is_asked_for_without_data(fake: FakeServer, client: Client, file: Path) -> None:
    fake.arrived[SHA256] = CONTENT
    client.upload(file)
    assert fake.contents == {SHA256: CONTENT}
    assert sent(fake) == [(len(CONTENT), 0)]


@pytest.mark.parametrize("reason", ["CHUNK_DAMAGED", "UPLOAD_OFFSET"])
def test_a_chunk_that_is_refused_is_sent_again(
    fake: FakeServer, client: Client, file: Path, make_status: Status, reason: str
) -> None:
    code = grpc.StatusCode.DATA_LOSS if reason == "CHUNK_DAMAGED" else grpc.StatusCode.ABORTED
    fake.write_refusals.append(make_status(code, "again", reason=reason))
    client.upload(file)
    assert fake.contents == {SHA256: CONTENT}


def test_damage_is_sent_again_once(fake: FakeServer, client: Client, file: Path, make_status: Status) -> None:
    damaged = make_status(grpc.StatusCode.DATA_LOSS, "damaged", reason="ARTIFACT_DAMAGED")
    fake.write_refusals.append(damaged)
    client.upload(file)
    fake.contents.clear()
    fake.write_refusals += [damaged] * 2
    with pytest.raises(UploadError, match=f"arrived damaged twice .its sha256 is {SHA256}"):
        client.upload(file)


def test_a_file_that_changes_while_it_is_sent_is_an_error(
    fake: FakeServer, client: Client, file: Path, make_status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written to after its sha256 was taken; what another length shows at once, the server finds else."""
    from diminuendo.client import upload as module

    real, edits = module.measure, [CONTENT[:MIB], b"x" + CONTENT[1:]]

    def measure(path: Path) -> Artifact:
        content = real(path)
        if edits:
            path.write_bytes(edits.pop(0))
        return content

    monkeypatch.setattr(module, "measure", measure)
    with pytest.raises(UploadError, match="changed while it was sent"):
        client.upload(file)
    file.write_bytes(CONTENT)
    with monkeypatch.context() as gone:
        gone.setattr(module, "measure", lambda path: (real(path), path.unlink())[0])
        with pytest.raises(FileNotFoundError):
            client.upload(file)
    file.write_bytes(CONTENT)
    fake.arrived.clear()
    fake.write_refusals.append(make_status(grpc.StatusCode.DATA_LOSS, "damaged", reason="ARTIFACT_DAMAGED"))
    with pytest.raises(UploadError, match="changed while it was sent"):
        client.upload(file)
    assert fake.contents == {}


def test_other_refusals_are_not_tried_again(fake: FakeServer, client: Client, file: Path, make_status: Status) -> None:
    fake.write_refusals.append(make_status(grpc.StatusCode.DATA_LOSS, "broken", reason="OTHER"))
    with pytest.raises(ServerError, match="broken"):
        client.upload(file)
    large = make_status(grpc.StatusCode.INVALID_ARGUMENT, "", violations=(("size_bytes", "is too large"),))
    fake.refusals.append(large)
    with pytest.raises(InvalidArgumentError, match="size_bytes: is too large"):
        client.upload(file)
    with pytest.raises(FileNotFoundError):
        client.upload(file.with_name("none"))
