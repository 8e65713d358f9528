"""Benchmark: speed of compressed networks on this CPU, and of plans that the latency table makes.

    python -m tests.bench.latency --result DIR [--weights FILE] [--data DIR]
    python -m tests.bench.latency [--model NAME] [--weights FILE] [--data DIR] [--ratios R ...] [--threads N]

With `--result`, a folder as `diminuendo compress --out` writes it: the compressed network against the original, in
PyTorch (eager, each in its faster memory layout) and exported to ONNX Runtime, at batch 1 and 32, with one and with two
threads; the two take turns, and ratios are medians over rounds. Weights matter little to the time; without them the
original's are random.

Without it the table is put to the test: a survey with its calibration and its timing, then plans of the multiplier path
for the fastest network at several ratios, and for the smallest at the ratios of params that were published, untuned.
The ratio that the table predicts stands beside the one that is measured whole. Without weights or data the network is
random and sees noise, which times alike; only which plans are made is then arbitrary.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.bench.latency_plans import Surveyor, of_table, task_of
from tests.bench.networks import SEED, inputs_of, network_of
from tests.bench.results import command_line, record
from tests.bench.runtimes import speeds

from diminuendo.engine import load
from diminuendo.engine.search.check import request_of
from diminuendo.engine.workfolder import WorkFolder
from diminuendo.engine.zoo.catalog import Source

BATCHES, THREADS = (1, 32), (1, 2)
RATIOS = (1.25, 1.58, 2.0, 3.0, 4.0)
"""How many times as fast plans are to be."""
AIM = 1.58
"""Published ratio of time for ResNet18 (Deeplite Neutrino 2021)."""


def of_result(folder: Path, weights: Path | None, data: Path | None, *, rounds: int) -> dict[str, Any]:
    """Speed of a result folder's network."""
    plan = json.loads((folder / "plan.json").read_text())
    certificate = json.loads((folder / "certificate.json").read_text())
    source = Source.parse(str(plan["source"]).removeprefix("zoo:"))
    original = network_of(source, weights)
    inputs = inputs_of(source, data, max(BATCHES))
    rows = []
    for speed in speeds(original, load(folder, original), inputs, batches=BATCHES, threads=THREADS, rounds=rounds):
        rows.append(asdict(speed))
        print(
            f"{speed.runtime:11} batch {speed.batch:2}, {speed.threads} thread(s): {speed.original_ms:8.3f} ms -> "
            f"{speed.compressed_ms:8.3f} ms, {speed.ratio:.2f}x (spread {speed.spread:.0%})",
            flush=True,
        )
    names = ("objective", "limits", "params_ratio", "macs_ratio", "drop", "inside_delta", "time_ratio", "latency")
    return {
        "network": str(source),
        "certificate": {name: certificate.get(name) for name in names},
        "speeds": rows,
        "aim": {"ratio": AIM, "of": "pytorch, batch 1, one thread, for the objective latency"},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 when a network that was made for its latency misses the aim."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.latency", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--result", type=Path, help="result folder of a zoo network")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--ratios", type=float, nargs="+", default=RATIOS)
    parser.add_argument("--threads", type=int, default=1, help="of the plans' table")
    parser.add_argument("--formats", nargs="+", default=["svd", "tucker2", "cp"], help="that plans may have")
    parser.add_argument("--work", type=Path, help="folder that keeps the survey")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--name", help="of the record")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        if options.result is not None:
            figures = of_result(options.result, options.weights, options.data, rounds=options.rounds)
            name = options.name or f"latency-{options.result.resolve().name}"
        else:
            source = Source.parse(options.model)
            request = request_of(
                str(source), 1.0, seed=SEED, threads=options.threads, formats=options.formats, objective="latency"
            )
            task = task_of(source, options.weights, options.data)
            surveyor = Surveyor.of(task, request, WorkFolder(options.work or scratch))
            figures = of_table(surveyor, inputs_of(source, options.data, 1), options.ratios, rounds=options.rounds)
            name = options.name or f"latency-plans-{source.entry.name}"
    out = record(
        name,
        figures,
        command=command_line("tests.bench.latency", arguments),
        seed=SEED,
        threads=list(THREADS) if options.result is not None else options.threads,
        weights="random" if options.weights is None else options.weights.name,
        inputs="noise" if options.data is None else "evaluation images",
        rounds=options.rounds,
    )
    print(f"record: {out}")
    return 0 if met(figures) else 1


def met(figures: dict[str, Any]) -> bool:
    """Whether a network that was made for its latency is as much faster as the aim says, where the job measured it."""
    if figures.get("certificate", {}).get("objective") != "latency":
        return True
    return any(
        row["ratio"] >= AIM
        for row in figures["speeds"]
        if (row["runtime"], row["batch"], row["threads"]) == ("pytorch", 1, 1)
    )


if __name__ == "__main__":
    sys.exit(main())
