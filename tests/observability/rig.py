"""A conductor and a Prometheus as processes of a test's own, on loopback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

SCRAPE_S = 0.5
ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "helm/diminuendo/alerts/rules.yaml"


def tool(name: str) -> str:
    """A program of Debian's package `prometheus`; without it the test is skipped."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install prometheus")
    return found


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def fetched(url: str, accept: str = "*/*") -> tuple[str, str]:
    """A page and its content type."""
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept}), timeout=10) as answer:
        return answer.read().decode(), answer.headers["content-type"]


def until(true: Callable[[], Any], what: str, *, timeout_s: float = 60.0) -> Any:
    """What is true once it is."""
    deadline = time.monotonic() + timeout_s
    while not (found := true()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:g} s"
        time.sleep(0.05)
    return found


class Conductor:
    """A conductor of one data folder, which may be killed and started again on its ports."""

    def __init__(self, folder: Path, *options: str, env: Mapping[str, str] | None = None) -> None:
        self._options = ("--data-dir", str(folder / "data"), *options)
        self._env = {**os.environ, **(env or {})}
        self._log = folder / "conductor.log"
        self._process: subprocess.Popen[str] | None = None
        self.grpc = self.http = "127.0.0.1:0"
        self.local = ""

    def start(self) -> Self:
        """Start, and return when it serves."""
        command = [sys.executable, "-W", "error", "-m", "diminuendo.services.conductor", *self._options]
        command += ["--port", self.grpc.rpartition(":")[2], "--http-port", self.http.rpartition(":")[2]]
        with self._log.open("a") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=self._env)
        assert self._process.stdout is not None
        words = dict(word.partition("=")[::2] for word in self._process.stdout.readline().split())
        assert "ready" in words, self.log
        self.grpc, self.http, self.local = words["grpc"], words["http"], words.get("local", "")
        return self

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self._log.read_text()

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(30)
            if process.stdout is not None:
                process.stdout.close()

    def metrics(self) -> str:
        """Its page."""
        return fetched(f"http://{self.http}/metrics")[0]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


class Prometheus:
    """A Prometheus that scrapes conductors and knows our alerts."""

    def __init__(self, folder: Path, targets: list[str], *, scrape_s: float = SCRAPE_S) -> None:
        binary = tool("prometheus")
        self._address, self._folder = f"127.0.0.1:{free_port()}", folder
        folder.mkdir(parents=True)
        every = f"{round(scrape_s * 1000)}ms"
        config = {
            "global": {"scrape_interval": every, "evaluation_interval": "1s"},
            "rule_files": [str(ALERTS)],
            "scrape_configs": [{"job_name": "diminuendo", "static_configs": [{"targets": targets}]}],
        }
        (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        command = [binary, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}"]
        command += [f"--web.listen-address={self._address}", "--log.level=error", "--enable-feature=exemplar-storage"]
        with (folder / "log").open("w") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            until(self._ready, "Prometheus is ready")
        except BaseException:
            self.end()
            raise

    def _ready(self) -> bool:
        assert self._process.poll() is None, (self._folder / "log").read_text()
        try:
            fetched(f"http://{self._address}/-/ready")
        except urllib.error.URLError:
            return False
        return True

    def get(self, path: str, **asked: str | float) -> Any:
        """The data of an answer of the HTTP API."""
        url = f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(asked)}"
        try:
            answer = json.loads(fetched(url)[0])
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{asked}: {error.read().decode()}") from None
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expr: str, moment: float | None = None) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series now, or at a moment in seconds since the epoch."""
        when: dict[str, str | float] = {} if moment is None else {"time": moment}
        return [(one["metric"], float(one["value"][1])) for one in self.get("query", query=expr, **when)["result"]]

    def value(self, expr: str) -> float | None:
        """The one value; None without any."""
        found = self.query(expr)
        assert len(found) < 2, found
        return found[0][1] if found else None

    def range(self, expr: str, start: float, end: float, step: float) -> list[tuple[dict[str, str], Any]]:
        """Labels and (time, value) of each series over some time."""
        data = self.get("query_range", query=expr, start=start, end=end, step=step)
        return [(one["metric"], [(float(t), float(v)) for t, v in one["values"]]) for one in data["result"]]

    def scraped(self, times: int = 2) -> None:
        """Return once every target was scraped so many times more."""
        expr = "max(scrape_samples_scraped)"
        for _ in range(times):
            last = self._latest(expr)
            until(lambda last=last: self._latest(expr) > last, "a scrape")  # type: ignore[misc]

    def _latest(self, expr: str) -> float:
        return self.value(f"max(timestamp({expr.removeprefix('max(').removesuffix(')')}))") or 0.0

    def end(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(30)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
