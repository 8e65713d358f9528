"""A child process with everything that it starts: begun in its own session, watched, and ended for certain."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from diminuendo.client.errors import DiminuendoError, ServerUnavailableError

_TAIL = 8
_POLL_S, _LAST_WORDS_S = 0.05, 1.0
_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37


class Child:
    """A child process whose stdout is read for a line and whose stderr goes into a log file.

    On Linux this process becomes the one that orphans below it fall to (PR_SET_CHILD_SUBREAPER), so that
    processes which left the child's group, as Ray's do, are found and ended as well. Until `stop` this process
    must start nothing else, for that would be ended too.
    """

    def __init__(self, command: Sequence[str], *, log: Path) -> None:
        """Start the command; `log` is made."""
        self.log = log
        self._adopted_before = _adopt_orphans(True)
        self._others = frozenset(_below(os.getpid()))
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._ended = self._exited = False
        self._reader = threading.Thread(target=self._read, name="child-stdout", daemon=True)
        self._reader.start()
        self._waiter = threading.Thread(target=self._wait, name="child-exit", daemon=True)
        self._waiter.start()

    @property
    def pid(self) -> int:
        """Process id of the child, and id of its process group."""
        return self._process.pid

    def read_line(self, prefix: str, *, timeout_s: float) -> str:
        """The first line of its stdout that starts with `prefix`.

        Raises:
            ServerUnavailableError: It ended, or the time did; the message has the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        with self._news:
            while True:
                found = next((line for line in self._lines if line.startswith(prefix)), None)
                if found is not None:
                    return found
                if self._exited:  # what it wrote last may still be in the pipe, which others may hold open
                    deadline = min(deadline, time.monotonic() + _LAST_WORDS_S)
                left_s = deadline - time.monotonic()
                if self._ended or left_s <= 0:
                    break
                if not self._news.wait(left_s) and self._exited:
                    break
            how = "ended" if self._ended or self._exited else f"was not ready after {timeout_s:g} s"
        if self._ended:  # it is about to exit, and may say why
            self._waiter.join(_LAST_WORDS_S)
        raise ServerUnavailableError(f"the server {how}; the end of its log:\n{tail(self.log)}")

    def require_alive(self) -> None:
        """Raise ServerUnavailableError with the end of its log when it has ended."""
        if self._ended:  # it is about to exit
            self._waiter.join(_LAST_WORDS_S)
        code = self._process.poll()
        if code is not None:
            raise ServerUnavailableError(f"the server ended with code {code}; the end of its log:\n{tail(self.log)}")

    def stop(self, *, timeout_s: float) -> None:
        """End it: SIGTERM, after `timeout_s` SIGKILL for it and for whatever it left behind.

        Raises:
            DiminuendoError: Something outlived even that; the message has the process ids.
        """
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        left = self._kill_rest()
        _adopt_orphans(self._adopted_before)
        self._reader.join(timeout=1.0)
        self._waiter.join(timeout=1.0)
        if self._process.stdout is not None:
            self._process.stdout.close()
        if left:
            raise DiminuendoError(f"processes {', '.join(map(str, left))} could not be ended; end them by hand")

    def _kill_rest(self, timeout_s: float = 5.0) -> list[int]:
        """SIGKILL everything of the child's until nothing is left; returns what will not go."""
        deadline = time.monotonic() + timeout_s
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        while True:
            self._process.poll()
            left = self.left()
            if not left or time.monotonic() >= deadline:
                return left
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(_POLL_S)  # nothing tells a process of the end of one that is not its child

    def left(self) -> list[int]:
        """Processes of the child's that are alive, itself included; without /proc only itself."""
        below = _below(os.getpid())
        if not below:
            return [self._process.pid] if self._process.poll() is None else []
        mine = {pid: state for pid, state in below.items() if pid not in self._others}
        for pid, state in mine.items():
            if state == "Z" and pid != self._process.pid:
                with contextlib.suppress(ChildProcessError):  # not ours yet: its parent is still dying
                    os.waitpid(pid, os.WNOHANG)
        return sorted(pid for pid, state in mine.items() if state != "Z")

    def _wait(self) -> None:
        self._process.wait()
        with self._news:
            self._exited = True
            self._news.notify_all()

    def _read(self) -> None:
        stdout = self._process.stdout
        if stdout is not None:
            for line in stdout:
                with self._news:
                    self._lines.append(line.rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()


def tail(log: Path) -> str:
    """The last lines of a log."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_TAIL:]) or "(it is empty)"


def _adopt_orphans(adopt: bool) -> bool:
    """Have orphans below this process become its children, or no longer; returns how it was before."""
    if sys.platform != "linux":
        return False
    libc, before = ctypes.CDLL(None), ctypes.c_int()
    libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0)
    return bool(before.value)


def _below(root: int) -> dict[int, str]:
    """Every process below `root` with its state letter (Z for a zombie); empty where there is no /proc."""
    children: dict[int, list[tuple[int, str]]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has gone since
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            children.setdefault(int(parent), []).append((int(path.parent.name), state))
    found: dict[int, str] = {}
    queue = [root]
    while queue:
        for pid, state in children.get(queue.pop(), ()):
            found[pid] = state
            queue.append(pid)
    return found
