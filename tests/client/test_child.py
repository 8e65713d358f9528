"""A child process and everything below it: read, waited for, ended for certain."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diminuendo.client.child import Child
from diminuendo.client.errors import ServerUnavailableError

_NEST = """
import os, signal, subprocess, sys, time
{stubborn}
# A grandchild in a session of its own whose parent is gone: no group and no parent leads to it any more.
subprocess.run([sys.executable, "-c", '''
import subprocess, sys
child = subprocess.Popen(["sleep", "300"], start_new_session=True)
print("orphan", child.pid, flush=True)
'''])
print("ready grpc=127.0.0.1:1 http=127.0.0.1:2", flush=True)
time.sleep(300)
"""
_STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("stubborn", ["", _STUBBORN])
def test_stop_ends_everything_also_what_left_the_group(tmp_path: Path, stubborn: str) -> None:
    child = Child([sys.executable, "-c", _NEST.format(stubborn=stubborn)], log=tmp_path / "log")
    assert child.read_line("ready ", timeout_s=20) == "ready grpc=127.0.0.1:1 http=127.0.0.1:2"
    orphan = int(child.read_line("orphan ", timeout_s=1).split()[1])
    assert alive(orphan)
    assert {child.pid, orphan} <= set(child.left())
    started = time.monotonic()
    child.stop(timeout_s=0.5)
    assert time.monotonic() - started < 10
    assert child.left() == []
    assert not alive(child.pid)
    assert not alive(orphan)


def test_a_child_that_ends_early_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    code = "import sys; print('port 1 is in use', file=sys.stderr); sys.exit(2)"
    child = Child([sys.executable, "-c", code], log=tmp_path / "log")
    with pytest.raises(ServerUnavailableError, match=r"the server ended; the end of its log:\nport 1 is in use"):
        child.read_line("ready ", timeout_s=20)
    child.stop(timeout_s=1)


def test_a_child_that_is_never_ready_is_given_up(tmp_path: Path) -> None:
    child = Child([sys.executable, "-c", "import time; time.sleep(300)"], log=tmp_path / "log")
    with pytest.raises(ServerUnavailableError, match=r"not ready after 0\.3 s"):
        child.read_line("ready ", timeout_s=0.3)
    child.stop(timeout_s=5)
    assert child.left() == []


# A stand-in for `diminuendo serve` that is ready but serves nobody; it notes its own and its child's pid.
_FAKE_SERVE = """
import os, subprocess, sys, time
child = subprocess.Popen(["sleep", "300"], start_new_session=True)
open(os.environ["PIDS"], "w").write(f"{os.getpid()} {child.pid}")
print(f"ready grpc={os.environ['TARGET']} http=127.0.0.1:2", flush=True)
time.sleep(300)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_demo_leaves_nothing_behind(
    tmp_path: Path, number: signal.Signals, code: int, free_port: int
) -> None:
    runner = (
        "import sys; from diminuendo.client import child, demo\n"
        "class Stand(child.Child):\n"
        "    def __init__(self, command, *, log):\n"
        f"        super().__init__([sys.executable, '-c', {_FAKE_SERVE!r}], log=log)\n"
        "demo.Child = Stand\n"
        "sys.exit(demo.main([]))"
    )
    pids, temporary = tmp_path / "pids", tmp_path / "tmp"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", runner],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={
            **os.environ,
            **{
                "PIDS": str(pids),
                "TARGET": f"127.0.0.1:{free_port}",
                "TMPDIR": str(temporary),
                "PYTHONUNBUFFERED": "1",
            },
        },
    )
    assert process.stdout is not None
    while "compressing" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert not any(alive(int(pid)) for pid in pids.read_text().split())
    assert list(temporary.iterdir()) == []
