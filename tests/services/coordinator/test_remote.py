"""A coordinator that a remote Ray cluster runs: a real head with its dashboard and a token, over the Jobs REST API."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from diminuendo.v1 import job_pb2
from tests.services.coordinator.conftest import ROOT, Server
from tests.waiting import until

from diminuendo.services.common.rayjobs import LABEL
from diminuendo.services.coordinator.remote import options
from diminuendo.services.coordinator.settings import CoordinatorSettings


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@dataclass
class Head:
    """A Ray cluster of one node that is none of ours."""

    url: str
    environment: dict[str, str]

    def coordinator(self, *options: str, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "diminuendo.services.coordinator", "--ray-address", self.url, *options]
        return subprocess.Popen(command, env=self.environment | environment, stderr=subprocess.PIPE, text=True)


def answers(url: str, token: str) -> bool:
    request = urllib.request.Request(f"{url}/api/version", headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {
        "PATH": path,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on loopback only
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    environment.pop("RAY_ADDRESS", None)
    folder, dashboard = tempfile.mkdtemp(prefix="r", dir="/tmp"), free_port()
    options = {
        "num-cpus": 2,
        "port": free_port(),
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": free_port(),
        "node-ip-address": "127.0.0.1",
        "temp-dir": folder,
    }
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block"]
    command += [f"--{name}={value}" for name, value in options.items()]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{dashboard}"
    try:
        assert until(lambda: answers(url, environment["RAY_AUTH_TOKEN"]), timeout_s=90)
        yield Head(url, environment)
    finally:
        everybody = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        process.send_signal(signal.SIGTERM)
        psutil.wait_procs(everybody, timeout=15)
        for left in everybody:
            if left.is_running():
                left.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def leased(server: Server, name: str) -> bool:
    return server.get(name).state == job_pb2.JOB_STATE_RUNNING


@pytest.mark.apart
def test_a_remote_cluster_runs_the_coordinator(head: Head, mortal: Server, tmp_path: Path) -> None:
    """It takes a job; who follows it may be started again, finds it there, and stops it."""
    job = mortal.create().name
    where = ("--conductor", mortal.conductor.target, "--artifacts", str(tmp_path / "artifacts"), "--name", "far")
    first = head.coordinator(*where)
    assert until(lambda: leased(mortal, job), timeout_s=120)
    first.kill()
    first.communicate()
    second = head.coordinator(*where)
    assert second.stderr is not None
    seen = next(line for line in second.stderr if "remote_submitted" in line)
    assert LABEL in seen
    assert mortal.get(job).epoch == 1, "it went on meanwhile"
    second.send_signal(signal.SIGTERM)
    _, said = second.communicate(timeout=60)
    assert second.returncode == 0
    assert "remote_stopped" in said
    assert mortal.get(job).state == job_pb2.JOB_STATE_QUEUED, "it gave the job back"


@pytest.mark.apart
def test_a_wrong_token_is_told(head: Head) -> None:
    refused = head.coordinator("--conductor", "127.0.0.1:1", RAY_AUTH_TOKEN=secrets.token_hex(32))
    _, said = refused.communicate(timeout=60)
    assert refused.returncode == 2
    assert "error: ray-address=" in said
    assert "RAY_AUTH_TOKEN" in said


def test_no_cluster_is_told() -> None:
    command = [
        sys.executable,
        "-m",
        "diminuendo.services.coordinator",
        "--ray-address",
        f"http://127.0.0.1:{free_port()}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "no Jobs REST API there" in done.stderr
    assert done.stderr.count("\n") <= 1


def test_the_coordinator_over_there_is_told_everything() -> None:
    """Each setting has its flag: what is set here and not passed on would be lost without a word."""
    given: dict[str, Any] = {
        "conductor": "here:1",
        "artifacts": "there",
        "evaluators": 3,
        "evaluator_memory_gb": 1.5,
        "evaluator_gpus": 0.5,
        "idle_s": 60.0,
        "jobs": 2,
        "name": "far",
        "project": "vision",
        "work_timeout_s": 9.0,
        "log_level": "debug",
        "traces": "http://collector:4317",
        "token_file": Path("/run/token"),
        "tls": True,
        "ca_file": Path("/run/ca.crt"),
        "cert_file": Path("/run/tls.crt"),
        "key_file": Path("/run/tls.key"),
        "allow_insecure_token": True,
    }
    own = {"with_parent", "log_style", "ray_address", "token"}
    assert given.keys() == CoordinatorSettings.model_fields.keys() - own, "a setting that this test does not know"
    settings = CoordinatorSettings.load(ray_address="http://head:8265", **given)
    words = list(options(settings))
    flags = {name: value for name, value in zip(words, [*words[1:], ""], strict=True) if name.startswith("--")}
    assert flags.pop("--ray-address") == "auto"
    assert flags.keys() == {f"--{name.replace('_', '-')}" for name in given}
    for name, value in given.items():
        if value is not True:
            assert flags[f"--{name.replace('_', '-')}"] == str(value)
