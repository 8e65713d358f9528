"""A real job on a real server: each query of the dashboards has data, each evaluation its trace, a killed one shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.observability import boards
from tests.observability.real import running
from tests.observability.rig import until
from tests.observability.test_prometheus import has_data

from diminuendo.services.common import tracing

SHOWN_S = 15.0
ABSENT = {
    *("Uploads", "Content in store", "Content through the conductors", "Savings by fleet", "Models of each fleet"),
    *("Running jobs", "Distance to delta", "Drop and delta", "Best ratio of running jobs", "Quiet jobs"),
    *("Calls that failed", "Wait for a coordinator"),
}
"""Panels that ask for something that is not there, or not any more: a fleet, an upload, a collection of garbage, a call
that failed; and once the job has ended, a job that waits or runs.
"""


@pytest.mark.apart
@pytest.mark.timeout(900)
def test_a_real_job_is_seen_by_prometheus_and_traced(tmp_path: Path) -> None:
    with running(tmp_path) as run:
        budget = {"evaluations": 5, "epochs": 15}
        job = run.client.submit("zoo:digits", delta=3.0, effort="quick", stage=1, budget=budget)
        until(lambda: run.able() == 2 and run.prometheus.value("sum(diminuendo_steps_committed_total)"), "it runs")
        assert run.kill_evaluator() < SHOWN_S
        info = job.wait(timeout_s=600)
        run.prometheus.scraped(3)
        empty = {
            panel.title
            for panel in boards.panels()
            for expr, _ in panel.queries
            if not has_data(run.prometheus, boards.filled(expr, interval="5m", whole="15m"))
        }
        samples = run.prometheus.value("sum(diminuendo_samples_total)")
    (submit,) = [span for span in run.receiver.spans if span.name == "CreateJob"]
    roots = [span for span in run.receiver.spans if span.name == "evaluation"]
    phases = {span.name for span in run.receiver.spans if span.service == "diminuendo-coordinator"}
    assert info.state == "SUCCEEDED"
    assert empty <= ABSENT
    assert samples
    assert {root.links for root in roots} == {(f"{submit.trace}-{submit.span}",)}
    assert len({root.trace for root in roots}) == len(roots) > 5
    assert {"queue", "attempt", "build", "train", "score", "upload"} <= phases
    index = int(roots[0].attributes["diminuendo.work"])
    assert roots[0].trace == tracing.evaluation_trace_id(job.name, 1, index)
