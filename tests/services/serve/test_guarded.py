"""A whole server with tokens and TLS: its own coordinator is let in, others by their tokens."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from diminuendo.v1 import cluster_service_pb2, cluster_service_pb2_grpc
from tests.certificates import Authority

TOKEN = "s3cret"


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[str]:
    """`diminuendo serve` with these options; HOST:PORT of its API."""
    command = [sys.executable, "-m", "diminuendo.services.serve", "--data-dir", str(folder / "data"), *options]
    command += ["--port", "0", "--http-port", "0", "--evaluators", "1", "--with-parent"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            pytest.fail(process.communicate()[1])
        yield line.split()[1].removeprefix("grpc=")
    finally:
        process.terminate()
        process.communicate(timeout=40)
    assert process.returncode == 0


@pytest.mark.apart
def test_its_own_coordinator_is_let_in(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    pair = authority.issue("server")
    sha256 = hashlib.sha256(TOKEN.encode()).hexdigest()
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(f'[[tokens]]\nname = "me"\nsha256 = "{sha256}"\nrole = "reader"\nprojects = "*"\n')
    options = ("--tokens-file", str(tokens), "--tls-cert-file", str(pair.cert), "--tls-key-file", str(pair.key))
    with serving(tmp_path, *options) as target:
        credentials = grpc.ssl_channel_credentials(authority.cert.read_bytes())
        with grpc.secure_channel(target, credentials) as channel:
            stub, request = (
                cluster_service_pb2_grpc.ClusterServiceStub(channel),
                cluster_service_pb2.GetClusterRequest(),
            )
            with pytest.raises(grpc.RpcError, match="takes no call without a token"):
                stub.GetCluster(request, timeout=10)
            who = (("authorization", f"Bearer {TOKEN}"),)
            deadline = time.monotonic() + 60
            while not (seen := stub.GetCluster(request, timeout=10, metadata=who).coordinators):
                assert time.monotonic() < deadline, (tmp_path / "data/logs/coordinator.log").read_text()[-3000:]
                time.sleep(0.2)
            assert [coordinator.name for coordinator in seen] == ["local"]
    logs = "".join(path.read_text() for path in (tmp_path / "data/logs").glob("*.log"))
    assert "token_refused" not in logs
    assert "Bearer" not in logs
    assert TOKEN not in logs


def test_a_mistake_is_told_as_the_conductor_tells_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "diminuendo.services.serve", "--data-dir", str(tmp_path / "data"), "--port", "0"]
    command += ["--http-port", "0", "--tokens-file", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: --tokens-file '{tmp_path}/none' cannot be read (No such file or directory); name another file\n"
    )
    assert not (tmp_path / "data").exists()
