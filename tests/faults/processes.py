"""The real processes of a cell: a conductor, and a coordinator with its Ray, all of them found by a mark."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import psutil
from tests.e2e.server import MARK, marked
from tests.faults.gate import ADDRESS

ROOT = Path(__file__).parents[2]
GCS_PATIENCE_S = 2
"""How long Ray's processes wait for a head that is gone. Ray's default is 60 s."""


class Conductor:
    """A conductor on a database of its own, on any port, which may be killed and started again."""

    def __init__(self, folder: Path, *, database: str, artifacts: Path, lease_s: float) -> None:
        """Nothing runs yet.

        Args:
            database: Its URL.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._database, self._artifacts, self._lease_s = folder, database, artifacts, lease_s
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> str:
        """Start it; HOST:PORT once it serves."""
        command = [sys.executable, "-m", "diminuendo.services.conductor", "--data-dir", str(self._folder / "data")]
        command += ["--port", "0", "--http-port", "0", "--lease-s", str(self._lease_s), "--with-parent"]
        command += ["--database", self._database, "--artifacts", str(self._artifacts)]
        with (self._folder / "conductor.log").open("a") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=_environment())
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        found = re.fullmatch(r"ready grpc=(\S+) http=\S+\n", line)
        assert found, line
        return found[1]

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            assert self._process.stdout is not None
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            self._process = None


class Coordinator:
    """A coordinator and all that it starts."""

    def __init__(self, log: Path, *, conductor: str, artifacts: Path, name: str, worker: str, gate: str) -> None:
        """Start it; it leases jobs as soon as its Ray is up."""
        self._mark = uuid.uuid4().hex
        command = [sys.executable, "-m", "tests.faults.launch", worker, "--conductor", conductor, "--name", name]
        command += ["--artifacts", str(artifacts), "--evaluators", "2", "--with-parent"]
        environment = _environment() | {
            MARK: self._mark,
            ADDRESS: gate,
            "RAY_gcs_rpc_server_reconnect_timeout_s": str(GCS_PATIENCE_S),
        }
        with log.open("a") as file:
            self._process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)

    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def ray_head(self) -> psutil.Process:
        """The GCS server of its Ray."""
        return next(p for p in psutil.Process(self._process.pid).children(recursive=True) if p.name() == "gcs_server")

    def pause(self) -> None:
        """SIGSTOP, to it alone: its evaluators go on."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL to it, and then to what it leaves behind."""
        self._process.kill()
        self._process.wait()
        left = marked(self._mark)
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=10)


def _environment() -> dict[str, str]:
    """Ours, with the tests' modules to be found, and without settings of somebody's Ray."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"PYTHONPATH": path}
