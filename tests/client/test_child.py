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


def test_a_child_that_has_ended_is_told_from_one_that_lives(tmp_path: Path) -> None:
    code = "import sys; print('ready', flush=True); sys.stdin.read(); print('out of space', file=sys.stderr)"
    child = Child([sys.executable, "-c", f"{code}; sys.exit(7)"], log=tmp_path / "log")
    child.read_line("ready", timeout_s=20)
    with pytest.raises(ServerUnavailableError, match=r"the server ended; the end of its log:\nout of space"):
        child.read_line("never", timeout_s=20)
    with pytest.raises(ServerUnavailableError, match=r"ended with code 7; the end of its log:\nout of space"):
        child.require_alive()
    child.stop(timeout_s=1)
    child = Child(["sleep", "300"], log=tmp_path / "log")
    child.require_alive()
    child.stop(timeout_s=5)


# A stand-in for `diminuendo serve` that serves nobody: it notes its own and its child's pid, then does THEN.
_FAKE_SERVE = """
import os, subprocess, sys, time
child = subprocess.Popen(["sleep", "300"], start_new_session=True)
open(os.environ["PIDS"], "w").write(f"{os.getpid()} {child.pid}")
exec(os.environ["THEN"])
"""
_READY = "print('ready grpc=127.0.0.1:%d http=127.0.0.1:2', flush=True); time.sleep(300)"


class Demo:
    """The demo in a process of its own, with the stand-in for its server."""

    def __init__(self, folder: Path, *words: str, then: str) -> None:
        runner = (
            "import sys; from diminuendo.client import child, demo\n"
            "class Stand(child.Child):\n"
            "    def __init__(self, command, *, log):\n"
            f"        super().__init__([sys.executable, '-c', {_FAKE_SERVE!r}], log=log)\n"
            "demo.Child = Stand\n"
            f"sys.exit(demo.main({list(words)!r}))"
        )
        self.pids, self.temporary = folder / "pids", folder / "tmp"
        self.temporary.mkdir()
        extra = {"PIDS": str(self.pids), "THEN": then, "TMPDIR": str(self.temporary), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", runner],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, **extra},
        )

    def end(self) -> str:
        """Wait for the end; gives its stderr, and checks that nothing is left."""
        try:
            _, err = self.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            self.process.communicate()
            raise
        assert "Traceback" not in err
        assert self.temporary.exists()
        assert list(self.temporary.iterdir()) == []
        if self.pids.exists():
            assert not any(alive(int(pid)) for pid in self.pids.read_text().split())
        return err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_an_interrupted_demo_leaves_nothing_behind(
    tmp_path: Path, number: signal.Signals, code: int, free_port: int
) -> None:
    demo = Demo(tmp_path, then=_READY % free_port)
    assert demo.process.stdout is not None
    while "compressing" not in demo.process.stdout.readline():
        assert demo.process.poll() is None
    demo.process.send_signal(number)
    assert demo.end() == ""
    assert demo.process.returncode == code


@pytest.mark.parametrize(
    ("then", "text"),
    [
        ("sys.exit('error: the port is in use')", "the server ended; the end of its log:\nerror: the port is in use"),
        ("print('ready steady', flush=True); time.sleep(300)", "the server said 'ready steady' instead of ready grpc="),
    ],
)
def test_a_demo_whose_server_fails_says_why_and_leaves_nothing(tmp_path: Path, then: str, text: str) -> None:
    demo = Demo(tmp_path, then=then)
    assert text in demo.end()
    assert demo.process.returncode == 1


def test_a_demo_refuses_a_folder_with_something_in_it_before_it_starts(tmp_path: Path) -> None:
    demo = Demo(tmp_path, "--out", ".", then="")
    assert demo.end() == "error: --out . is not an empty folder; give another one, or empty it\n"
    assert demo.process.returncode == 2
    assert not demo.pids.exists()
