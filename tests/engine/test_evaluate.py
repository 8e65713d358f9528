from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sklearn.metrics import f1_score
from tests.engine import tasks
from tests.engine.tasks import held
from tests.engine.threads import one_thread  # noqa: F401 - a fixture
from torch import Tensor, nn

from diminuendo.engine import Metric, Recipe, Samples, SetMetric, Task, metrics, tree, weights, zoo
from diminuendo.engine.evaluate import Worker
from diminuendo.engine.plan import DENSE, Plan
from diminuendo.engine.search.space import Space
from diminuendo.engine.search.work import (
    Evaluate,
    Evaluated,
    Judge,
    Judged,
    Numerics,
    Prepare,
    Prepared,
    Surveyed,
    SurveyLayer,
    Tuned,
    Work,
)
from diminuendo.engine.store import DirectoryStore
from diminuendo.engine.workbench import UserCodeError, Workbench

SOURCE = "task:own"


class Bench:
    """A worker with one task, prepared."""

    def __init__(self, task: Task, root: Path) -> None:
        self.store = DirectoryStore(root)
        self.worker = Worker(self.store, tasks={SOURCE: task})
        answer = self.worker.run(Work(0, Prepare(SOURCE, 0, 1), "the original"))
        assert isinstance(answer, Prepared)
        self.prepared = answer
        self.dense = tuple((spec.name, DENSE) for spec, _ in answer.layers)

    def evaluate(
        self,
        parent: Tuned | None = None,
        *,
        epochs: float = 1.0,
        rate: float = 1.0,
        numerics: Numerics | None = None,
    ) -> Evaluated:
        question = Evaluate(
            SOURCE,
            self.prepared.task,
            self.dense,
            (),
            parent,
            epochs=epochs,
            rate=rate,
            tuning_seed=3,
            seed=0,
            threads=1,
            numerics=numerics or self.prepared.numerics,
        )
        answer = self.worker.run(Work(1, question, "dense"))
        assert isinstance(answer, Evaluated)
        return answer

    def judge(self, tuned: Tuned) -> Judged:
        question = Judge(SOURCE, self.prepared.task, (tuned,), tuned, threads=1, seed=0)
        answer = self.worker.run(Work(2, question, "judge"))
        assert isinstance(answer, Judged)
        return answer


@pytest.mark.parametrize("make", [tasks.records, tasks.shared_weights, tasks.language, tasks.narrow_weights])
def test_the_untouched_network_is_what_it_was(make: Callable[[], Task], tmp_path: Path) -> None:
    task = make()
    bench = Bench(task, tmp_path)
    found = bench.evaluate(epochs=0)
    assert found.score == bench.prepared.baseline
    assert found.divergence == 0.0
    assert found.cost == bench.prepared.total
    assert found.weights is not None
    assert bench.store.get(found.weights) == weights.to_bytes(task.model)


@pytest.mark.parametrize("make", [tasks.records, tasks.two_inputs, tasks.language, tasks.narrow_weights])
def test_a_plans_cost_is_that_of_the_built_network(make: Callable[[], Task], tmp_path: Path) -> None:
    """All four figures: what the search adds up over layers is what the profiler counts."""
    bench = Bench(make(), tmp_path)
    prepared = bench.prepared
    surveys = []
    for spec, _ in prepared.layers:
        question = SurveyLayer(SOURCE, prepared.task, prepared.moments, spec.name, 0, 1, points=1)
        answer = bench.worker.run(Work(1, question, spec.name))
        assert isinstance(answer, Surveyed)
        surveys.append(answer)
    space = Space.of(prepared, surveys)
    stored = {survey.layer: dict(survey.factors) for survey in surveys}
    for turn in (0.3, 0.8):
        choices = tuple((own.spec.name, own.options[int(turn * len(own.options))].choice) for own in space.layers)
        factors = tuple((n, c.format, stored[n][c.format]) for n, c in choices if c != DENSE)
        assert factors
        asked = Evaluate(SOURCE, prepared.task, choices, factors, None, 0, 1.0, tuning_seed=3, seed=0, threads=1)
        built = bench.worker.run(Work(2, asked, "a plan"))
        assert isinstance(built, Evaluated)
        assert built.cost == space.cost(Plan(choices))
        assert built.cost.memory_bytes > built.cost.size_bytes > 0


def test_a_candidate_goes_on_from_its_parents_stored_weights(tmp_path: Path) -> None:
    bench = Bench(tasks.shared_weights(), tmp_path)
    first = bench.evaluate()
    assert first.weights is not None
    again = bench.evaluate(Tuned(bench.dense, first.weights), epochs=0)
    assert (again.weights, again.score, again.divergence) == (first.weights, first.score, first.divergence)


@pytest.mark.parametrize(("make", "kind"), [(tasks.two_inputs, "float32"), (tasks.narrow_weights, "bfloat16")])
def test_the_profile_says_the_type_of_the_weights(make: Callable[[], Task], kind: str, tmp_path: Path) -> None:
    bench = Bench(make(), tmp_path)
    found = bench.evaluate(epochs=0)
    assert found.weights is not None
    judged = bench.judge(Tuned(bench.dense, found.weights))
    assert f"batch 1, {kind}, torch" in judged.machine
    assert judged.finalists[0].drop == 0.0
    width = 4 if kind == "float32" else 2
    assert judged.original_profile.size_mb == pytest.approx(judged.original_profile.params * width / 2**20)


def test_a_candidate_that_is_not_finite_is_lost_and_the_job_is_not(tmp_path: Path) -> None:
    assert bench_evaluates_to_nothing(tasks.two_inputs(), tmp_path / "rate", rate=1e30)

    task = tasks.two_inputs()
    before = task.model.state_dict()["out.bias"].clone()

    class Fragile(nn.Module):
        """NaN as soon as a weight has changed."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = task.model

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            outputs: Tensor = self.inner(left, right)
            same = torch.equal(self.inner.out.bias, before)  # type: ignore[union-attr, arg-type]
            return outputs if same or self.training else outputs * math.nan

    fragile = dataclasses.replace(task, model=Fragile().eval())
    assert bench_evaluates_to_nothing(fragile, tmp_path / "outputs")


def bench_evaluates_to_nothing(task: Task, root: Path, rate: float = 1.0) -> bool:
    found = Bench(task, root).evaluate(rate=rate)
    return (found.score, found.divergence, found.weights) == (None, None, None)


def test_a_metric_that_is_not_finite_for_a_candidate_alone_loses_it(tmp_path: Path) -> None:
    calls: list[int] = []

    def score(outputs: Tensor, targets: Tensor) -> Tensor:
        calls.append(len(targets))
        return torch.full((len(targets),), math.nan if len(calls) > 1 else 50.0)

    task = dataclasses.replace(tasks.two_inputs(), metric=Metric("odd", score))
    assert bench_evaluates_to_nothing(task, tmp_path)


def test_a_candidate_whose_set_metric_is_not_finite_is_lost(tmp_path: Path) -> None:
    ours: list[float] = []

    def value(values: Tensor) -> float:
        ours.append(float(values.mean()))
        return ours[-1] if len(bench) == 0 else math.nan

    bench: list[Bench] = []
    metric = SetMetric("odd", lambda outputs, targets: outputs[:, 0], value)
    bench.append(Bench(dataclasses.replace(tasks.two_inputs(), metric=metric), tmp_path))
    found = bench[0].evaluate(epochs=0)
    assert (found.score, found.weights) == (None, None)
    assert bench[0].prepared.baseline == ours[0]


def test_a_metric_that_looks_at_its_batch_is_noted_of_the_original(tmp_path: Path) -> None:
    task = dataclasses.replace(
        tasks.two_inputs(), metric=Metric("odd", lambda outputs, targets: outputs[:, 0] / outputs.max())
    )
    assert [reason for reason, _ in Bench(task, tmp_path).prepared.notes] == ["METRIC_DEPENDS_ON_BATCH"]


def test_finalists_are_judged_by_the_set_metric_of_all_sealed_samples(tmp_path: Path) -> None:
    task = tasks.two_inputs()
    inputs, targets = held(task.evaluation).inputs, held(task.evaluation).targets.clone()
    targets[::9] = (targets[::9] + 1) % 3  # a network that is right about all of them has no noise
    task = dataclasses.replace(task, metric=metrics.f1(3), evaluation=Samples(inputs, targets))
    bench = Bench(task, tmp_path)
    tuned = bench.evaluate(epochs=0)
    judged = bench.judge(Tuned(bench.dense, tuned.weights or ""))
    sealed = held(Workbench(task, 0).sealed_half)
    found = tree.call(task.model, sealed.inputs).argmax(dim=1)
    assert judged.original == pytest.approx(100 * f1_score(sealed.targets, found, average="macro"))
    (verdict,) = judged.finalists
    assert (verdict.score, verdict.drop) == (judged.original, 0.0)
    assert verdict.drop_low < 0.0 < verdict.drop_high
    assert not bench.prepared.hits
    assert bench.prepared.deviation > 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": lambda outputs, targets: outputs.sum(dim=1)}, r"^loss: it returned shape \(50,\)"),
        ({"augment": lambda inputs, generator: inputs[0]}, r"^fine-tuning: TypeError"),
        ({"loss": lambda outputs, targets: outputs["logits"].sum()}, r"^fine-tuning: \w+Error"),
    ],
)
def test_what_is_wrong_with_a_task_is_said(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserCodeError, match=message):
        Bench(dataclasses.replace(tasks.two_inputs(), **changes), tmp_path).evaluate()  # type: ignore[arg-type]


def test_what_raises_in_a_step_of_tuning_raises_before_the_survey(tmp_path: Path) -> None:
    with pytest.raises(UserCodeError, match=r"^optimizer: 1 of its parameters"):
        Bench(dataclasses.replace(tasks.two_inputs(), optimizer=of_another), tmp_path)


def of_another(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)


@pytest.mark.parametrize("numerics", [Numerics(channels_last=False), Numerics(bf16=True)])
def test_a_candidate_is_tuned_as_the_question_says_and_scored_in_float32(numerics: Numerics, tmp_path: Path) -> None:
    task = dataclasses.replace(zoo.task("digits"), recipe=Recipe(batch_size=256))
    bench = Bench(task, tmp_path)
    found, plain = bench.evaluate(numerics=numerics, epochs=0.25), bench.evaluate(epochs=0.25)
    assert found.weights != plain.weights
    assert found.divergence == pytest.approx(plain.divergence, abs=1e-2)
    assert bench.evaluate(numerics=numerics, epochs=0).weights == bench.evaluate(epochs=0).weights


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (lambda outputs: outputs["nothing"], r"^the task's logits: "),
        (lambda outputs: None, r"^the task's logits: "),
    ],
)
def test_logits_that_cannot_be_taken_are_the_tasks(
    logits: Callable[[object], Tensor], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserCodeError, match=message):
        Bench(dataclasses.replace(tasks.records(), logits=logits), tmp_path)
