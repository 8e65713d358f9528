"""How this process is asked to stop: SIGTERM and SIGINT set an event, without ever interrupting anything."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from diminuendo.services.common import logs
from diminuendo.services.common.process import SAME_REQUEST_S, STOP_SIGNALS

log = logs.get(__name__)

GRACE_S = 20.0


class Stop:
    """That this process is to end.

    Attributes:
        event: Set when it is.
    """

    def __init__(self) -> None:
        """Not yet."""
        self.event = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], object]] = []

    def request(self) -> None:
        """Ask for the end. Not from a signal handler: locks are taken."""
        with self._lock:
            self.event.set()
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback()

    @contextmanager
    def calling(self, callback: Callable[[], object]) -> Iterator[None]:
        """Inside, have something called when the end is asked for; at once when it was already."""
        with self._lock:
            self._callbacks.append(callback)
            asked = self.event.is_set()
        if asked:
            callback()
        try:
            yield
        finally:
            with self._lock:
                self._callbacks.remove(callback)


class SignalWatch:
    """Turns signals into `Stop.request`. The handlers only put into a SimpleQueue, which is safe at any moment."""

    def __init__(self, stop: Stop, *, grace_s: float = GRACE_S) -> None:
        """Watch for signals once `install` has been called.

        Args:
            grace_s: How long the process may take to end; then it ends itself with SIGKILL, and the kernel ends
                its local Ray with it.
        """
        self._stop, self._grace_s = stop, grace_s
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="signals", daemon=True).start()

    def install(self) -> None:
        """Take over SIGTERM and SIGINT. From the main thread, and again after ray.init, which takes SIGTERM."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signals.put(number)

    def _run(self) -> None:
        number = self._signals.get()
        log.info("stop_requested", signal=signal.Signals(number).name)
        self._stop.request()
        asked_at = time.monotonic()
        try:
            self._signals.get(timeout=self._grace_s)
            while time.monotonic() < asked_at + SAME_REQUEST_S:
                self._signals.get(timeout=self._grace_s)
        except queue.Empty:
            log.error("stop_took_too_long", grace_s=self._grace_s)
        os.kill(os.getpid(), signal.SIGKILL)  # a second request, or too slow
