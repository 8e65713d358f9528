"""Channel pruning by Torch-Pruning, tuned and judged as the engine's candidates are."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch_pruning
from tests.bench.compare.course import Candidate, Course
from tests.bench.compare.lab import DELTA, Lab
from torch import nn

from diminuendo.engine.cost import ratio
from diminuendo.engine.finetune import finetune
from diminuendo.engine.modules import copied
from diminuendo.engine.precision import lay_out
from diminuendo.engine.profile import profile
from diminuendo.engine.score import NotFiniteError, verdict
from diminuendo.engine.search.rng import keyed_seed
from diminuendo.engine.workbench import Workbench

MOST_PRUNED = 0.95
"""Most channels that any one layer may lose, as a share: none is cut through."""

HALVINGS = 12
"""Steps of the bisection for the share of channels that gives a ratio of params."""


def without_channels(model: nn.Module, example: Any, wanted: float) -> nn.Module:
    """A copy of a network without as many channels as leave one `wanted`-th of its params.

    Args:
        example: Inputs of one sample.
    """
    most = _params(model, example) / wanted
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if _params(_without(model, example, middle), example) > most:
            low = middle
        else:
            high = middle
    return _without(model, example, high)


def _without(model: nn.Module, example: Any, share: float) -> nn.Module:
    """A copy without a share of its channels, those with the smallest norms of all groups of all layers."""
    model = copied(model).eval()
    heads = [module for module in model.modules() if isinstance(module, nn.Linear)]
    pruner = torch_pruning.pruner.BasePruner(
        model,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=share,
        max_pruning_ratio=MOST_PRUNED,
        ignored_layers=heads[-1:],
    )
    pruner.step()
    return model


def _params(model: nn.Module, example: Any) -> int:
    return profile(model, example, time=False).cost.params


class PruningBench:
    """Prunes, tunes and judges networks of one lab; its epochs are the lab's."""

    def __init__(self, lab: Lab) -> None:
        """Use the lab's network and split."""
        torch.set_num_threads(lab.threads)
        self.lab = lab
        self.bench = Workbench(lab.subject.task, lab.seed)
        self.seconds = 0.0
        self._asked = 0
        self._params = _params(self.bench.model, self.bench.example)

    def pruned(self, wanted: float) -> nn.Module:
        """The original with so many fewer channels that it has one `wanted`-th of its params."""
        return self.bench.fast(without_channels(self.bench.model, self.bench.example, wanted))

    def ratio_of(self, model: nn.Module) -> float:
        """Params of the original for each of a network's."""
        return ratio(self._params, _params(model, self.bench.example))

    def tuned(self, model: nn.Module, epochs: float, *, rate: float, before: float = 0.0) -> Candidate[nn.Module]:
        """A network after tuning; it is changed, and the epochs are charged."""
        start = time.perf_counter()
        self.lab.account.charge(epochs)
        self._asked += 1
        bench, task = self.bench, self.bench.task
        bench.settle(model)
        numerics = self.lab.prepared.numerics
        lay_out(model, channels_last=numerics.channels_last)
        tuning = finetune(
            model,
            bench.teacher,
            task.loss_of,
            bench.recipe,
            epochs=epochs,
            rate=rate,
            seed=keyed_seed(self.lab.seed, self.lab.method, "tune", self._asked),
            start=before,
            bf16=numerics.bf16,
        )
        bench.fast(model)
        drop = math.inf
        if not tuning.diverged:
            bench.settle(model)
            drop = self._drop(model)
        self.seconds += time.perf_counter() - start
        return Candidate(self.ratio_of(model), drop, before + epochs, model)

    def _drop(self, model: nn.Module) -> float:
        bench = self.bench
        try:
            score = float(bench.measure(model, bench.search_half)[0].mean())
        except NotFiniteError:
            return math.inf
        return (bench.baseline - score) * (1.0 if bench.task.metric.higher_is_better else -1.0)

    def tuned_on(self, candidate: Candidate[nn.Module], epochs: float) -> Candidate[nn.Module]:
        """A copy of a candidate after further tuning at the recipe's rate."""
        model = self.bench.fast(copied(candidate.made))
        return self.tuned(model, epochs, rate=1.0, before=candidate.epochs)

    def sealed_drops(self, candidates: Sequence[Candidate[nn.Module]]) -> list[float]:
        """Drops on the sealed half, by the verdict that the engine's judge comes to."""
        bench = self.bench
        original = bench.measure(bench.model, bench.sealed_half)[0]
        return [
            verdict(bench.task.metric, original, bench.measure(candidate.made, bench.sealed_half)[0]).drop
            for candidate in candidates
        ]


def channel_pruning(bench: PruningBench, course: Course) -> list[Candidate[nn.Module]]:
    """One shot for each ratio, by bisection on it in logs."""
    low, high = 0.0, math.log(bench.lab.subject.widest)
    found = []
    for _ in range(course.trials):
        middle = (low + high) / 2
        candidate = bench.tuned(bench.pruned(math.exp(middle)), course.epochs, rate=1.0)
        found.append(candidate)
        if candidate.drop <= course.slack * DELTA:
            low = middle
        else:
            high = middle
    return found
