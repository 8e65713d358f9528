"""A local Ray: where it listens, what it leaves behind, what it refuses."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from tests.waiting import until

from diminuendo.services.common.errors import StartError
from diminuendo.services.coordinator import scratch
from diminuendo.services.coordinator.cluster import Cluster, Share, _remote
from diminuendo.services.coordinator.environment import isolate

AGENTS = {"ray::DashboardAgent", "ray::RuntimeEnvAgent"}
"""They notice after a minute that their cluster is gone, and end then; `serve` ends them at once."""


def below(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def test_it_listens_on_loopback_only(cluster: Cluster) -> None:
    assert cluster == Cluster(2, Share(1.0, 0.0))
    servers = {
        (process.name(), connection.laddr.ip)
        for process in (psutil.Process(), *below(os.getpid()))
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert "gcs_server" in {name for name, _ in servers}
    assert {address for _, address in servers} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def test_its_environment_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"RAY_ADDRESS": "elsewhere:6379", "RAY_AUTH_MODE": "disabled", "HOME": "/home/x"}
    isolate(environment)
    assert "RAY_ADDRESS" not in environment
    assert environment["RAY_AUTH_MODE"] == "token"
    token = environment["RAY_AUTH_TOKEN"]
    assert re.fullmatch("[0-9a-f]{64}", token)
    isolate(environment)
    assert environment["RAY_AUTH_TOKEN"] == token  # the processes of one cluster share it
    other: dict[str, str] = {}
    isolate(other)
    assert other["RAY_AUTH_TOKEN"] != token


FORKS = """
import subprocess, threading
from concurrent import futures
import diminuendo.services.coordinator.command
import grpc

handler = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
server = grpc.server(futures.ThreadPoolExecutor(2))
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("s", {"echo": handler})])
port = server.add_insecure_port("127.0.0.1:0")
server.start()
over = threading.Event()

def calls():
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        while not over.is_set():
            channel.unary_unary("/s/echo")(b"x", timeout=10)

threads = [threading.Thread(target=calls) for _ in range(2)]
for thread in threads:
    thread.start()
assert {subprocess.Popen(["true"], preexec_fn=lambda: None).wait(10) for _ in range(300)} == {0}
over.set()
for thread in threads:
    thread.join()
server.stop(None).wait()
"""
"""Starts processes as Ray does, with calls of gRPC under way."""


def test_grpc_has_no_part_in_the_forks_that_ray_makes() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "GRPC_ENABLE_FORK_SUPPORT"}
    command = [sys.executable, "-c", FORKS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_ray_client_is_refused() -> None:
    with pytest.raises(StartError, match=r"ray-address='ray://head:10001'.*HOST:PORT"), _remote("ray://head:10001"):
        pass


def test_a_folder_is_removed_at_the_end_and_when_its_owner_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "base_folder", lambda: tmp_path)
    abandoned = tmp_path / f"{scratch.PREFIX}abandoned"
    abandoned.mkdir()
    (abandoned / "lock").touch()
    (abandoned / "r").mkdir()
    with scratch.scratch_folder() as first:
        assert not abandoned.exists()
        with scratch.scratch_folder() as second:  # the first one is in use, and stays
            assert first.exists()
            assert second.exists()
        assert not second.exists()
        assert first.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_coordinator_leaves_no_cluster_and_no_file_at_home(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-m", "diminuendo.services.coordinator", "--conductor", "127.0.0.1:1"]
    command += ["--artifacts", str(tmp_path / "artifacts"), "--evaluators", "1"]
    home = tmp_path / "home"
    home.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"HOME": str(home)}
    left: list[psutil.Process] = []
    with log.open("w") as stderr:
        process = subprocess.Popen(command, stderr=stderr, stdout=stderr, env=environment)
    try:
        assert until(lambda: '"coordinating"' in log.read_text()), log.read_text()
        left = below(process.pid)
        assert {"raylet", "gcs_server"} <= {p.name() for p in left}
        process.send_signal(signal.SIGKILL)
        process.wait()
        _, alive = psutil.wait_procs([p for p in left if p.name() not in AGENTS], timeout=20)
        assert alive == []
        assert list(home.iterdir()) == []
        scratch.remove_abandoned()
    finally:
        process.kill()
        for p in left:
            if p.is_running():
                p.kill()
