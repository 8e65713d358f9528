"""The methods that are compared: each spends its epochs and ends with a certificate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.compare.course import Candidate, Certified, Course, certify, course
from tests.bench.compare.lab import DELTA, Lab
from tests.bench.compare.plain import random_search, uniform_ranks
from tests.bench.compare.pruned import PruningBench, channel_pruning
from tests.bench.compare.subjects import FORMATS
from tests.bench.compare.tpe import tpe

from diminuendo.engine import compress
from diminuendo.engine.search.work import Tuned

SLACK = 2.0
"""See `Course.slack`; our own search gives candidates up to twice delta more tuning, too."""

DRAWS, BISECTIONS = 20, 6
"""Candidates of the methods that draw them, and of those that halve the interval in which delta is crossed."""


@dataclass(frozen=True)
class Found:
    """What a method found.

    Attributes:
        seconds: Of its works, the survey included; as they were first computed, where they were remembered.
        trials: (ratio, drop on the search half) of its candidates; empty for our own search, which has its own account.
    """

    certified: Certified
    epochs: float
    seconds: float
    trials: tuple[tuple[float, float], ...]


Method = Callable[[Lab], Found]


def ours(lab: Lab) -> Found:
    """The engine's search, by its public function; its dense control counts among its epochs."""
    found = compress(
        lab.subject.task,
        DELTA,
        budget={"epochs": lab.account.most},
        formats=FORMATS,
        seed=lab.seed,
        threads=lab.threads,
        work=lab.folder,
    )
    told = found.certificate
    lab.account.charge(told["epochs"])
    finalist = (told["params_ratio"], told["search_drop"], told["drop"])
    ratio = told["params_ratio"] if found.inside_delta else 1.0
    return Found(Certified(ratio, told["drop"], told["search_drop"], (finalist,)), told["epochs"], told["seconds"], ())


def _of_plans(search: Callable[[Lab, Course], list[Candidate[Tuned]]], trials: int, share: float) -> Method:
    """A method whose candidates are plans."""

    def run(lab: Lab) -> Found:
        way = course(lab.account.most, trials, share=share, slack=SLACK)
        candidates = search(lab, way)
        certified = certify(lab, candidates, way, DELTA)
        return Found(certified, lab.account.spent, lab.seconds, _shown(candidates))

    return run


def pruning(lab: Lab) -> Found:
    """Torch-Pruning's channel pruning."""
    way = course(lab.account.most, BISECTIONS, share=0.3, slack=SLACK)
    bench = PruningBench(lab)
    candidates = channel_pruning(bench, way)
    certified = certify(bench, candidates, way, DELTA)
    return Found(certified, lab.account.spent, bench.seconds, _shown(candidates))


def _shown(candidates: Sequence[Candidate[Any]]) -> tuple[tuple[float, float], ...]:
    return tuple((candidate.ratio, min(candidate.drop, 100.0)) for candidate in candidates)


METHODS: dict[str, Method] = {
    "ours": ours,
    "tpe": _of_plans(tpe, DRAWS, 0.5),
    "random": _of_plans(random_search, DRAWS, 0.5),
    "uniform": _of_plans(uniform_ranks, BISECTIONS, 0.3),
    "pruning": pruning,
}
"""All methods by name."""
