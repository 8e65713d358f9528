"""Benchmark: what each part of the method pays, at equal params and equal epochs.

    python -m tests.bench.ablation [--networks digits midsize] [--variants ...] [--seeds N ...]

Each variant differs from `base` in one thing: data-aware, calibrated, all formats mixed along the multiplier path, from
factors in one shot, layers and head fitted in closed form, with distillation. Told are the drop and the divergence on
all evaluation data, on which nothing is chosen. Finished cells are kept in a folder, so that a stopped run goes on.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tests.bench.ablate.stand import FORMATS, Stand
from tests.bench.ablate.variants import VARIANTS
from tests.bench.compare.cells import Cells
from tests.bench.compare.subjects import SubjectName, subject
from tests.bench.results import command_line, record

from diminuendo.engine.search.work import ENGINE_REVISION

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
FOLDER = Path(".build") / "bench-ablation"


@dataclass(frozen=True)
class Setup:
    """How one network is ablated.

    Attributes:
        ratios: Params of the original for each of the compressed network's.
        epochs: Tuning of each network.
        samples: Training images of an epoch of the mid-size network.
    """

    name: SubjectName
    ratios: tuple[float, ...]
    epochs: float
    seeds: tuple[int, ...]
    formats: tuple[str, ...]
    samples: int = 0


SETUPS = {
    "digits": Setup("digits", (6.0, 12.0, 20.0), 8, (0, 1, 2), FORMATS),
    "midsize": Setup("midsize", (4.0, 8.0), 4, (0,), ("svd", "tucker2", "cp"), samples=4000),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute the cells, print the tables, write the record."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    tables: dict[str, Any] = {}
    for name in options.networks:
        setup = SETUPS[name]
        seeds = options.seeds or setup.seeds
        cells = Cells(options.folder / name, {**asdict(setup), "seeds": [], "revision": ENGINE_REVISION})
        for seed in seeds:
            _compute(setup, seed, options, cells)
        table = {v: rows for v in VARIANTS if (rows := [c for s in seeds if (c := cells.get(f"{_file(v)}-{s}"))])}
        tables[name] = _figures(setup, table)
        sys.stdout.write(_report(setup, table))
    command = command_line("tests.bench.ablation", arguments)
    setups = {name: asdict(SETUPS[name]) for name in options.networks}
    record(options.out, {"networks": tables}, command=command, seed=0, setups=setups)
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ablation", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=tuple(SETUPS), default=list(SETUPS))
    parser.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, help="default: three for digits, one for midsize")
    parser.add_argument("--data", type=Path, default=SHARED / "cifar100", help="CIFAR-100's parquet files, for midsize")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of finished cells")
    parser.add_argument("--out", default="ablation", help="name of the record under results/")
    return parser.parse_args(arguments)


def _compute(setup: Setup, seed: int, options: argparse.Namespace, cells: Cells) -> None:
    """All variants of one network under one seed, on one stand."""
    stand: Stand | None = None
    for name in options.variants:
        cell = f"{_file(name)}-{seed}"
        if cells.get(cell) is not None:
            continue
        if stand is None:
            task = subject(setup.name, data=options.data, samples=setup.samples).task
            stand = Stand(task, seed, setup.epochs, setup.formats)
        begun = time.perf_counter()
        stand.begin()
        scored = VARIANTS[name](stand, setup.ratios)
        seconds = time.perf_counter() - begun
        cells.keep(cell, {"scored": [asdict(each) for each in scored], "seconds": seconds})
        shown = ", ".join(f"{s.ratio:.2f}x {s.drop:.2f} (KL {s.divergence:.4f})" for s in scored)
        sys.stderr.write(f"{setup.name} seed {seed} {name}: {shown}; {seconds:.0f} s\n")
        sys.stderr.flush()


def _file(variant: str) -> str:
    return variant.replace(", ", "-").replace(" ", "_")


def _figures(setup: Setup, table: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Means and spreads of each variant at each ratio."""
    return {
        name: {
            f"{ratio:g}x": {
                figure: {"mean": statistics.fmean(values), "spread": statistics.pstdev(values), "values": values}
                for figure in ("ratio", "drop", "divergence")
                if (values := [row["scored"][i][figure] for row in rows])
            }
            for i, ratio in enumerate(setup.ratios)
        }
        for name, rows in table.items()
    }


def _report(setup: Setup, table: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The table as markdown: drop in points and its spread over seeds, divergence in thousandths of a nat."""
    ratios = [f"{ratio:g}x" for ratio in setup.ratios]
    seeds = max(map(len, table.values()), default=0)
    lines = [f"| {setup.name}, {setup.epochs:g} epochs, {seeds} seed(s) | {' | '.join(ratios)} |"]
    lines.append("|" + "---|" * (len(ratios) + 1))
    for name, figures in _figures(setup, table).items():
        cells = [
            f"{cell['drop']['mean']:.2f} ± {cell['drop']['spread']:.2f} ({1e3 * cell['divergence']['mean']:.1f})"
            for cell in figures.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n\n"


if __name__ == "__main__":
    raise SystemExit(main())
