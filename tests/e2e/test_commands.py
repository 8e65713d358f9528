"""The demo and the command that compresses without a server, as a user types them: a model, or nothing left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from tests.e2e.conftest import DELTA
from tests.e2e.server import left_after, marked, marked_environment

pytestmark = pytest.mark.timeout(600)


def test_the_demo_shows_a_certified_model_and_leaves_nothing_behind(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    done = subprocess.run(
        [sys.executable, "-m", "diminuendo.client.demo", "--epochs", "12"],
        cwd=tmp_path,
        env=marked_environment(mark),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert left_after(mark) == []
    folder = tmp_path / done.stdout.splitlines()[-1].removeprefix("result: ")
    certificate = json.loads((folder / "certificate.json").read_text())
    assert certificate["inside_delta"]
    assert certificate["drop"] <= DELTA
    assert certificate["params_ratio"] >= 6.0
    assert set(json.loads((folder / "plan.json").read_text())["layers"]) > {"block3.conv2", "fc"}
    for words in ("sealed half", "params", "MACs", "memory", "time", "block3.conv2", "dense control"):
        assert words in done.stdout


@pytest.mark.apart  # `serve`, which does the stopping, is stopped by both in tests/services/serve
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_demo_that_is_stopped_stops_everything(how: signal.Signals, tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    demo = subprocess.Popen(
        [sys.executable, "-u", "-m", "diminuendo.client.demo"],
        cwd=tmp_path,
        env=marked_environment(mark),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if demo.stdout is None:
        raise RuntimeError("the demo has no stdout")
    with demo.stdout as lines:
        seen = next(line for line in lines if " survey " in line)
        assert "original" in seen
        started = {process.pid for process in marked(mark)}
        demo.send_signal(how)
        said = lines.read()
    assert demo.wait(40) == (130 if how is signal.SIGINT else -signal.SIGKILL)
    assert len(started) > 5  # demo, serve, conductor, coordinator, Ray
    assert left_after(mark, timeout_s=30.0) == []
    assert list(tmp_path.iterdir()) == []
    if how is signal.SIGINT:
        assert "interrupted" in said


def test_the_compress_command_works_inline_and_leaves_nothing_when_interrupted(tmp_path: Path) -> None:
    command = [sys.executable, "-u", "-m", "diminuendo.client.cli.main", "compress", "zoo:digits", "--delta", "1"]
    running = subprocess.Popen(
        [*command, "--effort", "quick", "--out", "a/result"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    if running.stderr is None:
        raise RuntimeError("the command has no stderr")
    with running.stderr as lines:
        assert any("block1.conv1: " in line for line in lines)
        running.send_signal(signal.SIGINT)
        lines.read()
    assert running.wait(30) == 130
    assert list(tmp_path.iterdir()) == []
