"""Plans that the latency table makes, and whether they are as fast as it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tests.bench.networks import SEED, network_of
from torch import Tensor, nn

from diminuendo.engine import Samples, Task, surgery, zoo
from diminuendo.engine.cost import ratio
from diminuendo.engine.evaluate import Worker
from diminuendo.engine.inline import InlineExecutor
from diminuendo.engine.plan import DENSE, Plan
from diminuendo.engine.profile import race_networks
from diminuendo.engine.search.objective import ObjectiveName
from diminuendo.engine.search.path import at_most, path
from diminuendo.engine.search.session import Request, Session
from diminuendo.engine.search.space import Space
from diminuendo.engine.search.work import Failed, Prepared, Surveyed
from diminuendo.engine.survey import factors
from diminuendo.engine.workbench import fast
from diminuendo.engine.workfolder import WorkFolder
from diminuendo.engine.zoo.catalog import Source

PARAMS_RATIOS = (5.7, 12.34)
"""Of the plans with few params: those published for ResNet18 after both stages."""
NOISE_SAMPLES = 1000


@dataclass(frozen=True)
class Surveyor:
    """A network whose layers were all surveyed.

    Attributes:
        model: The original.
        request: What was asked for.
        folder: Has the factors.
    """

    model: nn.Module
    request: Request
    prepared: Prepared
    surveys: tuple[Surveyed, ...]
    folder: WorkFolder

    @classmethod
    def of(cls, task: Task, request: Request, folder: WorkFolder) -> Surveyor:
        """Survey a network, or take what the folder has of it."""
        worker = Worker(folder.store, tasks={request.source: task})
        session, executor = Session(request), InlineExecutor(worker)
        prepared, surveys = None, list[Surveyed]()
        while session.outcome is None:
            work = session.ask()[0]
            if work.question.kind not in ("prepare", "survey"):
                break
            answer = folder.recall([work.key]).get(work.key)
            if answer is None:
                executor.submit(work)
                done = executor.wait(0.0)[0]
                folder.record(done)
                answer = done.answer
            step = session.tell(answer)
            print(f"{step.summary} ({getattr(answer, 'seconds', 0.0):.1f} s)", flush=True)
            if isinstance(answer, Prepared):
                prepared = answer
            elif isinstance(answer, Surveyed):
                surveys.append(answer)
        if isinstance(session.outcome, Failed) or prepared is None:
            raise SystemExit(f"the survey failed: {session.outcome}")
        return cls(task.model.eval(), request, prepared, tuple(surveys), folder)

    def space(self, objective: ObjectiveName) -> Space:
        """The search space for an objective; costs have latencies whichever it is."""
        return Space.of(self.prepared, self.surveys, replace(self.request, objective=objective))

    def build(self, plan: Plan) -> nn.Module:
        """The original with a plan, from the stored factors."""
        stored = {survey.layer: dict(survey.factors) for survey in self.surveys}
        changed = {name: choice for name, choice in plan.items() if choice != DENSE}
        made = {
            name: factors.from_bytes(self.folder.store.get(stored[name][choice.format]))
            for name, choice in changed.items()
        }
        candidate = surgery.build(self.model, plan)
        surgery.load_factors(candidate, self.model, plan, made)
        return candidate.eval()


def task_of(source: Source, weights: Path | None, data: Path | None) -> Task:
    """The zoo's task; with noise where there are no data, and random weights where there are none."""
    if source.entry.bundled or (weights is not None and data is not None):
        return zoo.task(source.text, weights=weights, data=data)
    generator = torch.Generator().manual_seed(SEED)
    model = network_of(source, weights)
    noise = torch.randn(2, NOISE_SAMPLES, *source.entry.input_shape, generator=generator)
    with torch.no_grad():  # its own answers are right, so that there is something to keep
        train, evaluation = (Samples(inputs, model(inputs).argmax(dim=1)) for inputs in noise)
    return Task(model, train, evaluation, name=source.entry.name, source=str(source))


def plans_of(surveyor: Surveyor, ratios: Sequence[float]) -> Iterator[tuple[ObjectiveName, float, Plan]]:
    """Plans of the path: as many times as fast, and as many times fewer params as published."""
    wanted: list[tuple[ObjectiveName, Sequence[float]]] = [("latency", ratios), ("params", PARAMS_RATIOS)]
    for objective, every in wanted:
        space = surveyor.space(objective)
        points = path(space)
        for times in every:
            yield objective, times, at_most(points, space.amount(space.total) / times).plan


@dataclass(frozen=True)
class Row:
    """A plan as the table sees it and as it is.

    Attributes:
        objective: What it was made for.
        wanted_ratio: Of the objective.
        error: Of the predicted ratio, relative to the measured one.
        damage: Sum of the layers' calibrated divergences, in nats, untuned.
        formats: How many layers have each.
    """

    objective: ObjectiveName
    wanted_ratio: float
    predicted_ratio: float
    measured_ratio: float
    error: float
    ms: float
    params_ratio: float
    macs_ratio: float
    damage: float
    formats: dict[str, int]
    plan: dict[str, str]

    def __str__(self) -> str:
        """One line."""
        forms = ", ".join(f"{count} {name}" for name, count in sorted(self.formats.items()))
        return (
            f"{self.objective:7} {self.wanted_ratio:5.2f}x: predicted {self.predicted_ratio:.2f}x, measured "
            f"{self.measured_ratio:.2f}x ({self.error:+.1%}); params {self.params_ratio:.2f}x, MACs "
            f"{self.macs_ratio:.2f}x, damage {self.damage:.3f}; {forms}"
        )


def of_table(surveyor: Surveyor, example: Tensor, ratios: Sequence[float], *, rounds: int) -> dict[str, Any]:
    """What the table predicts of plans, and what is measured.

    Args:
        surveyor: A network that was surveyed for its latency.
        example: (1, ...) one sample.
        ratios: Of the plans that are made for their latency.
        rounds: Of the race between the plans' networks.
    """
    space, found = surveyor.space("latency"), list(plans_of(surveyor, ratios))
    networks = [fast(network, example) for network in (surveyor.model, *(surveyor.build(plan) for *_, plan in found))]
    times = race_networks(networks, example, threads=surveyor.request.threads, rounds=rounds)
    surveyed_ms = space.total.latency_ns / 1e6
    print(f"original: {times.ms[0]:.3f} ms, {surveyed_ms:.3f} ms when it was surveyed; spread {times.spread:.0%}")
    rows = []
    for (objective, wanted, plan), ms, measured in zip(found, times.ms[1:], times.ratios[1:], strict=True):
        cost, total = space.cost(plan), space.total
        predicted = ratio(total.latency_ns, cost.latency_ns)
        row = Row(
            objective,
            wanted,
            predicted,
            measured,
            predicted / measured - 1.0,
            ms,
            ratio(total.params, cost.params),
            ratio(total.macs, cost.macs),
            space.damage(plan),
            dict(Counter(choice.format for choice in plan.values())),
            {name: str(choice) for name, choice in plan.items()},
        )
        rows.append(row)
        print(row, flush=True)
    return {
        "network": surveyor.request.source,
        "original_ms": times.ms[0],
        "surveyed_ms": surveyed_ms,
        "spread": times.spread,
        "survey_spread": max((survey.time.spread for survey in surveyor.surveys if survey.time), default=0.0),
        "survey_seconds": sum(survey.seconds for survey in surveyor.surveys),
        "largest_error": max(abs(row.error) for row in rows),
        "plans": [asdict(row) for row in rows],
    }
