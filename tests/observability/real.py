"""A whole server with a Prometheus and a receiver of traces beside it, and real jobs on it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
from tests.certificates import Authority
from tests.e2e.server import marked, marked_environment
from tests.observability.life import Life
from tests.observability.receiver import Receiver, receiving
from tests.observability.rig import Prometheus, fetched, until

from diminuendo.client import Client

_EVALUATORS = re.compile(r'^diminuendo_evaluators\{state="(?:busy|idle)"\} (\S+)$', re.MULTILINE)
_LOST = re.compile(r'^diminuendo_attempts_lost_total\{cause="EVALUATOR_LOST"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """What runs.

    Attributes:
        life: The conductor's stubs.
        http: HOST:PORT of the metrics.
        mark: By which its processes are found.
    """

    client: Client
    life: Life
    http: str
    prometheus: Prometheus
    receiver: Receiver
    mark: str

    def able(self) -> int:
        """Evaluators that are busy or idle, as the metrics have it."""
        return round(sum(float(value) for value in _EVALUATORS.findall(fetched(f"http://{self.http}/metrics")[0])))

    def lost(self) -> int:
        """Attempts that were lost with an evaluator."""
        return round(sum(float(value) for value in _LOST.findall(fetched(f"http://{self.http}/metrics")[0])))

    def kill_evaluator(self) -> float:
        """End an evaluator's process, and say after how many seconds the metrics show it."""
        able, lost = self.able(), self.lost()
        process = next(process for process in marked(self.mark) if is_evaluator(process))
        process.kill()
        start = time.monotonic()
        until(lambda: self.able() < able or self.lost() > lost, "the metrics show that an evaluator is lost")
        return time.monotonic() - start


def is_evaluator(process: psutil.Process) -> bool:
    """Whether a process is an evaluator's actor."""
    try:
        return any("ray::Evaluator" in part for part in process.cmdline())
    except psutil.Error:
        return False


@contextmanager
def running(folder: Path, *, evaluators: int = 2, scrape_s: float = 1.0) -> Iterator[Run]:
    """Start all of it, by TLS; evaluators are ready inside."""
    mark = uuid.uuid4().hex
    authority = Authority(folder / "ca")
    pair = authority.issue("conductor")
    command = [sys.executable, "-m", "diminuendo.client.cli.main", "serve", "--data-dir", str(folder / "data")]
    command += ["--port", "0", "--http-port", "0", "--evaluators", str(evaluators)]
    command += ["--tls-cert-file", str(pair.cert), "--tls-key-file", str(pair.key)]
    with receiving() as receiver:
        command += ["--traces", receiver.target]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=marked_environment(mark))
        try:
            assert process.stdout is not None
            words = dict(word.partition("=")[::2] for word in process.stdout.readline().split())
            assert "ready" in words, process.wait(30)
            with (
                Prometheus(folder / "prometheus", [words["http"]], scrape_s=scrape_s) as prometheus,
                Client(words["grpc"], project="vision", tls=True, ca_file=authority.cert) as client,
                grpc.secure_channel(
                    words["grpc"], grpc.ssl_channel_credentials(authority.cert.read_bytes())
                ) as channel,
            ):
                run = Run(client, Life(channel), words["http"], prometheus, receiver, mark)
                until(lambda: run.able() == evaluators, "every evaluator is ready", timeout_s=180)
                yield run
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            finally:
                for straggler in marked(mark):
                    straggler.kill()
            if process.stdout is not None:
                process.stdout.close()
