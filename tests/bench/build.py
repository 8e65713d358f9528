"""Benchmark: a candidate's layer from stored factors against decomposing it afresh.

    python -m tests.bench.build [--runs N] [--threads N] [--out FILE]

The layer is a 512x512x3x3 convolution. Both ways end with the same module, built and loaded. From stored factors:
the factors come out of a DirectoryStore and are parsed once, as an evaluator does that keeps them in memory, and
each candidate slices them. Afresh: from the weight and the covariances that the survey took, the factors are
computed again (eigenvectors and projections), then sliced. The covariances themselves, which take forwards over
thousands of samples, count for neither.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tests.bench.machine import machine
from torch import nn

from diminuendo.engine.formats import FORMATS, Factors, Format, Moments, Sides
from diminuendo.engine.plan import Call, LayerSpec
from diminuendo.engine.store import DirectoryStore
from diminuendo.engine.survey import factors as stored_factors

CHANNELS = 512
SIDE = 16
RANKS: dict[str, tuple[int, ...]] = {
    "svd": (64,),
    "svd_input": (64,),
    "spatial": (96,),
    "tucker2": (64, 96),
    "cp": (128,),
    "tt": (64, 96, 96),
}
SEED = 0
AIM = 20.0
SLOW_S = 10.0
OUT = Path(__file__).parent / "results" / "build.json"


@dataclass(frozen=True)
class Result:
    """One format: medians of both ways, and the single first read of the factors from the store."""

    format: str
    ranks: tuple[int, ...]
    stored_seconds: float
    afresh_seconds: float
    first_read_seconds: float

    @property
    def ratio(self) -> float:
        """How many times faster stored factors are, once in memory."""
        return self.afresh_seconds / self.stored_seconds

    @property
    def ratio_with_first_read(self) -> float:
        """The same for the first candidate on an evaluator, which reads and checks the factors."""
        return self.afresh_seconds / (self.stored_seconds + self.first_read_seconds)


def layer_and_moments() -> tuple[LayerSpec, nn.Conv2d, Moments]:
    """A convolution with random weights, and covariances with a decaying spectrum."""
    generator = torch.Generator().manual_seed(SEED)
    layer = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(layer.weight, generator=generator)
    call = Call(1, (SIDE, SIDE), (SIDE, SIDE))
    spec = LayerSpec("conv", "conv", CHANNELS, CHANNELS, (3, 3), calls=(call,))
    covariance = _covariance(generator)
    moments = Moments(
        output_mean=torch.zeros(CHANNELS, dtype=torch.float64),
        output_covariance=_covariance(generator),
        input_mean=torch.zeros(CHANNELS, dtype=torch.float64),
        input_covariance=covariance,
        input_lags=torch.stack([covariance * 0.5, covariance * 0.25]),
        output_count=SIDE * SIDE,
        input_count=SIDE * SIDE,
        absorbs_mean=True,
    )
    return spec, layer, moments


def _covariance(generator: torch.Generator) -> torch.Tensor:
    data = torch.randn(4 * CHANNELS, CHANNELS, generator=generator, dtype=torch.float64)
    data = data * torch.logspace(0, -3, CHANNELS, dtype=torch.float64)
    mixed = data @ torch.randn(CHANNELS, CHANNELS, generator=generator, dtype=torch.float64)
    return mixed.T @ mixed / len(mixed)


def build(form: Format, layer: nn.Conv2d, spec: LayerSpec, factors: Factors, ranks: Sequence[int]) -> nn.Sequential:
    """The layer's form with its weights."""
    module = form.build(layer, ranks)
    form.load(module, spec, factors, ranks)
    return module


def seconds(work: Callable[[], object], runs: int) -> list[float]:
    """Wall-clock seconds of each run, after one to warm up."""
    work()
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return taken


def measure(form: Format, runs: int, store: DirectoryStore) -> Result:
    """Both ways for one format; one that is fitted by iteration is decomposed afresh once only, it takes so long."""
    spec, layer, moments = layer_and_moments()
    ranks = RANKS[form.name]

    def fresh() -> dict[str, torch.Tensor]:
        return form.factor(Sides.of(layer, moments, spec))

    start = time.perf_counter()
    again = build(form, layer, spec, factors := fresh(), ranks).state_dict()
    once = time.perf_counter() - start
    sha256 = store.put(stored_factors.to_bytes(factors))
    start = time.perf_counter()
    cached = stored_factors.from_bytes(store.get(sha256))
    first_read = time.perf_counter() - start
    from_store = seconds(lambda: build(form, layer, spec, cached, ranks), runs)
    afresh = [once] if once > SLOW_S else seconds(lambda: build(form, layer, spec, fresh(), ranks), runs)
    same = build(form, layer, spec, cached, ranks).state_dict()
    if any(not torch.equal(same[name], again[name]) for name in same):
        raise RuntimeError(f"{form.name}: both ways must end with the same weights")
    return Result(form.name, ranks, statistics.median(from_store), statistics.median(afresh), first_read)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 when a format misses the aim."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.build", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=7, help="measured runs of each way, at least 5")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    if options.runs < 5:
        parser.error(f"--runs: {options.runs} is too few for a median; give at least 5")
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        results = [measure(form, options.runs, DirectoryStore(folder)) for form in FORMATS.values()]
    record = {
        "command": shlex.join(
            ["python", "-m", "tests.bench.build", *(sys.argv[1:] if arguments is None else arguments)]
        ),
        "layer": f"{CHANNELS}x{CHANNELS}x3x3",
        "machine": machine(),
        "torch": torch.__version__,
        "threads": options.threads,
        "runs": options.runs,
        "seed": SEED,
        "aim": AIM,
        "results": [{**asdict(r), "ratio": r.ratio, "ratio_with_first_read": r.ratio_with_first_read} for r in results],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=2) + "\n")
    sys.stdout.write(_report(record, results))
    return 0 if all(result.ratio >= AIM for result in results) else 1


def _report(record: dict[str, object], results: list[Result]) -> str:
    """What a person reads."""
    lines = [
        f"{record['command']}",
        f"{record['machine']}; torch {record['torch']}; threads {record['threads']}; seed {record['seed']}",
        f"layer {record['layer']}, median of {record['runs']} runs, aim {AIM:.0f}x",
    ]
    for r in results:
        lines.append(
            f"{r.format:9} ranks {r.ranks}: stored {r.stored_seconds * 1e3:.2f} ms, afresh "
            f"{r.afresh_seconds * 1e3:.0f} ms, ratio {r.ratio:.0f}x "
            f"(with the first read from the store {r.ratio_with_first_read:.1f}x)"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
