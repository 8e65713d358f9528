"""Benchmark: the survey of ResNet18 for CIFAR-100, without its calibration, and candidates from its stored factors.

    python -m tests.bench.survey [--samples N] [--threads N] [--runs N] [--weights FILE] [--data DIR] [--out FILE]

Covariances from training samples, then factors of every layer in svd, svd_input, spatial and tucker2, written to a
DirectoryStore and read back: what evaluators do, one layer after the other in this process. Then whole candidates are
built from the stored factors at random ranks. Without weights or data the network has random weights and sees noise,
which takes as long; the record says so. Memory is the most that was resident, the interpreter and torch included.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shlex
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tests.bench.machine import machine
from torch import Tensor, nn

from diminuendo.engine import surgery, zoo
from diminuendo.engine.formats import FORMATS, Moments
from diminuendo.engine.plan import Choice, LayerSpec, Plan
from diminuendo.engine.store import DirectoryStore
from diminuendo.engine.survey import factors, moments
from diminuendo.engine.survey.discover import discover
from diminuendo.engine.workbench import fast
from diminuendo.engine.zoo.catalog import Source

NETWORK = "resnet18"
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
WEIGHTS = SHARED / "weights" / "resnet18-cifar100.safetensors"
SURVEYED = ("svd", "svd_input", "spatial", "tucker2")
SEED = 0
AIM_SECONDS, AIM_GIB, AIM_BUILD_MS = 45.0, 3.0, 50.0
OUT = Path(__file__).parent / "results" / "survey.json"


def inputs_of(data: Path | None, samples: int) -> Tensor:
    """(samples, 3, 32, 32) training images, or noise."""
    if data is None:
        return torch.randn(samples, 3, 32, 32, generator=torch.Generator().manual_seed(SEED))
    from diminuendo.engine.zoo import cifar

    found: Tensor = cifar.read(data, "train", Source.parse(NETWORK), limit=samples).inputs
    return found


def network(weights: Path | None) -> nn.Module:
    """The network in eval mode, with trained or random weights."""
    torch.manual_seed(SEED)
    model = zoo.network(NETWORK)
    if weights is not None:
        from diminuendo.engine.zoo.state import load_weights

        load_weights(model, weights, Source.parse(NETWORK))
    return fast(model.eval(), torch.empty(1, 3, 32, 32))


def random_plan(layers: Sequence[LayerSpec], names: Mapping[str, str], generator: random.Random) -> Plan:
    """Every layer in a format that it was factored in, at ranks from an eighth to a half of the highest."""
    choices = {}
    for spec in layers:
        form = FORMATS[names[spec.name]]
        ranks = tuple(max(1, int(top * generator.uniform(0.125, 0.5))) for top in form.max_ranks(spec))
        choices[spec.name] = Choice(form.name, ranks)
    return Plan.of(choices)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 when an aim is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.survey", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3, help="surveys; medians are reported")
    parser.add_argument("--weights", type=Path, default=WEIGHTS if WEIGHTS.exists() else None)
    parser.add_argument("--data", type=Path, default=SHARED / "cifar100" if (SHARED / "cifar100").exists() else None)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model, inputs = network(options.weights), inputs_of(options.data, options.samples)
    layers = discover(model, inputs).layers
    seconds: dict[str, list[float]] = {"covariances": [], "factors": [], "first_build_ms": [], "build_ms": []}
    decompositions: Counter[str] = Counter()
    for _ in range(options.runs):
        start = time.perf_counter()
        seen = moments.collect(model, layers, inputs)
        seconds["covariances"].append(time.perf_counter() - start)
        with tempfile.TemporaryDirectory() as folder:
            decompositions = survey(model, layers, seen, DirectoryStore(folder), seconds)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    total = statistics.median(a + b for a, b in zip(seconds["covariances"], seconds["factors"], strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    record = {
        "command": shlex.join(
            ["python", "-m", "tests.bench.survey", *(sys.argv[1:] if arguments is None else arguments)]
        ),
        "network": NETWORK,
        "weights": "random" if options.weights is None else options.weights.name,
        "inputs": "noise" if options.data is None else "CIFAR-100 training images",
        "samples": len(inputs),
        "formats": list(SURVEYED),
        "layers": len(layers),
        "machine": machine(),
        "torch": torch.__version__,
        "threads": options.threads,
        "runs": options.runs,
        "seed": SEED,
        "survey_seconds": total,
        "covariances_seconds": medians["covariances"],
        "factors_seconds": medians["factors"],
        "build_ms": medians["build_ms"],
        "build_ms_most": max(seconds["build_ms"]),
        "peak_gib": peak,
        "eigendecompositions": dict(decompositions),
        "aims": {"survey_seconds": AIM_SECONDS, "peak_gib": AIM_GIB, "build_ms": AIM_BUILD_MS},
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=2) + "\n")
    sys.stdout.write(json.dumps(record, indent=2) + "\n")
    met = total < AIM_SECONDS and peak < AIM_GIB and medians["build_ms"] < AIM_BUILD_MS
    return 0 if met else 1


def survey(
    model: nn.Module,
    layers: Sequence[LayerSpec],
    seen: Mapping[str, Moments],
    store: DirectoryStore,
    seconds: dict[str, list[float]],
) -> Counter[str]:
    """Factor and store every layer, then build candidates; how many eigendecompositions there were, by size."""
    counted: Counter[str] = Counter()
    eigh = torch.linalg.eigh

    def counting(matrix: Tensor) -> object:
        counted[str(matrix.shape[-1])] += 1
        return eigh(matrix)

    torch.linalg.eigh = counting
    try:
        start = time.perf_counter()
        stored: dict[tuple[str, str], str] = {}
        for spec in layers:
            for name, tensors in factors.factor(model, spec, seen[spec.name], SURVEYED).items():
                stored[spec.name, name] = store.put(factors.to_bytes(tensors))
        seconds["factors"].append(time.perf_counter() - start)
    finally:
        torch.linalg.eigh = eigh
    generator = random.Random(SEED)
    held = {key: factors.from_bytes(store.get(sha256)) for key, sha256 in stored.items()}
    for turn in range(11):
        names = {spec.name: generator.choice([n for layer, n in held if layer == spec.name]) for spec in layers}
        plan = random_plan(layers, names, generator)
        start = time.perf_counter()
        candidate = surgery.build(model, plan)
        surgery.load_factors(candidate, model, plan, {name: held[name, c.format] for name, c in plan.items()})
        seconds["build_ms" if turn else "first_build_ms"].append((time.perf_counter() - start) * 1e3)
    return counted


if __name__ == "__main__":
    raise SystemExit(main())
