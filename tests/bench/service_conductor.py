"""A real conductor as a process of its own, for the service's benchmarks."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Started:
    """A running conductor.

    Attributes:
        target: HOST:PORT of gRPC.
        http: HOST:PORT of the metrics.
        start_s: From the process' start until it said that it serves.
        process: Of the conductor itself.
    """

    target: str
    http: str
    start_s: float
    process: psutil.Process

    @property
    def resident_mib(self) -> float:
        """Memory that the process holds now (RSS), in MiB."""
        return float(self.process.memory_info().rss) / 2**20


@contextmanager
def conductor(folder: Path, *, database: str = "") -> Iterator[Started]:
    """A conductor while inside, with the settings that it has by default; then it is asked to stop.

    Args:
        folder: Where its data and its log come.
        database: A URL; empty: SQLite in the folder.

    Raises:
        RuntimeError: It did not start; its own words are in the message.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "diminuendo.services.conductor", "--data-dir", str(folder / "data")]
    command += ["--port", "0", "--http-port", "0", "--with-parent"]
    command += ["--database", database] if database else []
    with (folder / "conductor.log").open("ab") as log:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        if process.stdout is None:
            raise RuntimeError("the conductor has no stdout")
        found = re.match(r"ready grpc=(\S+) http=(\S+)", process.stdout.readline())
        if not found:
            raise RuntimeError(f"the conductor did not start:\n{(folder / 'conductor.log').read_text()[-4000:]}")
        yield Started(found[1], found[2], time.perf_counter() - start, psutil.Process(process.pid))
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
