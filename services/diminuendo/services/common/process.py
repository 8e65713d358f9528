"""Manners of a process: how it is asked to stop, and that it does not outlive its parent."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_PR_SET_PDEATHSIG = 1
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

SAME_REQUEST_S = 1.0
"""Signals this soon after the first are the same request to stop: the kernel announces the end of a parent once for
each of its threads, and a terminal may send SIGINT beside them."""


@contextmanager
def stop_signals() -> Iterator[asyncio.Event]:
    """Inside, SIGTERM and SIGINT set the event instead of ending the process. Needs a running loop.

    A second signal, `SAME_REQUEST_S` later or more, ends the process as usual, so that a drain that hangs can be
    cut short.
    """
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()

    def ask() -> None:
        if not asked.is_set():
            asked.set()
            loop.call_later(SAME_REQUEST_S, let_go)

    def let_go() -> None:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, ask)
    try:
        yield asked
    finally:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)


def die_with_parent(parent_pid: int | None = None, *, number: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send this process a signal when its parent ends, however it ends. Linux; else a no-op.

    The kernel watches the parent's *thread* that started this process: start it from one that lasts.

    Args:
        parent_pid: The parent as it knows itself. When given and no longer the parent, it ended before this
            call, and the signal is sent at once.
        number: The signal.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if parent_pid is not None and os.getppid() != parent_pid:
        signal.raise_signal(number)
