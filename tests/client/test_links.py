"""Content by signed URLs: past the conductor where its store is a bucket, by gRPC where that cannot be done."""

from __future__ import annotations

import hashlib
import random
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from diminuendo.v1 import artifact_service_pb2
from tests.contract.artifacts import make_bucket, s3_server

from diminuendo.client import Client, ResultFile
from diminuendo.client.child import Child
from diminuendo.client.download import download
from diminuendo.engine.stores import open_store

if TYPE_CHECKING:
    from tests.client.conftest import FakeServer

CONTENT = random.Random(8).randbytes(1_200_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = ResultFile("model.safetensors", SHA256, len(CONTENT))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(CONTENT)
    return path


def page(address: str) -> str:
    """The conductor's metrics."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{address}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def test_where_the_store_is_a_bucket_content_goes_past_the_conductor(file: Path, tmp_path: Path) -> None:
    with s3_server() as url:
        make_bucket(url, "links")
        location = f"s3://links/one?endpoint_url={url}"
        command = [sys.executable, "-m", "diminuendo.client.cli.main", "conductor", "--artifacts", location]
        command += ["--data-dir", str(tmp_path / "data"), "--port", "0", "--http-port", "0"]
        child = Child(command, log=tmp_path / "conductor.log")
        try:
            grpc, http = (word.partition("=")[2] for word in child.read_line("ready ", timeout_s=30).split()[1:])
            with Client(grpc) as client:
                assert client.upload(file).sha256 == SHA256
                assert open_store(location).get(SHA256) == CONTENT
                out = tmp_path / "out"
                out.mkdir()
                (out / f".{FILE.name}.{SHA256[:16]}.part").write_bytes(CONTENT[:100_000])  # what another try left
                download(client._connection, [FILE], out)
                assert (out / FILE.name).read_bytes() == CONTENT
                seen = page(http)
                assert 'diminuendo_rpc_total{code="OK",method="CreateUploadUrl"} 1.0' in seen
                assert 'diminuendo_rpc_total{code="OK",method="CreateDownloadUrl"} 1.0' in seen
                called = {line for line in seen.splitlines() if line.startswith("diminuendo_rpc_total")}
                assert not any("WriteArtifact" in line or "ReadArtifact" in line for line in called)
        finally:
            child.stop(timeout_s=15)


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:9/nobody", "file:///etc/passwd", "nonsense"])
def test_what_cannot_go_by_a_url_goes_by_grpc_and_is_not_tried_again(
    fake: FakeServer, client: Client, file: Path, tmp_path: Path, url: str
) -> None:
    fake.url = url
    client.upload(file)
    assert fake.contents == {SHA256: CONTENT}
    fake.contents.clear()
    client.upload(file)
    assert len(fake.asked(artifact_service_pb2.CreateUploadUrlRequest)) == 1
    for folder in ("one", "two"):
        download(client._connection, [FILE], tmp_path / folder)
        assert (tmp_path / folder / FILE.name).read_bytes() == CONTENT
    assert len(fake.asked(artifact_service_pb2.CreateDownloadUrlRequest)) == 1
