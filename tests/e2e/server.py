"""A real `diminuendo serve` in processes of its own, for tests and benchmarks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

MARK = "DIMINUENDO_TEST_MARK"
"""Environment variable by which everything that a test started is found, whoever its parent is by now."""


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        target: HOST:PORT of the gRPC API.
        http: HOST:PORT of metrics and health.
        data: Its data folder.
        mark: Value of MARK in its processes' environment.
    """

    process: subprocess.Popen[str]
    target: str
    http: str
    data: Path
    mark: str

    def coordinator(self) -> psutil.Process:
        """The coordinator's process."""
        for process in marked(self.mark):
            if "diminuendo.services.coordinator" in " ".join(process.cmdline()):
                return process
        raise LookupError("the server has no coordinator now")


def marked(mark: str) -> list[psutil.Process]:
    """Every living process with the mark in its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def resident_mib(processes: list[psutil.Process]) -> float:
    """Memory that the processes hold together, in MiB; shared pages are counted once (PSS)."""
    total = 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total / 2**20


def marked_environment(mark: str) -> dict[str, str]:
    """This process's environment with the mark."""
    return {**os.environ, MARK: mark}


def left_after(mark: str, *, timeout_s: float = 10.0) -> list[str]:
    """Command lines of the processes that are still there after so long."""
    left = marked(mark)
    _, alive = psutil.wait_procs(left, timeout=timeout_s)
    return [" ".join(process.cmdline()) for process in alive if process.is_running()]


@contextmanager
def serving(data: Path, *, evaluators: int, options: Sequence[str] = ()) -> Iterator[Server]:
    """Start a server on free ports, and stop it with SIGTERM.

    Args:
        options: More of `diminuendo serve`.
    """
    mark = uuid.uuid4().hex
    command = [sys.executable, "-m", "diminuendo.client.cli.main", "serve", "--data-dir", str(data)]
    command += ["--port", "0", "--http-port", "0", "--evaluators", str(evaluators), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=marked_environment(mark))
    try:
        if process.stdout is None:
            raise RuntimeError("the server has no stdout")
        line = process.stdout.readline()
        words = dict(word.partition("=")[::2] for word in line.split()[1:])
        if not line.startswith("ready "):
            raise RuntimeError(f"the server said {line!r} and ended with {process.wait(30)}")
        yield Server(process, words["grpc"], words["http"], data, mark)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        finally:
            for straggler in marked(mark):
                straggler.kill()
        if process.stdout is not None:
            process.stdout.close()
