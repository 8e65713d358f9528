"""The threads that run jobs, so many at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable

from diminuendo.services.common import logs
from diminuendo.services.coordinator.stopping import Stop

log = logs.get(__name__)


class Crew:
    """Runs jobs in threads. What one of them raises stops the process, and is raised by `join`."""

    def __init__(self, most: int, stop: Stop) -> None:
        """Nobody runs.

        Args:
            most: Jobs at a time.
            stop: Asked for when a job raises; ends `wait_for_room`.
        """
        self._most, self._stop = most, stop
        self._changed = threading.Condition()
        self._running: dict[threading.Thread, str] = {}
        self._error: BaseException | None = None

    @property
    def holding(self) -> tuple[str, ...]:
        """Names of the jobs that run, each once."""
        with self._changed:
            return tuple(dict.fromkeys(self._running.values()))

    def wait_for_room(self) -> bool:
        """Wait until one more job may be started; False when the process is to end."""
        with self._stop.calling(self._look):
            with self._changed:
                self._changed.wait_for(lambda: self._stop.event.is_set() or len(self._running) < self._most)
            return not self._stop.event.is_set()

    def start(self, name: str, run: Callable[[], object]) -> None:
        """Run a job."""
        thread = threading.Thread(target=self._run, args=(run,), name=name)
        with self._changed:
            self._running[thread] = name
        thread.start()

    def join(self) -> None:
        """Wait until no job runs.

        Raises:
            BaseException: What the first job that raised has raised.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._running)
        if self._error is not None:
            raise self._error

    def _run(self, run: Callable[[], object]) -> None:
        try:
            run()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that joins
            with self._changed:
                self._error = self._error or error
            self._stop.request()
        finally:
            with self._changed:
                del self._running[threading.current_thread()]
                self._changed.notify_all()

    def _look(self) -> None:
        with self._changed:
            self._changed.notify_all()
