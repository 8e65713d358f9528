"""A whole server as its user starts it: ready line, health, restarts, signals, mistakes, nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.waiting import until


@dataclass
class Serve:
    """A running `diminuendo serve`."""

    process: subprocess.Popen[str]
    data: Path
    grpc: str = ""
    http: str = ""

    def child(self, name: str) -> psutil.Process | None:
        """The service's process, when it runs."""
        for process in psutil.Process(self.process.pid).children():
            try:
                if f"diminuendo.services.{name}" in process.cmdline():
                    return process
            except psutil.Error:
                continue
        return None

    def everything(self) -> list[psutil.Process]:
        """Every process below, Ray's included."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def log(self, name: str) -> str:
        path = self.data / "logs" / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def serving(self) -> bool:
        with grpc.insecure_channel(self.grpc) as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
            except grpc.RpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def ray_folder(self) -> Path:
        """The folder of this server's local Ray, once its raylet has started."""
        assert until(lambda: bool(self._sockets()))
        return Path(self._sockets().pop().partition("=")[2]).parents[3]

    def _sockets(self) -> set[str]:
        return {a for p in self.everything() for a in _cmdline(p) if a.startswith("--raylet_socket_name=")}


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def command(data: Path, *options: str) -> list[str]:
    module = [sys.executable, "-m", "diminuendo.services.serve", "--data-dir", str(data), "--evaluators", "1"]
    return [*module, "--port", "0", "--http-port", "0", *options]


@contextmanager
def started(folder: Path, *, coordinating: bool = True) -> Iterator[Serve]:
    data, home = folder / "data", folder / "home"
    home.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"HOME": str(home)}
    process = subprocess.Popen(
        command(data), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    serve = Serve(process, data)
    below: list[psutil.Process] = []
    try:
        assert process.stdout is not None
        found = re.fullmatch(r"ready grpc=(127\.0\.0\.1:\d+) http=(127\.0\.0\.1:\d+)\n", process.stdout.readline())
        assert found
        serve.grpc, serve.http = found[1], found[2]
        if coordinating:
            assert until(lambda: '"coordinating"' in serve.log("coordinator"))
        below = serve.everything()
        yield serve
    finally:
        process.kill()
        process.communicate()
        _, alive = psutil.wait_procs(below, timeout=20)
        for p in alive:
            p.kill()


def test_it_is_healthy_and_restarts_what_is_killed(tmp_path: Path) -> None:
    with started(tmp_path) as serve:
        assert serve.serving()
        with urllib.request.urlopen(f"http://{serve.http}/readyz", timeout=5) as answer:
            assert answer.status == 200

        coordinator, conductor = serve.child("coordinator"), serve.child("conductor")
        assert coordinator is not None
        assert conductor is not None
        below, folder = coordinator.children(recursive=True), serve.ray_folder()
        assert len(below) >= 6
        coordinator.kill()
        _, alive = psutil.wait_procs(below, timeout=30)  # Ray's agents alone would stay for a minute
        assert alive == []
        assert until(lambda: not folder.exists())
        assert until(lambda: serve.log("coordinator").count('"coordinating"') == 2)
        assert conductor.is_running()

        conductor.kill()
        conductor.wait(10)
        assert until(serve.serving)  # at the same address
        assert until(lambda: serve.child("conductor") is not None)
        assert list((tmp_path / "home").iterdir()) == []

        everything, folder = serve.everything(), serve.ray_folder()
        serve.process.send_signal(signal.SIGTERM)
        stdout, stderr = serve.process.communicate(timeout=20)
        assert serve.process.returncode == 0
        assert stdout == ""
        assert [p for p in everything if p.is_running()] == []
        assert not folder.exists()
        # What a person at the terminal sees: that two services ended and are started again.
        assert [line for line in stderr.splitlines() if "child_ended" not in line] == []
        assert len(stderr.splitlines()) == 2


def test_ctrl_c_while_ray_starts_leaves_nothing(tmp_path: Path) -> None:
    with started(tmp_path, coordinating=False) as serve:
        folder, everything = serve.ray_folder(), serve.everything()
        serve.process.send_signal(signal.SIGINT)
        _, stderr = serve.process.communicate(timeout=20)
        assert serve.process.returncode == 0
        assert stderr == ""
        assert [p for p in everything if p.is_running()] == []
        assert not folder.exists()
        assert '"stopped"' in serve.log("conductor")


def test_even_a_sigkill_leaves_nothing(tmp_path: Path) -> None:
    with started(tmp_path) as serve:
        everything, folder = serve.everything(), serve.ray_folder()
        serve.process.kill()
        _, alive = psutil.wait_procs(everything, timeout=20)
        assert alive == []
        assert not folder.exists()


@pytest.mark.parametrize("option", ["--port", "--http-port"])
def test_a_port_in_use(tmp_path: Path, option: str) -> None:
    data = tmp_path / "data"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = subprocess.run(command(data, option, port), capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert option in line
    assert port in line
    assert not data.exists()


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    ended = subprocess.run(command(file / "data"), capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"error: --data-dir '{file / 'data'}'")
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_text() == "mine"


def test_a_mistake_leaves_a_folder_as_it_was(tmp_path: Path) -> None:
    """A second server on the same folder must not touch the first one's logs."""
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "conductor.log").write_text("the first one's\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = subprocess.run(command(tmp_path, "--port", port), capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert (logs / "conductor.log").read_text().startswith("the first one's\n")


@pytest.mark.parametrize(
    ("option", "value", "part"),
    [("--evaluators", "0", "evaluators=0"), ("--port", "70000", "port=70000"), ("--lease-s", "nan", "lease_s=nan")],
)
def test_a_setting_that_cannot_be(tmp_path: Path, option: str, value: str, part: str) -> None:
    ended = subprocess.run(command(tmp_path / "data", option, value), capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert part in line
    assert not (tmp_path / "data").exists()


def test_serve_imports_neither_ray_nor_torch() -> None:
    code = "import sys, diminuendo.services.serve.command; print([m for m in ('ray', 'torch') if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "[]\n"
