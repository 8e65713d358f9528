"""Benchmark: our search against TPE, random search, uniform ranks and channel pruning, at the same total epochs.

    python -m tests.bench.search [--network midsize|digits] [--data DIR] [--methods ...] [--seeds ...] [--epochs N]

The figure is the params ratio at delta 1.0 on the sealed half of the evaluation data. All methods have the same
network, the same split of its data, the same forms of its layers from the same survey, the same fine-tuning recipe and
as many epochs; what they share is computed once. Finished cells are kept in a folder, so that a stopped run goes on,
and two processes may take a share of the methods or seeds each; the last one to finish writes the record.
"""

from __future__ import annotations

import argparse
import fcntl
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
from tests.bench.compare.cells import Cells
from tests.bench.compare.course import ROUNDING
from tests.bench.compare.lab import DELTA, Lab
from tests.bench.compare.methods import METHODS
from tests.bench.compare.subjects import FORMATS, Subject, subject
from tests.bench.results import command_line, record, version

from diminuendo.engine.search.work import ENGINE_REVISION

EPOCHS = 4.0
SAMPLES = 50_000
SEEDS = (0, 1, 2)
AIM = 1.3
DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar100"
FOLDER = Path(".build") / "bench-search"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute the cells that are asked for, print the table, and write the record once it is whole."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    network = subject(options.network, data=options.data, samples=options.samples)
    folder = options.folder / f"{network.name}-{network.samples}-{options.epochs:g}"
    with at_work(folder) as mark:
        return _run(options, network, folder, mark)


def _run(options: argparse.Namespace, network: Subject, folder: Path, mark: IO[str]) -> int:
    settings = {
        "network": network.name,
        "samples": network.samples,
        "epochs": options.epochs,
        "delta": DELTA,
        "formats": FORMATS,
        "threads": options.threads,
    }
    cells = Cells(folder / "cells", {**settings, "revision": ENGINE_REVISION})
    for seed in options.seeds:
        for method in options.methods:
            begun = time.perf_counter()
            cell = cells.computed(f"{method}-{seed}", partial(_cell, method, seed, network, folder / "work", options))
            _say(f"{method} seed {seed}: {_line(cell)} ({time.perf_counter() - begun:.0f} s now)")
    finished = {(method, seed): cells.get(f"{method}-{seed}") for method in METHODS for seed in options.seeds}
    table = {m: {s: cell for (n, s), cell in finished.items() if n == m and cell} for m in METHODS}
    sys.stdout.write(_report(table))
    if any(len(row) < len(options.seeds) for row in table.values()):
        _say("the record is written when all methods are there")
        return 0
    command = command_line("tests.bench.search", _relevant(options))
    figures = {"aim": AIM, "gain": gain(table), "methods": _figures(table)}
    path = record(options.out, figures, command=command, seed=options.seeds[0], seeds=options.seeds, **settings)
    swept(mark, folder / "work")
    _say(f"{path}: gain {gain(table):.2f}x, aim {AIM}x")
    return 0 if gain(table) >= AIM else 1


def at_work(folder: Path) -> IO[str]:
    """The mark of a process at work in the folder, held until it is closed or the process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = (folder / "in-use").open("w")
    fcntl.flock(mark, fcntl.LOCK_SH)
    return mark


def swept(mark: IO[str], work: Path) -> bool:
    """Whether what methods share was deleted: the last process at work does that."""
    try:
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    shutil.rmtree(work, ignore_errors=True)
    return True


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.search", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", choices=("digits", "midsize"), default="midsize")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of CIFAR-100's parquet files, for midsize")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="training images of an epoch, for midsize")
    parser.add_argument("--epochs", type=float, default=EPOCHS, help="that each method has in all")
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of finished cells, and of what they share")
    parser.add_argument("--out", default=None, help="name of the record under results/")
    options = parser.parse_args(arguments)
    options.out = options.out or ("search" if options.network == "midsize" else f"search-{options.network}")
    return options


def _relevant(options: argparse.Namespace) -> list[str]:
    """The options that make the whole table."""
    samples = ["--samples", str(options.samples)] if options.network == "midsize" else []
    return ["--network", options.network, *samples, "--epochs", f"{options.epochs:g}"]


def _cell(method: str, seed: int, network: Subject, work: Path, options: argparse.Namespace) -> Mapping[str, Any]:
    """One method under one seed."""
    lab = Lab(
        network,
        work / str(seed),
        method=method,
        seed=seed,
        epochs=options.epochs,
        threads=options.threads,
    )
    found = METHODS[method](lab)
    if found.epochs > options.epochs * (1 + ROUNDING):
        raise RuntimeError(f"{method}: {found.epochs} epochs were spent, of {options.epochs}")
    return asdict(found.certified) | {
        "epochs": found.epochs,
        "seconds": round(found.seconds, 1),
        "trials": found.trials,
        "version": version(),
    }


def gain(table: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> float:
    """Our median ratio over the best median of the others."""
    medians = {method: _median(row) for method, row in table.items()}
    return medians["ours"] / max(median for method, median in medians.items() if method != "ours")


def _median(row: Mapping[int, Mapping[str, Any]]) -> float:
    return statistics.median(float(cell["ratio"]) for cell in row.values())


def _figures(table: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> dict[str, Any]:
    return {
        method: {"median_ratio": _median(row), "seeds": {str(seed): dict(cell) for seed, cell in row.items()}}
        for method, row in table.items()
    }


def _line(cell: Mapping[str, Any]) -> str:
    return (
        f"{cell['ratio']:.2f}x, sealed drop {cell['drop']:.2f}, search drop {cell['search_drop']:.2f}, "
        f"{cell['epochs']:.3g} epochs, {cell['seconds']:.0f} s"
    )


def _report(table: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> str:
    """The table as markdown."""
    lines = ["| method | params ratio by seed | median | sealed drop | epochs | seconds |", "|---|---|---|---|---|---|"]
    for method, row in table.items():
        if not row:
            continue
        columns = [
            ", ".join(form.format(cell[name]) for cell in row.values())
            for name, form in (("ratio", "{:.2f}"), ("drop", "{:.2f}"), ("epochs", "{:.3g}"), ("seconds", "{:.0f}"))
        ]
        ratios, *rest = columns
        lines.append(f"| {' | '.join([method, ratios, f'{_median(row):.2f}', *rest])} |")
    return "\n".join(lines) + "\n"


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    raise SystemExit(main())
