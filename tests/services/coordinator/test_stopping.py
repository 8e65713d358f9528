from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from diminuendo.services.common.process import SAME_REQUEST_S

PROGRAM = """
import sys
from diminuendo.services.common import logs
from diminuendo.services.coordinator.stopping import SignalWatch, Stop
logs.configure(service="test", level="error", style="json")
stop = Stop()
SignalWatch(stop, grace_s={grace}).install()
print("ready", flush=True)
stop.event.wait()
print("asked", flush=True)
for line in sys.stdin:  # a drain that takes until it is told
    break
"""


def program(grace_s: float) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(grace=grace_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def test_signals_at_once_are_one_request() -> None:
    with program(30) as child:
        for _ in range(3):  # as from the kernel, for each thread of a parent that ended
            child.send_signal(signal.SIGTERM)
        assert child.stdout is not None
        assert child.stdout.readline() == "asked\n"
        child.communicate("done\n", timeout=60)
        assert child.returncode == 0


def test_a_second_request_ends_it() -> None:
    with program(30) as child:
        child.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(SAME_REQUEST_S + 0.5)
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == -signal.SIGKILL


def test_a_drain_that_takes_too_long_is_ended() -> None:
    with program(0.5) as child:
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == -signal.SIGKILL
