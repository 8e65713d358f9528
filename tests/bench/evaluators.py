"""Benchmark: the demo's job on two evaluators against one, and the coordinator's own overhead.

    python -m tests.bench.evaluators [--runs N] [--effort quick] [--out FILE]

Each run is a server of its own with an empty data folder, so that no outcome is remembered; one and two evaluators
take turns. The time is from the first lease to the end of the job, by the job's own events; start and stop of the
processes are told beside it. The overhead is the share of the job's time in which an evaluator was idle although a
work was waiting for it or about to be asked for, by the coordinator's own accounts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tests.e2e.server import Server, marked, resident_mib, serving

from diminuendo.client import Client
from diminuendo.client.types import JobState, Leased, StateChanged

OUT = Path(__file__).parent / "results" / "evaluators.json"
SEED = 0


@dataclass(frozen=True)
class Run:
    """One job.

    Attributes:
        total_s: From the start of the server's process to the job's end.
        job_s: From the first lease to the job's end.
        busy_s: Evaluator seconds with a work.
        idle_ready_s: Seconds in which an evaluator was idle although work was ready.
        peak_mib: Most memory of all processes together, sampled every two seconds (PSS).
    """

    evaluators: int
    total_s: float
    job_s: float
    busy_s: float
    idle_ready_s: float
    peak_mib: float
    params_ratio: float
    sealed_drop: float

    @property
    def overhead(self) -> float:
        """Share of the job's time that the coordinator cost."""
        return self.idle_ready_s / self.job_s


def measure(evaluators: int, effort: str) -> Run:
    """Run the job once."""
    with tempfile.TemporaryDirectory(prefix="diminuendo-bench-") as folder:
        start = time.monotonic()
        with serving(Path(folder), evaluators=evaluators) as server, Client(server.target) as client:
            peak = _Peak(server)
            job = client.submit("zoo:digits", delta=1.0, effort="quick" if effort == "quick" else "normal", seed=SEED)
            events = list(job.watch())
            total = time.monotonic() - start
            peak.stop()
            info = job.info()
        if info.state is not JobState.SUCCEEDED or info.result is None:
            raise RuntimeError(f"the job ended {info.state}: {info.failure}")
        leased = next(e.time for e in events if isinstance(e, Leased))
        ended = next(e.time for e in events if isinstance(e, StateChanged) and e.state.final)
        accounts = _accounts(Path(folder) / "logs" / "coordinator.log")
    return Run(
        evaluators=evaluators,
        total_s=total,
        job_s=(ended - leased).total_seconds(),
        busy_s=accounts["busy_s"],
        idle_ready_s=accounts["idle_ready_s"],
        peak_mib=peak.mib,
        params_ratio=info.result.params_ratio,
        sealed_drop=info.result.drop,
    )


class _Peak:
    """Samples the memory of a server's processes."""

    def __init__(self, server: Server) -> None:
        self.mib = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, args=(server.mark,))
        self._thread.start()

    def _sample(self, mark: str) -> None:
        while not self._over.wait(2.0):
            self.mib = max(self.mib, resident_mib(marked(mark)))

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


def _accounts(log: Path) -> dict[str, float]:
    """What the coordinator wrote of the job's time, from its log of JSON lines."""
    for line in reversed(log.read_text().splitlines()):
        if '"job_accounts"' in line:
            found: dict[str, float] = json.loads(line)
            return found
    raise RuntimeError(f"{log} has no accounts of a job")


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--effort", choices=["quick", "normal"], default="quick")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    runs: list[Run] = []
    for turn in range(options.runs):
        for evaluators in (1, 2):
            run = measure(evaluators, options.effort)
            runs.append(run)
            print(
                f"run {turn + 1}, {evaluators} evaluator(s): {run.job_s:.1f} s, overhead {run.overhead:.2%}", flush=True
            )
    one, two = ([r for r in runs if r.evaluators == n] for n in (1, 2))
    ratios = [a.job_s / b.job_s for a, b in zip(one, two, strict=True)]
    report = {
        "command": f"python -m tests.bench.evaluators --runs {options.runs} --effort {options.effort}",
        "job": f"zoo:digits, delta 1.0, effort {options.effort}, seed {SEED}",
        "machine": f"{_processor()}, {os.cpu_count()} cores; {platform.system()}, Python {platform.python_version()}",
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "one_evaluator_job_s": statistics.median(r.job_s for r in one),
        "two_evaluators_job_s": statistics.median(r.job_s for r in two),
        "two_evaluators_total_s": statistics.median(r.total_s for r in two),
        "speedup": statistics.median(ratios),
        "overhead_one": statistics.median(r.overhead for r in one),
        "overhead_two": statistics.median(r.overhead for r in two),
        "peak_mib_two": max(r.peak_mib for r in two),
        "runs": [asdict(r) for r in runs],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps({name: value for name, value in report.items() if name != "runs"}, indent=2))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.processor()


if __name__ == "__main__":
    main()
