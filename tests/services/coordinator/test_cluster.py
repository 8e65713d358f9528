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
from tests.services.coordinator.conftest import until

from diminuendo.services.common.errors import StartError
from diminuendo.services.coordinator import cluster as cluster_module
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


class SlowRay:
    """Stands for ray's module: the first starts time out, and leave a process behind."""

    def __init__(self, slow: int, error: str = "Timed out waiting for file gcs_server_port") -> None:
        self.slow, self.error = slow, error
        self.left: list[subprocess.Popen[bytes]] = []
        self.shutdowns = 0

    def init(self, *, _temp_dir: str, **_: object) -> None:
        if len(self.left) < self.slow:
            self.left.append(subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()", _temp_dir]))
            raise RuntimeError(self.error)

    def shutdown(self) -> None:
        self.shutdowns += 1


@pytest.mark.parametrize("slow", [0, 1, 2])
def test_a_local_ray_that_starts_slowly_is_started_again(monkeypatch: pytest.MonkeyPatch, slow: int) -> None:
    fake = SlowRay(slow)
    monkeypatch.setattr(cluster_module, "ray", fake)
    with cluster_module._local(2):
        assert [psutil.pid_exists(process.pid) for process in fake.left] == [False] * slow
    assert fake.shutdowns == slow + 1
    assert not any(process.wait(10) for process in fake.left)


def test_a_local_ray_that_does_not_start_is_told_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SlowRay(99)
    monkeypatch.setattr(cluster_module, "ray", fake)
    with pytest.raises(StartError, match=r"did not start in 3 attempts .*gcs_server_port.*try again later"):
        cluster_module._local(2).__enter__()
    assert [psutil.pid_exists(process.pid) for process in fake.left] == [False] * 3
    assert not any(process.wait(10) for process in fake.left)
    other = SlowRay(1, "no such option")
    monkeypatch.setattr(cluster_module, "ray", other)
    with pytest.raises(RuntimeError, match="no such option"):
        cluster_module._local(2).__enter__()
    other.left[0].kill()
    other.left[0].wait(10)


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
        assert until(lambda: '"coordinating"' in log.read_text(), 60), log.read_text()
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
