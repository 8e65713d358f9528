"""Methods over the same plans that learn little or nothing from their trials: random search and uniform ranks."""

from __future__ import annotations

import math

from tests.bench.compare.course import Candidate, Course
from tests.bench.compare.lab import DELTA, Lab
from tests.bench.compare.plans import drawn, uniform

from diminuendo.engine.search.rng import keyed
from diminuendo.engine.search.work import Tuned

FIRST_RATE = 0.5
"""Relative rate of a short tuning from factors, as in our own search."""

LEAST_RATIO = 1.5


def random_search(lab: Lab, course: Course) -> list[Candidate[Tuned]]:
    """Random plans whose ratios are spread log-uniformly from `LEAST_RATIO` to the subject's widest one."""
    rng = keyed(lab.seed, "random search")
    found = []
    for _ in range(course.trials):
        wanted = math.exp(rng.uniform(math.log(LEAST_RATIO), math.log(lab.subject.widest)))
        found.append(lab.tuned(drawn(lab.space, wanted, rng), course.epochs, rate=FIRST_RATE))
    return found


def uniform_ranks(lab: Lab, course: Course) -> list[Candidate[Tuned]]:
    """One ratio for all layers, by bisection on it in logs."""
    low, high = 0.0, math.log(lab.subject.widest)
    found = []
    for _ in range(course.trials):
        middle = (low + high) / 2
        candidate = lab.tuned(uniform(lab.space, math.exp(middle)), course.epochs, rate=FIRST_RATE)
        found.append(candidate)
        if candidate.drop <= course.slack * DELTA:
            low = middle
        else:
            high = middle
    return found
