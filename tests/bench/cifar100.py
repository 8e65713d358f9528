"""Benchmark: a whole job on a trained CIFAR-100 network, against its published row.

    python -m tests.bench.cifar100 [--model NAME] [--weights FILE] [--data DIR] [--minutes N] [--stage 1|2] [--work DIR]

Everything is what `diminuendo compress` does with a budget of minutes, but for the recipe's temperature. With `--work`
a run that was stopped goes on, its minutes counted on. The record has the certificate, the course of the search, and
what stage 1 had found.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tests.bench.results import command_line, record

from diminuendo.engine import compress, zoo
from diminuendo.engine.search.session import Best, Step

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
THREADS = 2
TAU = 8.0
"""Softer than the default: half an epoch at 3.5, 6 and 9x ends 1 to 6 % nearer to the original's outputs, in nats."""


@dataclass(frozen=True)
class Row:
    """A published result (Deeplite Neutrino 2021, delta 1 point): ratios, and MParams after stage 1."""

    params: float
    macs: float
    memory: float
    time: float
    stage1: float


PUBLISHED = {
    "resnet18": Row(12.34, 7.05, 4.66, 1.58, 11.2201 / 1.9729),
    "resnet50": Row(10.64, 6.31, 2.82, 1.49, 23.7053 / 6.7077),
    "vgg19": Row(29.22, 8.34, 11.90, 1.67, 20.0867 / 0.8707),
    "densenet121": Row(4.19, 4.69, 1.37, 1.17, 7.0485 / 4.132),
    "googlenet": Row(3.91, 3.97, 1.26, 1.28, 6.2585 / 3.3132),
    "mobilenet_v1": Row(3.84, 2.78, 2.26, 1.13, 3.3095 / 1.6833),
}


class Course:
    """Tells and keeps how a search goes."""

    def __init__(self) -> None:
        self.begun = time.perf_counter()
        self.candidates: list[dict[str, Any]] = []
        self.explored: Best | None = None

    def step(self, step: Step) -> None:
        """One line for each step."""
        minutes = (time.perf_counter() - self.begun) / 60
        best = f"; best {step.best.params_ratio:.2f}x at {step.best.drop:.2f}" if step.best else ""
        print(f"{minutes:6.1f} min  {step.stage:8} {step.summary}{best}", flush=True)
        if step.candidate:
            self.candidates.append({"what": step.summary.split(":")[0], **asdict(step.candidate)})
        if step.stage == "explore":
            self.explored = step.best


def main() -> None:
    """Run the job and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=PUBLISHED, default="resnet18")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", type=Path, default=SHARED / "cifar100")
    parser.add_argument("--minutes", type=float, default=180.0)
    parser.add_argument("--delta", type=float, default=1.0)
    parser.add_argument("--effort", choices=("quick", "normal", "deep"), default="quick")
    parser.add_argument("--formats", nargs="+", default=["svd", "tucker2"])
    parser.add_argument("--stage", type=int, choices=(1, 2), default=2)
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path, help="result folder")
    arguments = parser.parse_args()
    weights = arguments.weights or SHARED / "weights" / f"{arguments.model}-cifar100.safetensors"
    task = zoo.task(arguments.model, weights=weights, data=arguments.data)
    task = replace(task, recipe=replace(task.recipe, tau=TAU))
    course = Course()
    found = compress(
        task,
        arguments.delta,
        effort=arguments.effort,
        formats=arguments.formats,
        stage=arguments.stage,
        budget={"minutes": arguments.minutes},
        threads=arguments.threads,
        seed=arguments.seed,
        work=arguments.work,
        out=arguments.out,
        on_step=course.step,
    )
    certificate = found.certificate
    for name in ("metric", "original", "compressed", "drop", "drop_ci", "params_ratio", "macs_ratio", "memory_ratio"):
        print(f"{name}: {certificate[name]}")
    path = record(
        f"cifar100-{arguments.model}-stage{arguments.stage}",
        {
            "certificate": certificate,
            "published": asdict(PUBLISHED[arguments.model]),
            "after_exploration": asdict(course.explored) if course.explored else None,
            "candidates": course.candidates,
            "plan": {name: str(choice) for name, choice in found.plan.items()},
        },
        command=command_line("tests.bench.cifar100"),
        seed=arguments.seed,
        threads=arguments.threads,
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    )
    print(f"record: {path}")


if __name__ == "__main__":
    main()
