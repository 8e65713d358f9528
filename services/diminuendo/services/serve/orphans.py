"""Processes whose parents ended without them: they become ours, and are ended. Linux; elsewhere there are none."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


def adopt() -> None:
    """From now on, processes below this one whose parents end become its children, and not those of init.

    Ray's agents need this: when a coordinator is killed they outlive it by a minute.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def end_adopted(*, own: Collection[int]) -> int:
    """Kill every child of this process but its own, and the children that they leave; returns how many.

    Args:
        own: Pids of the children that this process started itself and that are still to run.
    """
    count = 0
    while orphans := [pid for pid in _children() if pid not in own]:
        for pid in orphans:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                continue  # somebody else has waited for it
            count += 1
    return count


def _children() -> Iterator[int]:
    """Pids of this process's children, ended ones included."""
    me = os.getpid()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
        except OSError:
            continue
        # pid (name) state ppid ...; the name may hold spaces and parentheses.
        if int(stat.rpartition(")")[2].split()[1]) == me:
            yield int(folder.name)
