"""The client against a real conductor in a process of its own, also while that is killed and comes back."""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import threading
import zlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import grpc
import pytest
from diminuendo.v1 import artifact_service_pb2, artifact_service_pb2_grpc, coordinator_service_pb2_grpc
from diminuendo.v1 import coordinator_service_pb2 as wire
from tests.client.conductor import Conductor

from diminuendo.client import (
    AlreadyExistsError,
    Client,
    ClientConfig,
    ConflictError,
    DiminuendoError,
    Event,
    FailedPreconditionError,
    InvalidArgumentError,
    JobState,
    Leased,
    NotFoundError,
    StateChanged,
    StepCommitted,
    Updated,
)
from diminuendo.engine.store import DirectoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.client.conftest import Recorded


@pytest.fixture
def conductor(tmp_path: Path) -> Iterator[Conductor]:
    conductor = Conductor(tmp_path)
    yield conductor
    conductor.child.stop(timeout_s=15)


class Coordinator:
    """Plays the recorded job's works on a conductor, as a coordinator would."""

    def __init__(self, target: str, recorded: Recorded) -> None:
        self.channel = grpc.insecure_channel(target)
        self.stub = coordinator_service_pb2_grpc.CoordinatorServiceStub(self.channel)
        self.recorded = recorded
        lease = self.stub.LeaseJob(wire.LeaseJobRequest(coordinator="c-1", evaluators=1), timeout=10).lease
        self.name, self.epoch, self.next_step = lease.job.name, lease.epoch, lease.next_step

    def play(self, first: int, end: int) -> None:
        """Report and commit the works from `first` up to `end`."""
        steps = [event.step_committed for event in self.recorded.events() if event.HasField("step_committed")]
        done = [e.evaluation_finished for e in self.recorded.events() if e.HasField("evaluation_finished")]
        for index in range(first, end):
            report = wire.ReportEvaluationRequest(
                job_name=self.name, epoch=self.epoch, evaluation=done[index], outcome=b"{}"
            )
            self.stub.ReportEvaluation(report, timeout=10, wait_for_ready=True)
            commit = wire.CommitStepRequest(
                job_name=self.name, epoch=self.epoch, step=steps[index], session_state=b"state"
            )
            self.stub.CommitStep(commit, timeout=10, wait_for_ready=True)

    def finish(self, store: DirectoryStore) -> None:
        """Store the files and end the job with its result."""
        for content in self.recorded.files.values():
            store.put(content)
        request = wire.ReleaseJobRequest(job_name=self.name, epoch=self.epoch, result=self.recorded.job().result)
        self.stub.ReleaseJob(request, timeout=10, wait_for_ready=True)
        self.channel.close()


def test_a_job_from_submission_to_its_files_while_the_conductor_is_killed_twice(
    conductor: Conductor, recorded: Recorded, tmp_path: Path
) -> None:
    cuts: list[DiminuendoError] = []
    seen: list[Event] = []
    news = threading.Condition()

    with Client(conductor.target, config=ClientConfig(patience_s=40)) as client:
        job = client.submit("zoo:digits", delta=1.0, effort="quick", seed=7, labels={"team": "vision"})

        def watch() -> None:
            for event in job.watch(on_cut=cuts.append):
                with news:
                    seen.append(event)
                    news.notify_all()

        def seen_step(number: int) -> None:
            with news:
                assert news.wait_for(
                    lambda: any(isinstance(e, StepCommitted) and e.step == number for e in seen), timeout=30
                )

        watcher = threading.Thread(target=watch)
        watcher.start()
        coordinator = Coordinator(conductor.target, recorded)
        coordinator.play(0, 4)
        seen_step(3)
        conductor.kill()
        conductor.start()
        coordinator.play(4, 8)
        seen_step(7)
        conductor.kill()
        conductor.start()
        coordinator.play(8, recorded.works)
        coordinator.finish(conductor.store())
        watcher.join(timeout=30)
        assert not watcher.is_alive()

        assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
        assert len(cuts) >= 2
        steps = [event for event in seen if isinstance(event, StepCommitted)]
        assert [step.step for step in steps] == list(range(recorded.works))
        assert [event.coordinator for event in seen if isinstance(event, Leased)] == ["c-1"]
        states = [event.state for event in seen if isinstance(event, StateChanged)]
        assert states == [JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED]

        info = job.wait(timeout_s=10)
        assert (info.state, info.last_sequence, info.labels) == (JobState.SUCCEEDED, len(seen), {"team": "vision"})
        assert info.progress is not None
        assert info.progress.works_done == recorded.works
        assert [event.sequence for event in job.watch(after_sequence=len(seen) - 3)] == [
            *range(len(seen) - 2, len(seen) + 1)
        ]
        assert list(job.watch(after_sequence=len(seen))) == []
        folder = job.download(tmp_path / "out")
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == recorded.files
        with pytest.raises(FailedPreconditionError):
            job.cancel()


class Proxy:
    """Passes connections on to a server, each until the client has sent so many bytes; the last one without end.

    Attributes:
        passed: Bytes that clients have sent on each connection.
    """

    def __init__(self, target: str, budgets: list[int]) -> None:
        self.passed: list[int] = []
        self._where = (target.rpartition(":")[0], int(target.rpartition(":")[2]))
        self._budgets = budgets
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._start(self._accept)

    def _start(self, run: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=run, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._where)
            self._sockets += [client, server]
            budget = self._budgets.pop(0) if self._budgets else None
            self.passed.append(0)
            number = len(self.passed) - 1
            self._start(self._pass, client, server, number, budget)
            self._start(self._pass, server, client, None, None)

    def _pass(self, source: socket.socket, sink: socket.socket, number: int | None, budget: int | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
                if number is not None:
                    self.passed[number] += len(data)
                    if budget is not None and self.passed[number] >= budget:
                        break
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for one in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for one in (self._listener, *self._sockets):
            one.close()


def test_a_file_is_sent_over_a_line_that_breaks_and_read_back(conductor: Conductor, tmp_path: Path) -> None:
    size, part = 40 * 2**20, 16 * 2**20
    (tmp_path / "weights").write_bytes(random.Random(3).randbytes(size))
    proxy = Proxy(conductor.target, [part, part])
    with Client(proxy.target, config=ClientConfig(patience_s=40)) as client:
        content = client.upload(tmp_path / "weights")
        assert len(proxy.passed) >= 3
        # Of each line that broke only what was on it was lost: a chunk, and what buffers hold (6 MiB have been seen).
        assert size < sum(proxy.passed) < size + 2 * 12 * 2**20
        before = sum(proxy.passed)
        assert client.upload(tmp_path / "weights") == content
        assert sum(proxy.passed) - before < 10_000, "it is there, and not sent"
    proxy.close()
    assert conductor.store().get(content.sha256) == (tmp_path / "weights").read_bytes()


def test_an_upload_goes_on_at_a_conductor_that_was_killed(conductor: Conductor, tmp_path: Path) -> None:
    data = random.Random(4).randbytes(3 * 2**20)
    (tmp_path / "weights").write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    with grpc.insecure_channel(conductor.target) as channel:
        stub = artifact_service_pb2_grpc.ArtifactServiceStub(channel)
        first = artifact_service_pb2.WriteArtifactRequest(
            sha256=sha256, size_bytes=len(data), data=data[: 2**20], crc32=zlib.crc32(data[: 2**20])
        )
        assert stub.WriteArtifact(iter([first]), timeout=10).offset == 2**20
        conductor.kill()
        conductor.start()
        query = artifact_service_pb2.QueryUploadRequest(sha256=sha256, size_bytes=len(data))
        assert stub.QueryUpload(query, timeout=10, wait_for_ready=True).offset == 2**20
    with Client(conductor.target) as client:
        assert client.upload(tmp_path / "weights").sha256 == sha256
    assert conductor.store().get(sha256) == data


def test_what_a_conductor_refuses_and_repeats(conductor: Conductor) -> None:
    with Client(conductor.target, config=ClientConfig(page_size=2)) as client:
        first = client.submit("zoo:digits", request_id="r1", seed=1)
        assert client.submit("zoo:digits", request_id="r1", seed=1).name == first.name
        with pytest.raises(AlreadyExistsError, match="r1") as taken:
            client.submit("zoo:digits", request_id="r1", seed=2)
        assert taken.value.reason == "REQUEST_ID_REUSED"
        with pytest.raises(InvalidArgumentError, match=r"'digit'; did you mean 'digits'\?") as wrong:
            client.submit("zoo:digit", job_id="Not An Id")
        assert {violation.field for violation in wrong.value.violations} == {"job.spec.zoo", "job_id"}
        with pytest.raises(NotFoundError, match="projects/default/jobs/none"):
            client.get("none")
        with pytest.raises(NotFoundError):
            list(client.job("none").watch())
        names = [first.name, *(client.submit(seed=number).name for number in range(4))]
        assert [job.name for job in client.list()] == names[::-1]
        assert list(client.list(project="elsewhere")) == []
        assert client.cancel(names[2]).state is JobState.CANCELLED
        assert client.cancel(names[2]).state is JobState.CANCELLED
        assert [job.name for job in client.list(states=[JobState.CANCELLED])] == [names[2]]
        events = list(client.job(names[2]).watch())
        assert [event.state for event in events if isinstance(event, StateChanged)] == [
            *(JobState.QUEUED, JobState.CANCELLED)
        ]
        assert client.get(names[1]).state is JobState.QUEUED


def test_jobs_are_paused_changed_retried_and_deleted(conductor: Conductor) -> None:
    with Client(conductor.target, config=ClientConfig(page_size=2)) as client:
        job = client.submit(seed=11, labels={"team": "a", "run": "1"}, priority=3)
        assert job.pause().state is JobState.PAUSED
        assert [one.name for one in client.list(states=[JobState.PAUSED])] == [job.name]
        assert client.resume(job.job_id).state is JobState.QUEUED
        before = job.info()
        changed = job.update(labels={"team": "b"}, etag=before.etag)
        assert (changed.labels, changed.priority) == ({"team": "b"}, 3)
        with pytest.raises(ConflictError, match="get the job, and decide again") as stale:
            job.update(priority=4, etag=before.etag)
        assert stale.value.reason == "ETAG_MISMATCH"
        assert job.update(priority=-4).priority == -4
        with pytest.raises(InvalidArgumentError, match="name what is to be set: labels, priority, deadline"):
            job.update()
        end = datetime(2100, 1, 31, 18, tzinfo=UTC)
        assert job.update(deadline=end).deadline == end
        assert job.update(no_deadline=True).deadline is None
        with pytest.raises(InvalidArgumentError, match=r"deadline: 2100-01-31 18:00:00 has no time zone; give one"):
            job.update(deadline=end.replace(tzinfo=None))
        with pytest.raises(InvalidArgumentError, match="deadline: 5 is no datetime; give one with a time zone"):
            client.submit(deadline=5)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError, match=r"priority: 1\.5 is no whole number"):
            job.update(priority=1.5)  # type: ignore[arg-type]
        with pytest.raises(FailedPreconditionError, match="cancel it first"):
            job.delete()
        with pytest.raises(FailedPreconditionError, match="wait for its end, or cancel it first"):
            client.retry(job.name)
        client.cancel(job.name)
        again = client.retry(job.name, job_id="again")
        assert (again.job_id, again.info().retry_of, again.info().labels) == ("again", job.name, {"team": "b"})
        updates = [event for event in job.watch() if isinstance(event, Updated)]
        assert [(event.fields, event.priority) for event in updates] == [
            (("labels",), 3),
            *[(("priority",), -4), (("deadline",), -4), (("deadline",), -4)],
        ]
        assert [event.deadline for event in updates] == [None, None, end, None]
        found = list(client.list(labels={"team": "b"}, order_by="create_time"))
        assert [one.name for one in found] == [job.name, again.name]
        client.delete(job.name)
        with pytest.raises(NotFoundError):
            job.info()
        client.delete(job.name, allow_missing=True)
