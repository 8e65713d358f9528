"""Draws docs/img/observability-*.png: every panel of the dashboards, of a real run, from Prometheus' own answers.

``python -m tests.observability.pictures`` runs a server with two evaluators and four jobs on the digits network: one by
itself and a fleet of three, of which one asks for more than can be. In the middle an evaluator is killed. Grafana
itself is not part of it: matplotlib draws what Grafana would be given.
"""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
from diminuendo.v1 import fleet_pb2, fleet_service_pb2, job_pb2
from matplotlib import pyplot
from tests.observability import boards
from tests.observability.boards import Panel
from tests.observability.real import Run, running
from tests.observability.rig import Prometheus

PARENT, FLEET = "projects/vision", "projects/vision/fleets/digits"
MODELS = {"tight": 0.5, "loose": 4.0, "hopeless": 0.001}
"""Delta of each model of the fleet."""
POINTS, INTERVAL = 150, "30s"
SCALES = {"bytes": (1e6, "MB"), "Bps": (1e3, "kB/s"), "percentunit": (0.01, "%"), "s": (1.0, "s"), "x": (1.0, "x")}
LIMIT_S, MINUTES = 900.0, 5.0


def work(run: Run) -> float:
    """The jobs, to their ends; a moment at which they ran, in seconds since the epoch."""
    alone = run.client.submit(
        "zoo:digits", delta=2.0, effort="quick", stage=2, budget={"minutes": MINUTES}, job_id="alone"
    )
    fleet = fleet_service_pb2.CreateFleetRequest(parent=PARENT, fleet_id="digits", fleet=fleet_pb2.Fleet())
    run.life.fleets.CreateFleet(fleet, timeout=10)
    models = [
        fleet_service_pb2.FleetModel(
            model=model,
            job=job_pb2.Job(
                spec=job_pb2.JobSpec(
                    zoo="digits",
                    delta=delta,
                    effort=job_pb2.EFFORT_QUICK,
                    stage=1,
                    budget=job_pb2.Budget(evaluations=6, epochs=24.0),
                )
            ),
        )
        for model, delta in MODELS.items()
    ]
    run.life.fleets.BatchCreateJobs(fleet_service_pb2.BatchCreateJobsRequest(parent=FLEET, models=models), timeout=10)
    time.sleep(40)  # into the middle of it
    moment = time.time()
    print(f"the metrics showed a killed evaluator after {run.kill_evaluator():.1f} s")
    alone.wait(timeout_s=LIMIT_S)
    run.client.fleet("digits").wait(timeout_s=LIMIT_S)
    alone.download(Path(tempfile.mkdtemp()) / "result")
    run.client.collect_garbage(dry_run=False)
    run.prometheus.scraped(3)
    return moment


def draw(panel: Panel, prometheus: Prometheus, start: float, end: float, moment: float) -> None:
    """One panel's picture; of tables at a moment."""
    whole = f"{math.ceil(end - start)}s"
    queries = [(boards.filled(expr, interval=INTERVAL, whole=whole), legend) for expr, legend in panel.queries]
    figure, axes = pyplot.subplots(figsize=(6.4, 2.6), dpi=110, layout="constrained")
    scale, unit = SCALES.get(panel.unit, (1.0, ""))
    if panel.kind == "timeseries":
        _lines(axes, prometheus, queries, (start, end), scale)
        axes.set_xlabel("minutes")
        axes.set_ylabel(unit)
    elif panel.kind == "table":
        _table(axes, prometheus, queries[0][0], moment)
    else:
        found = [(boards.legend(legend, m), v / scale) for expr, legend in queries for m, v in prometheus.query(expr)]
        bars = axes.barh([name for name, _ in found], [value for _, value in found], color="#4c72b0", height=0.5)
        axes.bar_label(bars, fmt=f"%.4g {unit}", padding=3)
        axes.margins(x=0.2, y=0.3)
    axes.set_title(panel.question, fontsize=9, loc="left")
    figure.savefig(boards.picture(panel), metadata={"Software": None})
    pyplot.close(figure)


def _lines(axes: Any, prometheus: Prometheus, queries: Any, span: tuple[float, float], scale: float) -> None:
    start, end = span
    for expr, template in queries:
        for labels, points in prometheus.range(expr, start, end, max(1.0, (end - start) / POINTS)):
            times = [(when - start) / 60 for when, _ in points]
            values = [value / scale for _, value in points]
            axes.plot(times, values, label=boards.legend(template, labels), linewidth=1.2)
    axes.set_xlim(0, (end - start) / 60)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    else:
        axes.text(0.5, 0.5, "nothing happened of this kind", transform=axes.transAxes, ha="center")


def _table(axes: Any, prometheus: Prometheus, expr: str, moment: float) -> None:
    axes.axis("off")
    found = prometheus.query(expr, moment)
    names = sorted({name for labels, _ in found for name in labels})
    cells = [[labels.get(name, "") for name in names] + [f"{value:g}"] for labels, value in found]
    table = axes.table(cells, colLabels=[*names, "value"], loc="center")
    table.auto_set_font_size(False)
    table.set_fontsize(7)


def main() -> None:
    """Run, and draw."""
    mpl.use("Agg")
    with tempfile.TemporaryDirectory(prefix="diminuendo-pictures-") as folder, running(Path(folder)) as run:
        start = time.time()
        moment = work(run)
        end = time.time()
        for panel in boards.panels():
            draw(panel, run.prometheus, start, end, moment)
            print(boards.picture(panel).name)


if __name__ == "__main__":
    main()
