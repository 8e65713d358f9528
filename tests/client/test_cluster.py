"""What computes, as clients are told of it: a real conductor, told by what stands for coordinators."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import grpc
import pytest
from diminuendo.v1 import cluster_service_pb2, coordinator_service_pb2, coordinator_service_pb2_grpc, job_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console

from diminuendo.client import Client, Cluster, ClusterNode, Coordinator, Evaluator, EvaluatorState, ServerError
from diminuendo.client.child import Child
from diminuendo.client.display.cluster import NOBODY, cluster_view, counts, doing
from diminuendo.client.display.follow import follow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.client.conftest import FakeServer, Recorded, Run

JOB = "projects/default/jobs/a"
SINCE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
BUSY = Evaluator("evaluator-0", EvaluatorState.BUSY, JOB, "evaluate", 12, "first 7.5x", 2, SINCE, "host-1", 1.0, 0.5)
IDLE = Evaluator("evaluator-1", EvaluatorState.IDLE, since=SINCE, node="host-1", cpus=1.0)


def told(name: str) -> cluster_service_pb2.Coordinator:
    since = Timestamp()
    since.FromDatetime(SINCE)
    busy = job_pb2.EvaluatorStatus(
        evaluator="evaluator-0", work="first 7.5x", state=job_pb2.EVALUATOR_STATE_BUSY, job=JOB, kind="evaluate",
        index=12, attempt=2, since=since, node="host-1", cpus=1.0, gpus=0.5,
    )  # fmt: skip
    idle = job_pb2.EvaluatorStatus(
        evaluator="evaluator-1", state=job_pb2.EVALUATOR_STATE_IDLE, since=since, node="host-1", cpus=1.0
    )
    nodes = [
        cluster_service_pb2.ClusterNode(name="host-1", alive=True, cpus=8.0, gpus=1.0, memory_bytes=2.5 * 2**30),
        cluster_service_pb2.ClusterNode(name="host-2", cpus=8.0, gpus=4.0),
    ]
    return cluster_service_pb2.Coordinator(
        name=name, version="1.2", ray_address="local", start_time=since, evaluators=[busy, idle], nodes=nodes,
        works_waiting=3, jobs=[JOB],
    )  # fmt: skip


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A conductor process."""
    folder = tmp_path_factory.mktemp("conductor")
    command = [sys.executable, "-m", "diminuendo.client.cli.main", "conductor", "--data-dir", str(folder / "data")]
    child = Child([*command, "--port", "0", "--http-port", "0"], log=folder / "conductor.log")
    yield child.read_line("ready ", timeout_s=60).split()[1].removeprefix("grpc=")
    child.stop(timeout_s=15)


@pytest.fixture
def reported(target: str) -> Iterator[str]:
    """A conductor that two coordinators have told of themselves."""
    with grpc.insecure_channel(target) as channel:
        stub = coordinator_service_pb2_grpc.CoordinatorServiceStub(channel)
        for name in ("c1", "c2"):
            coordinator = told(name)
            if name == "c2":
                del coordinator.evaluators[:]
            stub.ReportCluster(coordinator_service_pb2.ReportClusterRequest(coordinator=coordinator), timeout=10)
        yield target
        for name in ("c1", "c2"):
            leaving = coordinator_service_pb2.ReportClusterRequest(coordinator=told(name), leaving=True)
            stub.ReportCluster(leaving, timeout=10)


def test_the_cluster_is_told_whole(reported: str) -> None:
    with Client(reported) as client:
        found = client.cluster()
    first, second = found.coordinators
    assert first.update_time is not None
    assert abs(first.update_time - datetime.now(UTC)) < timedelta(seconds=30)
    nodes = ClusterNode("host-1", True, 8.0, 1.0, 2.5 * 2**30), ClusterNode("host-2", False, 8.0, 4.0, 0.0)
    assert first == Coordinator("c1", "1.2", "local", SINCE, first.update_time, (BUSY, IDLE), nodes, 3, (JOB,))
    assert (second.name, second.evaluators) == ("c2", ())
    assert found.evaluators == (BUSY, IDLE)
    assert found.gpus == 2.0, "those of nodes that are gone do not count"
    assert [found.count(state) for state in (EvaluatorState.BUSY, EvaluatorState.IDLE, EvaluatorState.LOST)] == [
        1,
        1,
        0,
    ]


def test_of_a_job_only_what_works_on_it(reported: str) -> None:
    with Client(reported) as client:
        assert [c.name for c in client.cluster("a").coordinators] == ["c1"]
        assert client.cluster(JOB).evaluators == client.job("a").evaluators() == (BUSY,)
        assert client.cluster("b") == Cluster(())
        assert client.job("b").evaluators() == ()


def test_a_server_that_is_too_old_says_so(fake: FakeServer, client: Client) -> None:
    with pytest.raises(ServerError):
        client.cluster()


def test_the_status_on_the_command_line(reported: str, run_here: Run) -> None:
    lines = run_here("cluster", "status", "--server", reported).stdout.splitlines()
    assert lines[0].startswith("coordinator c1  version 1.2, ray local, up ")
    assert lines[0].endswith(", 1 job, 3 works waiting")
    assert lines[2].split() == ["host-1", "alive", "8", "1", "2.5", "GB"]
    assert lines[3].split() == ["host-2", "gone", "8", "4"]
    busy, idle = lines[5].split(), lines[6].split()
    assert busy[:2] == ["evaluator-0", "busy"]
    assert busy[3:] == ["host-1", "0.5", "GPU", "default/a", "evaluate", "#12", "first", "7.5x,", "attempt", "2"]
    assert (idle[:2], idle[3:]) == (["evaluator-1", "idle"], ["host-1", "1", "CPU"])
    assert lines[7] == "2 evaluators: 1 busy, 1 idle"
    assert lines[9].startswith("coordinator c2 ")
    assert lines[-1] == "0 evaluators: none"


def test_the_status_as_json(reported: str, run_here: Run) -> None:
    data = json.loads(run_here("cluster", "status", "--server", reported, "--output", "json").stdout)
    first = data["coordinators"][0]
    assert (first["name"], first["works_waiting"], first["start_time"]) == ("c1", 3, SINCE.isoformat())
    assert first["evaluators"][0] | {"since": ""} == {
        "name": "evaluator-0", "state": "BUSY", "job": JOB, "kind": "evaluate", "index": 12, "subject": "first 7.5x",
        "attempt": 2, "since": "", "node": "host-1", "cpus": 1.0, "gpus": 0.5,
    }  # fmt: skip


def test_nobody_computes(target: str, run_here: Run) -> None:
    assert run_here("cluster", "status", "--server", target).stdout.strip() == NOBODY


def test_watching_shows_it_again_until_it_is_interrupted(target: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "diminuendo.client.cli.main", "cluster", "status", "--watch", "--output", "json"]
    watching = subprocess.Popen([*command, "--server", target], stdout=subprocess.PIPE, text=True)
    assert watching.stdout is not None
    with watching.stdout:
        assert [json.loads(watching.stdout.readline()) for _ in range(2)] == [{"coordinators": []}] * 2
        watching.send_signal(signal.SIGINT)
        assert watching.wait(20) == 130


class Screen(io.StringIO):
    """A terminal's output, and a way to wait for what is to be on it."""

    def __init__(self) -> None:
        super().__init__()
        self._more = threading.Condition()

    def write(self, text: str) -> int:
        with self._more:
            self._more.notify_all()
            return super().write(text)

    def has(self, wanted: str, timeout_s: float = 20) -> bool:
        with self._more:
            return self._more.wait_for(lambda: wanted in self.getvalue(), timeout_s)


def test_who_follows_a_job_on_a_terminal_sees_what_works_on_it(reported: str) -> None:
    screen = Screen()
    console = Console(file=screen, width=80, height=24, force_terminal=True, color_system=None)
    with Client(reported) as client:
        job = client.submit("zoo:digits", job_id="a")
        following = threading.Thread(target=follow, args=(job, console))
        following.start()
        assert screen.has("evaluators: 1 busy")
        assert screen.has("evaluator-0   evaluate #12 first 7.5x, attempt 2")
        job.cancel()
        following.join(20)
        assert not following.is_alive()
    assert "CANCELLED" in screen.getvalue()


def test_who_follows_a_job_on_a_server_that_is_too_old_sees_the_rest(
    fake: FakeServer, client: Client, recorded: Recorded
) -> None:
    name = fake.add(recorded.job(), recorded.events())
    screen = Screen()
    assert follow(client.job(name), Console(file=screen, width=80, height=24, force_terminal=True)).name == name
    assert "SUCCEEDED" in screen.getvalue()


def rendered(cluster: Cluster, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None, record=True)
    console.print(cluster_view(cluster, SINCE + timedelta(seconds=75)))
    return console.export_text(styles=False).splitlines()


@pytest.mark.parametrize("width", [60, 80, 160])
def test_the_tables_fit(width: int) -> None:
    node = ClusterNode("host-1", True, 8.0, 1.0, 2**30)
    odd = Evaluator("evaluator-2", EvaluatorState.LOST, "[red]j\x1b[/red]", subject="[b]x\n" + "y" * 300, since=SINCE)
    coordinator = Coordinator("c", "1", "local", SINCE, SINCE, (BUSY, IDLE, odd), (node,), 0, ())
    lines = rendered(Cluster((coordinator,)), width)
    assert max(map(len, lines)) <= width
    assert "\x1b" not in "".join(lines)
    if width == 160:
        assert "1:15" in lines[4], "for so long"
        assert "[red]j" in lines[6]
        assert "for [b]x y" in lines[6]


def test_words_for_evaluators() -> None:
    starting = Evaluator("e", EvaluatorState.STARTING, JOB, subject="layer1")
    assert (doing(BUSY), doing(IDLE), doing(starting)) == ("evaluate #12 first 7.5x, attempt 2", "", "for layer1")
    assert counts([BUSY, IDLE, starting, BUSY]) == "2 busy, 1 idle, 1 starting"
    assert counts([]) == ""
