"""The provider of a cluster on this machine: a coordinator as a child process, with a Ray of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from diminuendo.services.common import logs
from diminuendo.services.conductor.clusters.backoff import Backoff
from diminuendo.services.conductor.clusters.base import ClusterStatus
from diminuendo.services.serve.child import Child

log = logs.get(__name__)

FIRST_DELAY_S, LAST_DELAY_S, STEADY_S = 0.5, 30.0, 60.0
GRACE_S = 10.0
_SECRETS = ("DIMINUENDO_CONDUCTOR_DATABASE", "DIMINUENDO_CONDUCTOR_COORDINATOR_TOKEN")
"""Of the conductor's environment: evaluators inherit a coordinator's, and run what users wrote."""


class LocalProvider:
    """Keeps a coordinator running beside the conductor, and ends it with it.

    It is started again when it ends, later each time, unless it ran steadily for a minute.
    """

    def __init__(
        self,
        name: str,
        options: Sequence[str],
        log_file: Path,
        *,
        token: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing runs yet.

        Args:
            name: The coordinator's.
            options: Its flags.
            log_file: Where its log is appended to.
            token: What it shows the conductor; empty: what its environment has.
        """
        self._environ = {name: "" for name in _SECRETS if name in os.environ}
        if token:
            self._environ["DIMINUENDO_COORDINATOR_TOKEN"] = token
        self._name, self._options, self._clock = name, options, clock
        self._child = Child("diminuendo.services.coordinator", log_file)
        self._state, self._trouble = "absent", ""

    async def run(self) -> None:
        """Start it, and again; on the way out, stop it."""
        backoff = Backoff(FIRST_DELAY_S, LAST_DELAY_S)
        try:
            while True:
                began = self._clock()
                await self._child.start(*self._options, "--with-parent", environ=self._environ)
                self._state, pid = "running", self._child.pid
                log.info("coordinator_started", coordinator=self._name, pid=pid)
                code = await self._child.ended()
                _end_group(pid)
                if self._clock() - began > STEADY_S:
                    backoff.reset()
                delay = backoff.next()
                self._state, self._trouble = "absent", f"it ended with code {code}: {self._child.last_words()[:500]}"
                log.warning(
                    "local_coordinator_ended",
                    coordinator=self._name,
                    code=code,
                    said=self._child.last_words()[:500],
                    again_in_s=round(delay, 2),
                )
                await asyncio.sleep(delay)
        finally:
            await self._stop()

    async def _stop(self) -> None:
        pid = self._child.pid
        if not await self._child.stop(GRACE_S):
            log.warning("local_coordinator_killed", coordinator=self._name, after_s=GRACE_S)
        _end_group(pid)
        self._state = "absent"

    def status(self) -> Sequence[ClusterStatus]:
        """The one cluster."""
        return (ClusterStatus(self._name, state="local", coordinator=self._state, trouble=self._trouble),)


def _end_group(pid: int | None) -> None:
    """End what a coordinator has left behind when it was killed: Ray's processes, which are of its group."""
    if pid is not None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
