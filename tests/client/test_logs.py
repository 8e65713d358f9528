"""`diminuendo logs`: one line an event, from where one wants, to the end where one wants."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from diminuendo.v1 import job_pb2, job_service_pb2

from diminuendo.client import Client, Event
from diminuendo.client.cli.commands import logs

if TYPE_CHECKING:
    from tests.client.conftest import FakeServer, Recorded, Run


@pytest.fixture
def run_here(run_here: Run, fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("DIMINUENDO_SERVER", fake.target)
    monkeypatch.setenv("TZ", "UTC")
    return run_here


def every_kind(fake: FakeServer) -> str:
    """A job whose log has one event of each kind, and has not ended; returns its id."""
    made: list[dict[str, Any]] = [
        {"state_changed": job_pb2.StateChanged(state=job_pb2.JOB_STATE_QUEUED, reason="submitted\x1b[31m\nnow")},
        {"leased": job_pb2.Leased(coordinator="c-1", epoch=2)},
        {
            "evaluation_finished": job_pb2.EvaluationFinished(
                index=3,
                kind="evaluate",
                subject="first 2.0x",
                seconds=1.25,
                evaluator="e-1",
                epochs=4,
                candidate=job_pb2.Candidate(params_ratio=2, macs_ratio=1.5, drop=0.5),
            )
        },
        {"evaluation_finished": job_pb2.EvaluationFinished(index=4, kind="evaluate", subject="b", remembered=True)},
        {
            "step_committed": job_pb2.StepCommitted(
                step=7,
                summary="first 2.0x: done",
                progress=job_pb2.JobProgress(stage=job_pb2.STAGE_EXPLORE, works_done=8, works_expected=40),
            )
        },
        {
            "attempt_lost": job_pb2.AttemptLost(
                index=5, subject="c", evaluator="e-2", attempt=1, cause="TIMEOUT", detail="after 60 s"
            )
        },
        {"warning": job_pb2.Warning(reason="NOISY", message="few samples")},
        {"updated": job_pb2.Updated(fields=["labels", "priority"], labels={"b": "2", "a": "1"}, priority=5)},
        {},
    ]
    events = [job_pb2.JobEvent(sequence=number, **event) for number, event in enumerate(made, 1)]
    for event in events:
        event.time.FromDatetime(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    fake.add(job_pb2.Job(name="projects/default/jobs/j", state=job_pb2.JOB_STATE_RUNNING), events)
    return "j"


def test_each_kind_is_one_line_of_words(fake: FakeServer, run_here: Run) -> None:
    done = run_here("logs", every_kind(fake))
    assert (done.returncode, done.stderr) == (0, "")
    lines = [re.split(r"  +", line, maxsplit=3) for line in done.stdout.splitlines()]
    assert [line[1:] for line in lines] == [
        ["1", "state_changed", "QUEUED: submitted [31m now"],
        ["2", "leased", "c-1, epoch 2"],
        ["3", "evaluation_finished", "3 evaluate first 2.0x: 2.00x params, drop 0.50; 1.2 s, 4 epochs by e-1"],
        ["4", "evaluation_finished", "4 evaluate b: diverged; known"],
        ["5", "step_committed", "7 explore 8/40 first 2.0x: done"],
        ["6", "attempt_lost", "c, attempt 1 on e-2: TIMEOUT: after 60 s"],
        ["7", "warning", "NOISY: few samples"],
        ["8", "updated", "labels a=1,b=2, priority 5"],
        ["9", "unknown", "of a kind that this client is too old to know"],
    ]
    local = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).astimezone()
    assert {line[0] for line in lines} == {local.strftime("%Y-%m-%d %H:%M:%S")}


def test_every_kind_of_event_has_a_name() -> None:
    names = {kind.__name__ for kind in Event.__subclasses__()}
    assert {kind.__name__ for kind in logs._KINDS} == names, "name the new one here, and say what it says"
    oneof = job_pb2.JobEvent.DESCRIPTOR.oneofs[0]
    assert set(logs._KINDS.values()) == {field.name for field in oneof.fields}


def test_json_has_the_names_of_the_fields(fake: FakeServer, run_here: Run) -> None:
    job = every_kind(fake)
    done = run_here("logs", job, "--output", "json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    with Client(fake.target) as client:
        events = list(itertools.islice(client.job(job).watch(), len(rows)))
    assert [row["event"] for row in rows][:3] == ["state_changed", "leased", "evaluation_finished"]
    for row, event in zip(rows, events, strict=True):
        assert set(row) == {"event", *(field.name for field in dataclasses.fields(event))}
        assert (row["sequence"], row["time"]) == (event.sequence, "2026-01-02T03:04:05+00:00")
    assert rows[2]["kind"] == "evaluate"
    assert rows[2]["candidate"] == {"params_ratio": 2.0, "macs_ratio": 1.5, "drop": 0.5}
    assert rows[7]["labels"] == {"a": "1", "b": "2"}


def test_events_after_a_number(fake: FakeServer, run_here: Run) -> None:
    job = every_kind(fake)
    numbers = [line.split()[2] for line in run_here("logs", job, "--since-sequence", "6").stdout.splitlines()]
    assert numbers == ["7", "8", "9"]
    for last in ("9", "1000"):
        done = run_here("logs", job, "--since-sequence", last)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(fake.asked(job_service_pb2.WatchJobRequest)) == 1, "where there is nothing, nothing is opened"
    done = run_here("logs", job, "--since-sequence", "-1")
    assert (done.returncode, done.stdout) == (2, "")
    assert run_here("logs", "none").returncode == 2


def test_follow_goes_to_the_end_through_cuts(fake: FakeServer, run_here: Run, recorded: Recorded) -> None:
    job, events = recorded.job(), recorded.events()
    fake.add(job, events)
    job.last_sequence = 3  # the rest comes while it is followed
    fake.cuts = [4, 0, 2]
    done = run_here("logs", "recorded", "--follow")
    assert done.returncode == 0
    assert [int(line.split()[2]) for line in done.stdout.splitlines()] == list(range(1, len(events) + 1))
    assert done.stderr == "the connection to the server was lost; trying again\n" * 2, "once for each time it was lost"
    shown = run_here("logs", "recorded").stdout.splitlines()
    assert len(shown) == 3


def test_ctrl_c_ends_it_with_130(fake: FakeServer) -> None:
    job = every_kind(fake)
    process = subprocess.Popen(
        [sys.executable, "-m", "diminuendo.client.cli.main", "logs", job, "-f", "--server", fake.target],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for _ in range(9):
        assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, "", "")
    assert fake.gone.wait(5)
    assert fake.asked(job_service_pb2.CancelJobRequest) == []
