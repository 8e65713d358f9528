"""One child process of the server: its start, its log, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


class Child:
    """A service in a process and a process group of its own, with its log in a file.

    It is started from the main thread: the kernel tells it when the thread that started it ends.
    """

    def __init__(self, module: str, log: Path) -> None:
        """Nothing runs yet.

        Args:
            module: Python module that is run.
            log: Where its stderr is appended to.
        """
        self.name = module.rpartition(".")[2]
        self.log = log
        self._module = module
        self._process: asyncio.subprocess.Process | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """Its pid while it runs."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process else None

    async def start(self, *options: str, environ: Mapping[str, str] | None = None) -> None:
        """Run the module with these options, and with these variables beside those of this process."""
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # a module of the same name in the current folder is none of ours
                "-m",
                self._module,
                *options,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **(environ or {})},
            )

    async def read_line(self) -> str:
        """The next line of its stdout; empty when it has ended."""
        stdout = self._process.stdout if self._process else None
        return (await stdout.readline()).decode(errors="replace").strip() if stdout else ""

    async def ended(self) -> int:
        """Wait until it has ended; its exit code, negative for a signal."""
        return await self._process.wait() if self._process else 0

    async def stop(self, grace_s: float) -> bool:
        """SIGTERM, and after a grace SIGKILL to its whole group; whether it ended by itself."""
        if self.pid is None or self._process is None:
            return True
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self.ended(), grace_s)
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self.ended()
            return False
        return True

    def last_words(self) -> str:
        """The last line that it wrote to its log since it was started; empty when it wrote none."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
