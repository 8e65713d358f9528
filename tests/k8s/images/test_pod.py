"""The conductor's pod as the chart renders it, from the control image: used from outside, and stopped under load."""

from __future__ import annotations

import copy
import shutil
import socket
import statistics
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.k8s.chart.helm import Helm4
from tests.k8s.images.containers import Objects, Pod
from tests.k8s.images.test_images import CONTROL, needed

from diminuendo.client import Client, ClientConfig

pytestmark = pytest.mark.k8s

READY_S = 10.0
IDLE_MIB = 150
CLIENTS = 4
GRPC, HTTP = 50300, 50301


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def manifests() -> list[Any]:
    image = needed(CONTROL)
    if reason := Helm4.missing():
        pytest.skip(reason)
    repository, _, tag = image.rpartition(":")
    values = {"image": {"control": {"repository": repository, "tag": tag}}, "ray": {"mode": "none"}}
    with Helm4() as helm:
        return list(helm.template(values))


class Running:
    """A pod with the ports that it has on this machine."""

    def __init__(self, pod: Pod, grpc: int, http: int) -> None:
        self.pod, self.target, self._http = pod, f"127.0.0.1:{grpc}", f"http://127.0.0.1:{http}/readyz"

    def ready_within(self, seconds: float) -> float:
        """Seconds until it says that it is ready, asked again whenever it answers that it is not."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            try:
                with urllib.request.urlopen(self._http, timeout=1) as answer:
                    if answer.status == 200:
                        return time.monotonic() - began
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.05)  # nothing tells of a container's health but asking, as a kubelet does
        raise AssertionError(f"it is not ready after {seconds} s:\n{self.pod.logs()}")


@contextmanager
def run(manifests: list[Any], folder: Path, *, command: tuple[str, ...] = ()) -> Iterator[Running]:
    """The Deployment's pod, ready; with another entry point where one is given."""
    (deployment,) = [one for one in manifests if one["kind"] == "Deployment"]
    template = copy.deepcopy(deployment["spec"]["template"]["spec"])
    if command:
        template["containers"][0]["command"] = command
    claims = {}
    for one in manifests:
        if one["kind"] == "PersistentVolumeClaim":
            claim = claims[one["metadata"]["name"]] = folder / one["metadata"]["name"]
            claim.mkdir()
            shutil.chown(claim, template["securityContext"]["fsGroup"], template["securityContext"]["fsGroup"])
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    grpc, http = free_port(), free_port()
    with Pod(template, Objects(manifests, claims), folder=folder / "files", ports={GRPC: grpc, HTTP: http}) as pod:
        found = Running(pod, grpc, http)
        found.ready_within(60)
        yield found


@pytest.fixture
def running(manifests: list[Any], tmp_path: Path) -> Iterator[Running]:
    with run(manifests, tmp_path) as found:
        yield found


def test_it_becomes_ready_small_and_serves_from_outside(running: Running) -> None:
    with Client(running.target) as client:
        job = client.submit("zoo:digits", delta=1.0, labels={"from": "outside"})
        assert [info.name for info in client.list(labels={"from": "outside"})] == [job.name]
    idle = running.pod.resident_mib()
    print(f"idle: {idle:.0f} MiB")
    assert idle < IDLE_MIB, f"{idle:.0f} MiB"


def test_it_stops_within_its_grace_under_load_and_loses_no_call(running: Running) -> None:
    """Its clients are answered or try again by themselves; its successor on the same volume has every job once."""
    config = ClientConfig(timeout_s=60.0, connect_s=60.0, patience_s=60.0)
    stopped, over = threading.Event(), threading.Event()
    counts, errors = [0] * CLIENTS, list[BaseException]()

    def submit(number: int) -> None:
        try:
            with Client(running.target, config=config) as client:
                while not over.is_set():
                    client.submit("zoo:digits", job_id=f"job-{number}-{counts[number]}")
                    counts[number] += 1
        except BaseException as error:  # noqa: BLE001 - each counts as a call that was lost
            errors.append(error)

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    while min(counts) < 20 and not errors:
        stopped.wait(0.01)
    before, began = sum(counts), time.monotonic()
    status = running.pod.stop()
    took = time.monotonic() - began
    running.pod.again()
    running.ready_within(READY_S)
    while sum(counts) < before + 20 * CLIENTS and not errors:
        stopped.wait(0.01)
    over.set()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert status == 0
    assert took < running.pod.grace_s
    with Client(running.target) as client:
        names = [info.job_id for info in client.list()]
    assert sorted(names) == sorted(f"job-{n}-{i}" for n, count in enumerate(counts) for i in range(count))


def test_killed_it_is_ready_again_in_seconds(running: Running) -> None:
    took = []
    for _ in range(3):
        began = time.monotonic()
        running.pod.kill()
        running.pod.again()
        running.ready_within(READY_S)
        took.append(time.monotonic() - began)
    assert statistics.median(took) < READY_S, took
    print(f"from kill to ready again: {', '.join(f'{one:.1f}' for one in took)} s")


def test_it_is_small_with_the_kubernetes_client_too(manifests: list[Any], tmp_path: Path) -> None:
    """Which a conductor imports that makes RayClusters: ahead of it here, since there is no API to talk to."""
    code = "import sys, kubernetes.client, kubernetes.config, diminuendo.client.cli.main as m; sys.exit(m.main())"
    with run(manifests, tmp_path, command=("/opt/diminuendo/bin/python", "-c", code)) as running:
        idle = running.pod.resident_mib()
        print(f"idle with the kubernetes client: {idle:.0f} MiB")
        assert idle < IDLE_MIB, f"{idle:.0f} MiB"
