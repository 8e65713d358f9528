"""Benchmark: calibrating every layer of ResNet18 for CIFAR-100, by partial forwards and by whole ones.

    python -m tests.bench.calibrate [--threads N] [--samples N] [--weights FILE] [--data DIR] [--layers NAME ...]
                                    [--partial-only] [--name NAME]

For the formats svd and tucker2, and for those of `normal` effort: factors of each layer (counted by themselves), then
what its forms harm, measured both ways one after the other, layer by layer, so that a machine that gets slower slows
both. Covariances, taken once, count for neither. Without weights or data the network has random weights and sees noise,
which takes as long; the record says so.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tests.bench.results import command_line, record
from tests.bench.survey import NETWORK, SEED, SHARED, WEIGHTS, inputs_of, network
from torch import Tensor, nn

from diminuendo.engine.formats import Moments
from diminuendo.engine.plan import LayerSpec
from diminuendo.engine.search.settings import EFFORTS
from diminuendo.engine.survey import factors, moments
from diminuendo.engine.survey.calibrate import Calibration
from diminuendo.engine.survey.discover import discover
from diminuendo.engine.workbench import CALIBRATION_SAMPLES

FORMATS = {"svd+tucker2": ("svd", "tucker2"), "normal": EFFORTS["normal"].formats}
MOMENT_SAMPLES = 500
AIM_SECONDS = 300.0


@dataclass
class Taken:
    """Seconds of one set of formats, layer by layer, and what was measured."""

    factors: dict[str, float] = field(default_factory=dict)
    partial: dict[str, float] = field(default_factory=dict)
    whole: dict[str, float] = field(default_factory=dict)
    measurements: int = 0
    apart: float = 0.0

    def figures(self) -> dict[str, object]:
        """For the record."""
        found: dict[str, object] = {
            "factors_seconds": sum(self.factors.values()),
            "partial_seconds": sum(self.partial.values()),
            "calibration_seconds": sum(self.factors.values()) + sum(self.partial.values()),
            "measurements": self.measurements,
            "layers": {name: {"factors": self.factors[name], "partial": self.partial[name]} for name in self.partial},
        }
        if self.whole:
            found |= {
                "whole_seconds": sum(self.whole.values()),
                "whole_over_partial": sum(self.whole.values()) / sum(self.partial.values()),
                "largest_relative_difference": self.apart,
                "whole_layers": self.whole,
            }
        return found


def measure(
    model: nn.Module,
    inputs: Tensor,
    layers: Sequence[LayerSpec],
    seen: Mapping[str, Moments],
    formats: Sequence[str],
    *,
    whole: bool,
) -> Taken:
    """Factor and calibrate layers in some formats; says the seconds of factors, partial and whole forwards."""
    taken = Taken()
    for spec in layers:
        start = time.perf_counter()
        made = factors.factor(model, spec, seen[spec.name], formats)
        taken.factors[spec.name] = time.perf_counter() - start
        damages: list[list[float]] = []
        ways = (taken.partial, taken.whole) if whole else (taken.partial,)
        for seconds in ways:
            calibration = Calibration(model, inputs, partial=seconds is taken.partial)
            start = time.perf_counter()
            _, measured = calibration.options(spec, made)
            seconds[spec.name] = time.perf_counter() - start
            damages.append([damage for _, _, damage in measured])
        taken.measurements += len(damages[0])
        taken.apart = max([taken.apart, *(abs(a - b) / max(a, b, 1e-6) for a, b in zip(*damages, strict=True))])
        sys.stdout.write(
            f"{spec.name}: factors {taken.factors[spec.name]:.1f} s, "
            + ", ".join(
                f"{way} {seconds[spec.name]:.1f} s" for way, seconds in zip(("partial", "whole"), ways, strict=False)
            )
            + "\n"
        )
        sys.stdout.flush()
    return taken


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 when an aim is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.calibrate", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--samples", type=int, default=CALIBRATION_SAMPLES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", type=Path, default=WEIGHTS if WEIGHTS.exists() else None)
    parser.add_argument("--data", type=Path, default=SHARED / "cifar100" if (SHARED / "cifar100").exists() else None)
    parser.add_argument("--layers", nargs="+", metavar="NAME", help="these layers only; then no aim is judged")
    parser.add_argument("--partial-only", action="store_true", help="without the whole forwards to compare with")
    parser.add_argument("--name", default="calibrate", help="of the record in tests/bench/results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model = network(options.weights)
    inputs = inputs_of(options.data, max(options.samples, MOMENT_SAMPLES))
    layers = [s for s in discover(model, inputs).layers if not options.layers or s.name in options.layers]
    seen = moments.collect(model, layers, inputs[:MOMENT_SAMPLES])
    figures = {
        name: measure(model, inputs[: options.samples], layers, seen, formats, whole=not options.partial_only).figures()
        for name, formats in FORMATS.items()
    }
    path = record(
        options.name,
        figures,
        command=command_line("tests.bench.calibrate", arguments),
        seed=SEED,
        network=NETWORK,
        weights="random" if options.weights is None else options.weights.name,
        inputs="noise" if options.data is None else "CIFAR-100 training images",
        samples=options.samples,
        formats={name: list(names) for name, names in FORMATS.items()},
        peak_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        aims={"calibration_seconds": AIM_SECONDS},
    )
    sys.stdout.write(
        json.dumps({n: {k: v for k, v in f.items() if "layers" not in k} for n, f in figures.items()}, indent=2)
    )
    sys.stdout.write(f"\n{path}\n")
    met = all(float(str(f["calibration_seconds"])) < AIM_SECONDS for f in figures.values())
    return 0 if met or options.layers else 1


if __name__ == "__main__":
    raise SystemExit(main())
