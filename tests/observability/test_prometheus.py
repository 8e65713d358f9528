"""A real Prometheus scrapes a real conductor: pages are in order, every query has data, counters survive a SIGKILL."""

from __future__ import annotations

import math
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from diminuendo.v1 import job_service_pb2
from tests.certificates import Authority
from tests.observability import boards
from tests.observability.life import Life, Watching, refused
from tests.observability.rig import ALERTS, Conductor, Prometheus, tool, until

INTERVAL, WHOLE = "10s", "1m"


@contextmanager
def calling(target: str) -> Iterator[Life]:
    """A client on a connection of its own."""
    with grpc.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield Life(channel)


def test_alerts_are_rules_that_fire_when_they_are_to_and_no_sooner() -> None:
    done = subprocess.run([tool("promtool"), "check", "rules", str(ALERTS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    tests = Path(__file__).with_name("rules_test.yaml")
    done = subprocess.run([tool("promtool"), "test", "rules", str(tests)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    alerts = [rule["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    cases = [case for test in yaml.safe_load(tests.read_text())["tests"] for case in test["alert_rule_test"]]
    assert len(alerts) > 10
    for alert in alerts:
        assert any(case["alertname"] == alert and case.get("exp_alerts") for case in cases), f"{alert} is seen to fire"
        assert any(case["alertname"] == alert and not case.get("exp_alerts") for case in cases), (
            f"{alert} is not always"
        )


def test_every_query_of_the_dashboards_has_data(tmp_path: Path) -> None:
    pair = Authority(tmp_path / "ca").issue("conductor")
    tls = ("--tls-cert-file", str(pair.cert), "--tls-key-file", str(pair.key), "--local-port", "0")
    with (
        Conductor(tmp_path, *tls) as conductor,
        Prometheus(tmp_path / "prometheus", [conductor.http]) as prometheus,
        calling(conductor.local) as life,
    ):
        prometheus.scraped(1)
        for number in range(2):  # a rate needs what was there before to rise
            lease = life.round(number)
            watching = Watching(life, lease.job.name)
            wait = job_service_pb2.WaitJobRequest(name=lease.job.name)
            wait.timeout.nanos = 1_000_000
            life.jobs.WaitJob(wait, timeout=10)
            assert refused(lambda: life.jobs.GetJob(job_service_pb2.GetJobRequest(name="projects/p/jobs/none"))) is (
                grpc.StatusCode.NOT_FOUND
            )
            prometheus.scraped(2)
            if number == 0:
                watching.end()
        empty = [
            f"{panel.board} / {panel.title}: {expr}"
            for panel in boards.panels()
            for expr, _ in panel.queries
            if not has_data(prometheus, boards.filled(expr, interval=INTERVAL, whole=WHOLE))
        ]
        page = conductor.metrics()
        checked = subprocess.run([tool("promtool"), "check", "metrics"], input=page, capture_output=True, text=True)
        groups = until(lambda: evaluated(prometheus), "every alert was evaluated")
        watching.end()
    assert not empty, "\n".join(empty)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}
    states = {rule["name"]: rule["state"] for group in groups for rule in group["rules"]}
    assert states["DiminuendoCertificateExpiring"] == "pending", "the tests' certificates last a day"
    assert states["DiminuendoStoreAway"] == states["DiminuendoDown"] == "inactive"


def has_data(prometheus: Prometheus, expr: str) -> bool:
    """Whether a query has a value that is a number."""
    return any(not math.isnan(value) for _, value in prometheus.query(expr))


def evaluated(prometheus: Prometheus) -> list[dict[str, Any]] | None:
    """The groups of rules, once each rule was evaluated."""
    groups: list[dict[str, Any]] = prometheus.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    return groups if all(rule["health"] != "unknown" for rule in rules) else None


def test_what_is_counted_is_right_over_a_conductor_that_is_killed(tmp_path: Path) -> None:
    with Conductor(tmp_path) as conductor, Prometheus(tmp_path / "prometheus", [conductor.http]) as prometheus:
        prometheus.scraped(2)
        with calling(conductor.grpc) as life:
            for _ in range(5):
                life.create()
        prometheus.scraped(2)
        conductor.end(signal.SIGKILL)
        until(lambda: prometheus.value("up") == 0, "Prometheus sees that it is gone")
        conductor.start()
        until(lambda: prometheus.value("up") == 1, "Prometheus sees that it is back")
        prometheus.scraped(1)
        with calling(conductor.grpc) as life:
            for _ in range(3):
                life.create()
        prometheus.scraped(2)
        assert prometheus.value("resets(diminuendo_jobs_created_total[1m])") == 1
        # What Prometheus adds for the ends of the window is less than one scrape's share.
        assert prometheus.value("increase(diminuendo_jobs_created_total[1m])") == pytest.approx(8, abs=1.5)
        assert prometheus.value("sum(diminuendo_jobs)") == 8, "what the database tells does not begin anew"
