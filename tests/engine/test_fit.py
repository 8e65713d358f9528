"""The owner's own training loop in the place of ours, and jobs whose metric is no mean over samples."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from tests.engine import tasks
from tests.engine.tasks import held
from tests.engine.threads import one_thread  # noqa: F401 - a fixture
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from diminuendo.engine import Fit, Samples, Task, compress, metrics, tree
from diminuendo.engine.data import Stream
from diminuendo.engine.finetune import Tuning
from diminuendo.engine.fitting import Asked, fitted, tried
from diminuendo.engine.search.session import Step
from diminuendo.engine.search.work import Numerics
from diminuendo.engine.task import TaskError
from diminuendo.engine.teacher import Teacher, distillation
from diminuendo.engine.tryout import Pace
from diminuendo.engine.usercode import UserCodeError, where
from diminuendo.engine.workbench import Workbench

FLAT = Numerics("float32", bf16=False, channels_last=False)
COUNT = 256


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).eval()


def samples(count: int = COUNT) -> Samples:
    inputs = torch.randn(count, 3, generator=torch.Generator().manual_seed(1))
    return Samples(inputs, (inputs.sum(dim=1) > 0).to(torch.int64))


def task(fit: Callable[[nn.Module, Fit], Any] | None, **changes: Any) -> Task:
    return Task(network(), samples(), samples(), fit=fit, **changes)


def run(own: Task, epochs: float = 1.0, *, model: nn.Module | None = None) -> tuple[nn.Module, Tuning]:
    model = copy.deepcopy(own.model) if model is None else model
    teacher = Teacher(own.model, held(own.train), own.augment, 0)
    done = fitted(model, own, teacher, own.recipe, Asked(epochs, 0.5, 7, 2.0), len(held(own.train)))
    return model, done


def by_sgd(network: nn.Module, fit: Fit) -> None:
    optimizer = torch.optim.SGD(network.parameters(), 0.1 * fit.rate)
    for batch in fit.batches():
        optimizer.zero_grad()
        fit.loss(network, batch.inputs, batch.targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


# --- what a loop is given --------------------------------------------------------------------------------------


def test_a_loop_is_asked_for_a_tuning_and_trains_in_place() -> None:
    asked: list[Fit] = []
    modes = []

    def fit(network: nn.Module, fit: Fit) -> None:
        asked.append(fit)
        modes.append(network.training)
        by_sgd(network, fit)

    own = task(fit)
    model, done = run(own, 0.5)
    assert done == Tuning(COUNT // 2, diverged=False)
    (given,) = asked
    assert (given.epochs, given.rate, given.seed, given.start) == (0.5, 0.5, 7, 2.0)
    assert given.train is own.train
    assert given.device.type == "cpu"
    assert modes == [True]
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
    assert not torch.equal(model.get_parameter("0.weight"), own.model.get_parameter("0.weight"))


def test_nothing_is_asked_for_no_passes_or_no_weights() -> None:
    def fit(network: nn.Module, fit: Fit) -> None:
        raise AssertionError

    assert run(task(fit), 0.0)[1] == Tuning(0, diverged=False)
    assert run(task(fit), model=network().requires_grad_(False))[1] == Tuning(0, diverged=False)


@pytest.mark.parametrize(
    ("epochs", "size", "sizes"), [(1.0, None, [64] * 4), (0.25, 16, [16] * 4), (2, 256, [256] * 2)]
)
def test_batches_are_so_many_passes_in_a_seeded_order(epochs: float, size: int | None, sizes: list[int]) -> None:
    seen: list[list[Samples]] = []

    def fit(network: nn.Module, fit: Fit) -> None:
        seen.append(list(fit.batches(size)))

    own = task(fit)
    run(own, epochs)
    run(own, epochs)
    assert [len(batch) for batch in seen[0]] == sizes
    assert all(one.same(other) for one, other in zip(*seen, strict=True))
    rows = torch.cat([batch.inputs for batch in seen[0]])
    assert len(torch.unique(rows, dim=0)) == min(COUNT, round(epochs * COUNT))
    if epochs == 1.0:
        assert not torch.equal(rows, held(own.train).inputs)
    assert all(torch.equal(batch.targets, (batch.inputs.sum(dim=1) > 0).long()) for batch in seen[0])


def test_the_loss_is_what_our_own_tuning_makes_small() -> None:
    found: list[tuple[Tensor, Tensor]] = []

    def fit(network: nn.Module, fit: Fit) -> None:
        batch = next(iter(fit.batches(32)))
        outputs, wanted = network(batch.inputs), fit.teacher(batch.inputs)
        expected = 0.03 * functional.cross_entropy(outputs, batch.targets) + distillation(outputs, wanted, 4.0)
        found.append((fit.loss(network, batch.inputs, batch.targets), expected))
        assert not wanted.requires_grad
        (wanted * outputs).sum().backward()  # as a tensor like any other

    own = task(fit)
    student = network()
    with torch.no_grad():
        student.get_parameter("0.weight").mul_(0.5)
    run(own, model=student)
    ((value, expected),) = found
    assert float(value.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert value.requires_grad


def test_the_teacher_is_the_original_in_eval_mode_on_any_inputs() -> None:
    found = []

    def fit(network: nn.Module, fit: Fit) -> None:
        found.append(fit.teacher(torch.ones(5, 3)))
        assert network.training

    own = task(fit)
    run(own)
    assert torch.equal(found[0], own.model(torch.ones(5, 3)).detach())


def test_random_numbers_are_seeded_inside_and_as_they_were_outside() -> None:
    drawn = []

    def fit(network: nn.Module, fit: Fit) -> None:
        drawn.append((float(torch.rand(())), random.random(), float(numpy.random.rand())))

    own, model = task(fit), network()
    for seed in (3, 4):
        torch.manual_seed(seed)
        random.seed(seed)
        numpy.random.seed(seed)
        run(own, model=model)
        after = float(torch.rand(())), random.random(), float(numpy.random.rand())
        torch.manual_seed(seed)
        random.seed(seed)
        numpy.random.seed(seed)
        assert after == (float(torch.rand(())), random.random(), float(numpy.random.rand()))
    assert drawn[0] == drawn[1]


# --- what it may do wrong --------------------------------------------------------------------------------------


def test_weights_that_are_not_finite_are_a_tuning_that_diverged() -> None:
    def fit(network: nn.Module, fit: Fit) -> None:
        with torch.no_grad():
            next(network.parameters()).fill_(torch.nan)

    assert run(task(fit))[1] == Tuning(COUNT, diverged=True)


def returns_another(network: nn.Module, fit: Fit) -> nn.Module:
    return copy.deepcopy(network)


def replaces(network: nn.Module, fit: Fit) -> None:
    network.add_module("0", nn.Linear(3, 9))


def narrows(network: nn.Module, fit: Fit) -> None:
    network.to(torch.bfloat16)


def asks_for_none(network: nn.Module, fit: Fit) -> None:
    next(iter(fit.batches(0)))


@pytest.mark.parametrize(
    ("fit", "message"),
    [
        (returns_another, r"^fit: it returned another network, a Sequential; train .* in place, and return nothing"),
        (replaces, r"^fit: weights are others than before, or of another shape or type: 0\.bias, 0\.weight; train"),
        (narrows, r"^fit: weights .*: 0\.bias, 0\.weight, 2\.bias, 2\.weight; train the network that it is given"),
        (asks_for_none, r"^fit: batches of 0 samples were asked for"),
    ],
)
def test_what_is_not_done_in_place_is_said(fit: Callable[[nn.Module, Fit], Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        run(task(fit))


def test_what_it_freezes_and_returns_besides_does_not_matter() -> None:
    def fit(network: nn.Module, fit: Fit) -> Any:
        network.requires_grad_(False)
        network.eval()
        return {"loss": 1.0}

    model, done = run(task(fit))
    assert not done.diverged
    assert all(p.requires_grad for p in model.parameters())


def test_what_it_raises_names_file_and_line() -> None:
    def fit(network: nn.Module, fit: Fit) -> None:
        functional.linear(torch.zeros(2, 3), torch.zeros(4, 4))

    line = fit.__code__.co_firstlineno + 1
    with pytest.raises(UserCodeError, match=rf"^fit: RuntimeError: .* \(.*test_fit\.py:{line}\)$") as caught:
        run(task(fit))
    assert "functional.linear(torch.zeros(2, 3)" in caught.value.traceback_text


def raised(name: str, file: str) -> BaseException:
    """An error that comes through a line of a module of this name, in this file, and through no other."""
    with pytest.raises(KeyError) as caught:
        exec(compile("\n\nraise KeyError('x')", file, "exec"), {"__name__": name})
    frames = caught.value.__traceback__
    assert frames is not None
    return caught.value.with_traceback(frames.tb_next)


@pytest.mark.parametrize(
    ("name", "file", "expected"),
    [
        ("__main__", "/home/me/train.py", "/home/me/train.py:3"),
        ("diminuendo_bundle_ab", f"{Path.cwd()}/lib/train.py", "lib/train.py:3"),
        ("torch.nn.functional", "/any/torch/nn/functional.py", ""),
        ("diminuendo.engine.zoo", "/any/zoo.py", ""),
        ("timm.models", "/usr/lib/python3/site-packages/timm/models.py", ""),
        ("json", json.__file__, ""),
        ("importlib", "<frozen importlib>", ""),
    ],
)
def test_the_place_of_an_error_is_in_the_owners_code_alone(name: str, file: str, expected: str) -> None:
    assert where(raised(name, file)) == expected


# --- the trial -------------------------------------------------------------------------------------------------


def trial(fit: Callable[[nn.Module, Fit], Any], count: int = 640) -> Pace:
    own = dataclasses.replace(task(fit), train=samples(count))
    before = copy.deepcopy(own.model.state_dict())
    found = tried(own.model, own, Teacher(own.model, held(own.train), None, 0), own.recipe, count, FLAT)
    assert all(torch.equal(before[name], value) for name, value in own.model.state_dict().items())
    return found


def test_a_trial_takes_the_time_of_the_samples_that_went_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that stands still but for 1 s for each batch of 32: 2 s for a step of 64."""
    clock = [0.0]

    def fit(network: nn.Module, fit: Fit) -> None:
        for batch in fit.batches(32):
            fit.loss(network, batch.inputs, batch.targets).backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                network.get_parameter("0.weight").add_(1e-3)
            clock[0] += 1.0

    monkeypatch.setattr("diminuendo.engine.fitting.time.perf_counter", lambda: clock[0])
    assert trial(fit) == Pace(FLAT, 2.0)


def test_a_trial_tells_of_loops_that_take_no_parts_of_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    def whole(network: nn.Module, fit: Fit) -> None:
        for _ in range(max(1, round(fit.epochs))):
            network(held(fit.train).inputs).sum().backward()
        with torch.no_grad():
            network.get_parameter("0.weight").add_(1e-3)

    found = trial(whole)
    assert not found.weighed
    ((reason, message),) = found.notes
    assert reason == "FIT_EXCEEDS_EPOCHS"
    assert "asked for 0.1 passes, 64 samples, it trained on 640" in message
    ((reason, message),) = trial(lambda network, fit: None).notes
    assert reason == "FIT_CHANGES_NOTHING"
    assert message.startswith("fit: asked for 0.1 passes it changed no weight; a search asks for parts of a pass, too:")
    calls = []
    monkeypatch.setattr("diminuendo.engine.fitting.QUICK_S", -1.0)
    trial(lambda network, fit: calls.append(fit.epochs))
    assert calls == [0.1]


def test_with_a_loop_nothing_else_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diminuendo.engine.workbench.fastest", None)
    own = task(by_sgd)
    bench = Workbench(own, 0)
    assert bench.pace.numerics == FLAT
    assert bench.pace.weighed
    assert bench.pace.step_s > 0
    digests = {Workbench(dataclasses.replace(own, fit=fit), 0).digest for fit in (None, by_sgd, replaces)}
    assert len(digests) == 3


def test_a_stream_is_trained_on_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diminuendo.engine.reading.MEMORY_BYTES", 64)
    rows = []

    def fit(network: nn.Module, fit: Fit) -> None:
        for batch in fit.batches():
            rows.append(len(batch))
            assert torch.equal(fit.teacher(batch.inputs), own.model(batch.inputs).detach())
        by_sgd(network, fit)

    loader = DataLoader(TensorDataset(samples().inputs, samples().targets), 64, shuffle=True)
    own = dataclasses.replace(task(fit), train=loader)
    bench = Workbench(own, 0)
    assert isinstance(bench.train, Stream)
    student = copy.deepcopy(bench.model)
    done = fitted(student, own, bench.teacher, bench.recipe, Asked(0.5, 1.0, 7, 0.0), len(bench.train))
    assert done == Tuning(COUNT // 2, diverged=False)
    assert rows == [64, 64]


# --- jobs ------------------------------------------------------------------------------------------------------


def test_a_job_with_a_loop_and_a_metric_of_which_less_is_better() -> None:
    """By the root of the mean squared error, in the unit of the targets, which are from -1 to 1."""
    passes = []

    def fit(network: nn.Module, fit: Fit) -> None:
        passes.append(fit.epochs)
        optimizer = torch.optim.Adam(network.parameters(), 0.01 * fit.rate)
        for batch in fit.batches():
            optimizer.zero_grad()
            functional.mse_loss(network(batch.inputs), batch.targets).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    own = dataclasses.replace(tasks.regression(), metric=metrics.rmse(), fit=fit)
    steps: list[Step] = []
    done = compress(own, 0.1, effort="quick", on_step=steps.append)
    certificate = done.certificate
    assert certificate["metric"] == "rmse"
    assert done.inside_delta
    assert certificate["drop"] == pytest.approx(certificate["compressed"] - certificate["original"])
    assert certificate["drop"] <= 0.1
    assert certificate["drop_ci"][0] < certificate["drop"] < certificate["drop_ci"][1]
    assert certificate["params_ratio"] > 1.3
    assert len(passes) >= certificate["evaluations"]
    assert not {reason for step in steps for reason, _ in step.warnings if reason.startswith("FIT")}

    sealed = held(Workbench(own, 0).sealed_half)
    expected = (tree.call(own.model, sealed.inputs) - sealed.targets).square().mean().sqrt()
    assert certificate["original"] == pytest.approx(float(expected.detach()), rel=1e-4)


def test_a_loop_that_raises_ends_the_job_at_its_start() -> None:
    works: list[str] = []

    def fit(network: nn.Module, fit: Fit) -> None:
        raise LookupError("no schedule")

    own = dataclasses.replace(tasks.regression(), fit=fit)
    with pytest.raises(UserCodeError, match=r"^fit: LookupError: no schedule \(.*test_fit\.py:\d+\)$"):
        compress(own, 1.0, effort="quick", on_done=lambda done: works.append(done.work.subject))
    assert works == ["the original network"]
