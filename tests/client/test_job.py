"""Following and fetching: streams that are cut, repeat themselves, skip, or are left; parts, damage, folders."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import pytest
from diminuendo.v1 import artifact_service_pb2, job_pb2, job_service_pb2

from diminuendo.client import (
    Client,
    ClientConfig,
    DiminuendoError,
    DownloadError,
    EvaluationFinished,
    Event,
    FailedPreconditionError,
    FolderNotEmptyError,
    JobState,
    Leased,
    NotFoundError,
    ServerError,
    ServerUnavailableError,
    Stage,
    StateChanged,
    StepCommitted,
    WaitTimeoutError,
    WarningRaised,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.client.conftest import FakeServer, Recorded


def sequences(events: list[Event]) -> list[int]:
    return [event.sequence for event in events]


def test_watch_gives_every_kind_typed_and_ends(fake: FakeServer, client: Client, recorded: Recorded) -> None:
    fake.add(recorded.job(), recorded.events())
    events = list(client.job("recorded").watch())
    assert sequences(events) == list(range(1, len(recorded.events()) + 1))
    kinds = [type(event) for event in events]
    assert kinds[:5] == [StateChanged, Leased, StateChanged, EvaluationFinished, StepCommitted]
    assert kinds.count(WarningRaised) == 1
    assert events[0].time.isoformat() == "2026-01-02T03:04:05+00:00"
    done = [event for event in events if isinstance(event, EvaluationFinished)][6]
    assert (done.index, done.kind, done.epochs, done.evaluator, done.seconds) == (6, "evaluate", 4, "evaluator-0", 7.25)
    assert done.candidate is not None
    assert (done.candidate.params_ratio, done.candidate.drop) == (5.0, 0.375)
    step = [event for event in events if isinstance(event, StepCommitted)][-1]
    assert (step.step, step.progress.stage, step.progress.works_done) == (11, Stage.ANNEAL, 12)
    last = events[-1]
    assert isinstance(last, StateChanged)
    assert last.state is JobState.SUCCEEDED


def test_a_kind_from_a_newer_server_is_a_plain_event(fake: FakeServer, client: Client, recorded: Recorded) -> None:
    events = recorded.events()
    events[1].ClearField("kind")
    fake.add(recorded.job(), events)
    assert type(list(client.job("recorded").watch())[1]) is Event


@pytest.mark.parametrize("cuts", [[0], [5], [1, 1, 1], [0, 7, 0, 0, 2], [27]])
def test_watch_resumes_without_loss_or_repeat(
    fake: FakeServer, client: Client, recorded: Recorded, cuts: list[int]
) -> None:
    fake.add(recorded.job(), recorded.events())
    fake.cuts += cuts
    seen: list[DiminuendoError] = []
    events = list(client.job("recorded").watch(on_cut=seen.append))
    assert sequences(events) == list(range(1, len(recorded.events()) + 1))
    assert len(seen) == len(cuts)
    asked = [request.after_sequence for request in fake.asked(job_service_pb2.WatchJobRequest)]
    assert asked == [0, *itertools.accumulate(cuts)]


def test_watch_from_the_middle(fake: FakeServer, client: Client, recorded: Recorded) -> None:
    fake.add(recorded.job(), recorded.events())
    total = len(recorded.events())
    assert sequences(list(client.job("recorded").watch(after_sequence=10))) == list(range(11, total + 1))
    assert list(client.job("recorded").watch(after_sequence=total)) == []


def test_repeated_events_are_given_once(fake: FakeServer, client: Client, recorded: Recorded) -> None:
    fake.add(recorded.job(), recorded.events())
    fake.garble = lambda events: [*events[:6], *events[2:9], *events[8:]]
    events = list(client.job("recorded").watch())
    assert sequences(events) == list(range(1, len(recorded.events()) + 1))


def test_a_gap_is_read_again(fake: FakeServer, client: Client, recorded: Recorded) -> None:
    fake.add(recorded.job(), recorded.events())
    holes = iter([True, False])
    fake.garble = lambda events: [*events[:6], *events[8:]] if next(holes, False) else events
    assert sequences(list(client.job("recorded").watch())) == list(range(1, len(recorded.events()) + 1))
    assert [r.after_sequence for r in fake.asked(job_service_pb2.WatchJobRequest)] == [0, 6]


def test_a_gap_that_stays_is_an_error(fake: FakeServer, client: Client, recorded: Recorded) -> None:
    fake.add(recorded.job(), recorded.events())
    fake.garble = lambda events: [*events[:6], *events[8:]]
    events = client.job("recorded").watch()
    assert sequences([next(events) for _ in range(6)]) == [1, 2, 3, 4, 5, 6]
    with pytest.raises(ServerError, match=r"lost the events of projects/default/jobs/recorded after number 6"):
        next(events)


def test_a_stream_that_outlives_its_deadline_goes_on(fake: FakeServer, recorded: Recorded, quick: ClientConfig) -> None:
    events = recorded.events()
    fake.add(recorded.job(), events[:4])
    with Client(fake.target, config=replace(quick, stream_s=0.3, patience_s=0.1)) as client:
        watching = client.job("recorded").watch(on_cut=lambda error: pytest.fail(f"cut: {error}"))
        assert sequences(list(itertools.islice(watching, 4))) == [1, 2, 3, 4]
        started = time.monotonic()
        fake.garble = lambda _: events if time.monotonic() - started > 0.8 else events[:4]
        assert sequences(list(watching)) == list(range(5, len(events) + 1))
    assert len(fake.asked(job_service_pb2.WatchJobRequest)) >= 3


def test_leaving_the_loop_cancels_the_stream_on_the_server(
    fake: FakeServer, client: Client, recorded: Recorded
) -> None:
    fake.add(recorded.job(), recorded.events()[:4])
    for event in client.job("recorded").watch():
        if event.sequence == 4:
            assert not fake.gone.is_set()
            break
    assert fake.gone.wait(5)


def test_watch_gives_up_when_nobody_comes_back(fake: FakeServer, client: Client, recorded: Recorded) -> None:
    fake.add(recorded.job(), recorded.events())
    fake.cuts += [3] + [0] * 1000
    events = client.job("recorded").watch()
    started = time.monotonic()
    with pytest.raises(ServerUnavailableError):
        list(events)
    assert 1.4 < time.monotonic() - started < 6


def test_watch_of_no_job_is_not_found_at_once(client: Client) -> None:
    with pytest.raises(NotFoundError, match="there is no job projects/default/jobs/none"):
        list(client.job("none").watch())


def test_wait_returns_the_job_as_it_ended(fake: FakeServer, client: Client, recorded: Recorded) -> None:
    job = recorded.job()
    fake.add(job, recorded.events())
    assert client.job("recorded").wait().state is JobState.SUCCEEDED
    assert fake.asked(job_service_pb2.WatchJobRequest) == []

    job.state, job.last_sequence = job_pb2.JOB_STATE_RUNNING, 5

    def finish(events: list[job_pb2.JobEvent]) -> list[job_pb2.JobEvent]:
        job.state, job.last_sequence = job_pb2.JOB_STATE_SUCCEEDED, len(events)
        return events

    fake.garble = finish
    assert client.job("recorded").wait(timeout_s=5).result is not None
    assert [r.after_sequence for r in fake.asked(job_service_pb2.WatchJobRequest)] == [5]


def test_wait_stops_in_time(fake: FakeServer, client: Client, recorded: Recorded) -> None:
    job = recorded.job()
    fake.add(job, recorded.events()[:4])
    job.state = job_pb2.JOB_STATE_RUNNING
    started = time.monotonic()
    with pytest.raises(WaitTimeoutError, match=r"RUNNING after 0\.3 s; it goes on") as caught:
        client.job("recorded").wait(timeout_s=0.3)
    assert isinstance(caught.value, TimeoutError)
    assert 0.25 < time.monotonic() - started < 3


# --- download ----------------------------------------------------------------------------------------------


@pytest.fixture
def stored(fake: FakeServer, recorded: Recorded) -> dict[str, bytes]:
    """The recorded job with its files on the server, by name."""
    fake.add(recorded.job(), recorded.events())
    fake.contents = recorded.contents()
    return recorded.files


def read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_download_writes_exactly_the_files(client: Client, stored: dict[str, bytes], tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert client.job("recorded").download(folder) == folder
    assert read(folder) == stored


def test_download_again_fetches_nothing(
    fake: FakeServer, client: Client, stored: dict[str, bytes], tmp_path: Path
) -> None:
    client.job("recorded").download(tmp_path)
    fetched = len(fake.asked(artifact_service_pb2.ReadArtifactRequest))
    assert fetched == len(stored)
    (tmp_path / "model.safetensors").unlink()
    client.job("recorded").download(str(tmp_path))
    assert len(fake.asked(artifact_service_pb2.ReadArtifactRequest)) == fetched + 1
    assert read(tmp_path) == stored


def test_a_cut_is_resumed_where_it_was(
    fake: FakeServer, client: Client, stored: dict[str, bytes], tmp_path: Path
) -> None:
    fake.read_cuts += [1500, 0, 2000]
    client.job("recorded").download(tmp_path)
    offsets = [r.offset for r in fake.asked(artifact_service_pb2.ReadArtifactRequest)]
    assert offsets[:4] == [0, 1500, 1500, 3500]
    assert read(tmp_path) == stored


def test_a_later_try_resumes_what_an_earlier_one_left(
    fake: FakeServer, client: Client, stored: dict[str, bytes], tmp_path: Path
) -> None:
    fake.read_cuts += [1500] + [0] * 1000
    with pytest.raises(ServerUnavailableError):
        client.job("recorded").download(tmp_path)
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [1500]
    fake.read_cuts.clear()
    fake.requests.clear()
    client.job("recorded").download(tmp_path)
    assert [r.offset for r in fake.asked(artifact_service_pb2.ReadArtifactRequest)] == [1500, 0, 0, 0]
    assert read(tmp_path) == stored


def test_damage_on_the_way_is_fetched_again(
    fake: FakeServer, client: Client, stored: dict[str, bytes], tmp_path: Path
) -> None:
    fake.damage = 1
    client.job("recorded").download(tmp_path)
    assert read(tmp_path) == stored


def test_a_chunk_that_is_damaged_on_the_way_is_not_taken(
    fake: FakeServer, client: Client, stored: dict[str, bytes], tmp_path: Path
) -> None:
    fake.chunk_damage = 2
    client.job("recorded").download(tmp_path)
    offsets = [r.offset for r in fake.asked(artifact_service_pb2.ReadArtifactRequest)]
    assert offsets[:3] == [0, 1000, 2000], "what was right before it was kept"
    assert read(tmp_path) == stored


def test_damage_that_stays_is_an_error_and_leaves_no_file(
    fake: FakeServer, client: Client, stored: dict[str, bytes], tmp_path: Path
) -> None:
    fake.damage = 100
    with pytest.raises(DownloadError, match=r"model\.safetensors arrived damaged twice"):
        client.job("recorded").download(tmp_path)
    assert read(tmp_path) == {}


def test_more_bytes_than_announced_are_not_swallowed(
    fake: FakeServer, client: Client, stored: dict[str, bytes], tmp_path: Path
) -> None:
    sha256 = fake.jobs["projects/default/jobs/recorded"].result.files[0].sha256
    fake.contents[sha256] = stored["model.safetensors"] + b"more" * 1000
    with pytest.raises(DownloadError, match="damaged"):
        client.job("recorded").download(tmp_path)


@pytest.mark.parametrize("name", ["notes.txt", "plan.json"])
def test_a_folder_with_something_else_is_refused_untouched(
    fake: FakeServer, client: Client, stored: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(FolderNotEmptyError, match=rf"{name} .*; give another folder, or empty it"):
        client.job("recorded").download(tmp_path)
    assert read(tmp_path) == {name: b"mine"}
    assert fake.asked(artifact_service_pb2.ReadArtifactRequest) == []


def test_a_file_in_the_folders_place_is_refused(client: Client, stored: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "f").write_text("mine")
    with pytest.raises(FolderNotEmptyError, match="is a file; give a folder"):
        client.job("recorded").download(tmp_path / "f")


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/b", "..", "", "a\\b"])
def test_a_server_cannot_write_outside_the_folder(
    fake: FakeServer, client: Client, stored: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    fake.jobs["projects/default/jobs/recorded"].result.files[1].name = name
    with pytest.raises(DownloadError, match="would leave the folder"):
        client.job("recorded").download(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("state", "remedy"),
    [
        (job_pb2.JOB_STATE_RUNNING, "is RUNNING and has no result; wait for it with `diminuendo watch recorded`"),
        (job_pb2.JOB_STATE_CANCELLED, "is CANCELLED and has no result; submit it again"),
        (job_pb2.JOB_STATE_FAILED, "is FAILED and has no result; it failed: out of memory, use fewer"),
    ],
)
def test_a_job_without_a_result_says_why(
    fake: FakeServer, client: Client, recorded: Recorded, tmp_path: Path, state: job_pb2.JobState.ValueType, remedy: str
) -> None:
    job = recorded.job()
    job.ClearField("result")
    job.state = state
    if state == job_pb2.JOB_STATE_FAILED:
        job.failure.message = "out of memory, use fewer"
    fake.add(job, [])
    with pytest.raises(FailedPreconditionError) as caught:
        client.job("recorded").download(tmp_path)
    assert remedy in str(caught.value)


def test_other_failures_of_a_stream_are_not_tried_again(
    fake: FakeServer, client: Client, stored: dict[str, bytes], tmp_path: Path
) -> None:
    fake.contents.clear()  # the servicer raises: UNKNOWN
    with pytest.raises(ServerError, match=grpc.StatusCode.UNKNOWN.name):
        client.job("recorded").download(tmp_path)
    assert len(fake.asked(artifact_service_pb2.ReadArtifactRequest)) == 1
