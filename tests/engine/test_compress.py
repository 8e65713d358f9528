"""The whole job inline, on networks small enough for seconds."""

from __future__ import annotations

import copy
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.engine.tasks import held
from torch import Tensor, nn
from torch.nn import functional

from diminuendo.engine import Compressed, Metric, Recipe, Samples, Task, compress, load
from diminuendo.engine.estimate import estimate
from diminuendo.engine.plan import DENSE, PlanError
from diminuendo.engine.profile import profile
from diminuendo.engine.search.check import request_of
from diminuendo.engine.search.session import Step
from diminuendo.engine.task import TaskError
from diminuendo.engine.workbench import LEAST_EVALUATION_SAMPLES, UserCodeError
from diminuendo.engine.zoo.catalog import UnknownNetworkError


def blobs(count: int, seed: int) -> Samples:
    """Three classes around centres in 12 dimensions, of which 4 matter."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2.0 * torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(0, 3, (count,), generator=generator)
    inputs = torch.cat([centres[targets] + torch.randn(count, 4, generator=generator), torch.zeros(count, 8)], dim=1)
    return Samples(inputs + 0.1 * torch.randn(count, 12, generator=generator), targets)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(12, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 3)
    )


@pytest.fixture(scope="module")
def task() -> Task:
    model, train = network(), blobs(300, 1)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        functional.cross_entropy(model(train.inputs), train.targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return Task(model.eval(), train, blobs(400, 2), recipe=Recipe(rate=0.05, batch_size=50), name="blobs")


@pytest.fixture(scope="module")
def outcome(task: Task, tmp_path_factory: pytest.TempPathFactory) -> tuple[Compressed, list[Step], dict[str, Tensor]]:
    steps: list[Step] = []
    before = copy.deepcopy(task.model.state_dict())
    out = tmp_path_factory.mktemp("compress") / "result"
    return compress(task, 2.0, effort="quick", out=out, on_step=steps.append), steps, before


def test_a_network_of_ones_own_gets_smaller_inside_delta(
    outcome: tuple[Compressed, list[Step], dict[str, Tensor]], task: Task
) -> None:
    done, steps, _ = outcome
    assert done.inside_delta
    assert done.certificate["drop"] <= 2.0
    assert done.certificate["params_ratio"] > 2.0
    original = sum(p.numel() for p in task.model.parameters())
    smaller = sum(p.numel() for p in done.model.parameters())
    assert original / smaller == done.certificate["params_ratio"]
    assert [s.index for s in steps] == list(range(len(steps)))
    assert {s.stage for s in steps} >= {"survey", "explore", "certify", "done"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_everything_is_computed_on_the_gpu(task: Task) -> None:
    before = torch.cuda.max_memory_allocated()
    done = compress(task, 2.0, effort="quick")
    assert done.inside_delta
    assert torch.cuda.max_memory_allocated() > before
    assert next(task.model.parameters()).device.type == "cpu"


def test_the_owners_network_is_not_changed(
    outcome: tuple[Compressed, list[Step], dict[str, Tensor]], task: Task
) -> None:
    now = task.model.state_dict()
    assert all(torch.equal(now[name], tensor) for name, tensor in outcome[2].items())


def test_load_gives_the_same_outputs_bit_for_bit(
    outcome: tuple[Compressed, list[Step], dict[str, Tensor]], task: Task
) -> None:
    done = outcome[0]
    assert done.folder is not None
    again = load(done.folder, task.model)
    assert torch.equal(again(held(task.evaluation).inputs), done.model(held(task.evaluation).inputs))


def test_load_says_what_it_lacks(outcome: tuple[Compressed, list[Step], dict[str, Tensor]], tmp_path: Path) -> None:
    folder = outcome[0].folder
    assert folder is not None
    with pytest.raises(PlanError, match="pass the original architecture"):
        load(folder)
    with pytest.raises(PlanError, match=r"plan\.json is not there"):
        load(tmp_path)
    plan = json.loads((folder / "plan.json").read_text())
    plan["layers"]["0"]["ranks"] = [0]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(PlanError, match=r"model\.safetensors is not there"):
        load(tmp_path)
    shutil.copy(folder / "model.safetensors", tmp_path)
    with pytest.raises(PlanError, match=r"layer '0': svd rank 0 .* legal: 1\.\.12"):
        load(tmp_path, network())


def test_wishes_are_kept_by_the_network_that_comes_back(task: Task) -> None:
    """Frozen, limited, snapped, in few evaluations and MACs: as the plan, the profile and the certificate say."""
    steps: list[Step] = []
    done = compress(
        task,
        5.0,
        effort="quick",
        objective="size",
        limits={"macs": 2000},
        freeze=["0"],
        multiple=4,
        stage=1,
        budget={"evaluations": 6, "epochs": 40},
        on_step=steps.append,
    )
    assert done.inside_delta
    assert done.plan["0"] == DENSE
    assert done.plan["3"] != DENSE
    figures = profile(done.model, held(task.train).inputs[:1], time=False)
    assert figures.macs <= 2000
    certificate = done.certificate
    assert certificate["evaluations"] <= 6
    assert certificate["epochs"] <= 40
    assert (certificate["objective"], certificate["limits"], certificate["stage"]) == ("size", {"macs": 2000.0}, 1)
    assert "anneal" not in {step.stage for step in steps}
    assert f"{certificate['size_ratio']:.2f}x size" in steps[-1].summary


def test_a_target_in_place_of_delta_is_kept_by_the_network_that_comes_back(task: Task, tmp_path: Path) -> None:
    out = tmp_path / "out"
    kwargs: dict[str, Any] = {"effort": "quick", "stage": 1, "budget": {"evaluations": 6, "epochs": 40}}
    done = compress(task, target={"size": 0.003}, limits={"memory": 0.006}, out=out, **kwargs)
    figures = profile(done.model, held(task.train).inputs[:1], time=False)
    assert 0.0024 < figures.size_mb <= 0.003
    assert figures.memory_mb <= 0.006
    certificate = done.certificate
    assert (certificate["delta"], certificate["target"], certificate["target_met"]) == (None, {"size": 0.003}, True)
    assert (done.inside_delta, certificate["objective"], certificate["limits"]) == (True, "size", {"memory": 0.006})
    assert certificate["drop_ci"][0] <= certificate["drop"] <= certificate["drop_ci"][1]
    with pytest.raises(TaskError, match=r"^target: size=1\.0 is beside delta=1\.0; give delta or target, not both$"):
        compress(task, 1.0, target={"size": 1.0})
    with pytest.raises(UserCodeError, match=r"^target: size=1 is kept by the original, which has 0\.01228 MB of size;"):
        compress(task, target={"size": 1}, **kwargs)


def test_wishes_that_do_not_fit_the_network_come_back_as_the_owners_mistake(task: Task) -> None:
    with pytest.raises(UserCodeError, match="freeze: no layer is named like 'conv1'; the nearest are 0, 3, 5"):
        compress(task, effort="quick", freeze=["conv1"])
    with pytest.raises(
        UserCodeError, match=r"limits: macs=10 cannot be kept: the least .* [0-9,]+ macs; raise the lim"
    ):
        compress(task, effort="quick", limits={"macs": 10})


def test_an_estimate_tries_one_candidate_and_counts_the_rest(task: Task) -> None:
    before = torch.get_num_threads()
    done: list[str] = []
    request = request_of("task:blobs", 2.0, effort="quick", stage=1, threads=3)
    found = estimate(request, task=task, on_work=done.append)
    # Quick without annealing, by hand: 6 + 3 + 4 candidates, 3 finalists and the control.
    assert found.evaluations == 17
    assert found.epochs == 6 * 2 + 3 * 4 + 4 * 4 + 3 * 12 + (2 + 4 + 4 + 12)
    assert done == ["the original network", "0", "3", "5", done[-1]]
    assert done[-1].startswith("first")
    assert 0 < found.epoch_s < 5
    assert 0 < found.beside_s < 5
    seconds = found.survey_s + found.epochs * found.epoch_s + found.evaluations * found.beside_s
    assert found.minutes == pytest.approx(seconds / 60)
    assert torch.get_num_threads() == before
    with pytest.raises(UserCodeError, match="no layer is named like 'conv1'"):
        estimate(request_of("task:blobs", 2.0, effort="quick", freeze=["conv1"]), task=task)


def test_an_estimate_of_a_short_job_tunes_the_candidate_that_the_job_does_not(task: Task) -> None:
    request = request_of("task:blobs", 2.0, effort="quick", budget={"epochs": 4})
    found = estimate(request, task=task)
    assert (found.evaluations, found.epochs) == (6 + 4 + 3 + 1 + 1 + 4 + 2, 4)  # four squeezes, two easings at the most
    assert found.epoch_s > 1e-4


def test_threads_are_given_back(task: Task) -> None:
    before = torch.get_num_threads()
    with pytest.raises(UserCodeError):
        compress(Task(_Broken(), task.train, task.evaluation), effort="quick", threads=3)
    assert torch.get_num_threads() == before


class _Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("no such luck")


def test_an_error_in_the_owners_code_comes_back_with_its_traceback(task: Task) -> None:
    with pytest.raises(UserCodeError, match="forward: ValueError: no such luck") as caught:
        compress(Task(_Broken(), task.train, task.evaluation), effort="quick")
    assert "raise ValueError" in caught.value.traceback_text


def test_a_metric_that_is_not_finite_is_named(task: Task) -> None:
    metric = Metric("odd", lambda outputs, targets: outputs[:, 0] * math.nan)
    with pytest.raises(UserCodeError, match="'odd' returned a value that is not finite"):
        compress(Task(task.model, task.train, task.evaluation, metric=metric), effort="quick")


def test_an_untrained_network_is_refused_and_doubts_are_told(task: Task) -> None:
    with pytest.raises(UserCodeError, match=r"^model: its top1 of .* on 200 samples cannot be told .* 3 classes"):
        compress(Task(_Constant(), task.train, task.evaluation), effort="quick")
    points = blobs(150, 2)
    few = Samples(points.inputs, points.targets.clamp(max=1))
    kwargs: dict[str, Any] = {"effort": "quick", "freeze": ["0", "5"], "stage": 1, "budget": {"evaluations": 3}}
    told: list[Step] = []
    own = Metric("hits", lambda logits, targets: 100.0 * (logits.argmax(dim=1) == targets))
    doubtful = Task(task.model, task.train, few, metric=own, recipe=task.recipe, name="two of three")
    done = compress(doubtful, 0.5, **kwargs, on_step=told.append)
    assert [reason for reason, _ in told[0].warnings] == ["CLASSES_MISSING", "DELTA_BELOW_NOISE"]
    assert "the search half has no samples of class 2, so that" in told[0].warnings[0][1]
    assert "on 75 sealed samples the 95 % interval of a drop" in told[0].warnings[1][1]
    assert [warning["reason"] for warning in done.certificate["warnings"]][:2] == [
        "CLASSES_MISSING",
        "DELTA_BELOW_NOISE",
    ]


class _Constant(nn.Module):
    """Answers the first class, whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = 0.0 * self.layer(x) + torch.tensor([1.0, 0.0, 0.0])
        return logits


def test_too_few_evaluation_samples_are_refused(task: Task) -> None:
    few = held(task.evaluation).take(torch.arange(LEAST_EVALUATION_SAMPLES - 1))
    with pytest.raises(UserCodeError, match="evaluation: 19 samples"):
        compress(Task(task.model, task.train, few), effort="quick")


def test_a_network_without_layers_to_compress_says_so(task: Task) -> None:
    with pytest.raises(UserCodeError, match="no layer that can be compressed"):
        compress(Task(nn.Sequential(nn.BatchNorm1d(12), nn.Flatten()), task.train, task.evaluation), effort="quick")


@pytest.mark.parametrize("delta", [math.nan, math.inf, 0.0, -1.0, 100.5, "one", True])
def test_a_delta_that_is_no_tolerance_is_refused(delta: float, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(TaskError, match=r"^delta: .* over 0 and up to 100$"):
        compress("zoo:digits", delta, out=out)
    assert not out.exists()


def test_an_unknown_zoo_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNetworkError, match="did you mean 'digits'"):
        compress("zoo:digit")


def test_other_arguments_are_checked_too(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="effort: 'much'"):
        compress("zoo:digits", effort="much")  # type: ignore[arg-type]
    with pytest.raises(TaskError, match="threads: 0"):
        compress("zoo:digits", threads=0)
    with pytest.raises(TaskError, match="seed: -1"):
        compress("zoo:digits", seed=-1)
    with pytest.raises(
        TaskError, match="objective: 'energy' is unknown; choose one of params, macs, size, memory, latency"
    ):
        compress("zoo:digits", objective="energy")  # type: ignore[arg-type]
    with pytest.raises(TaskError, match=r"limits: macs=-1 is no limit"):
        compress("zoo:digits", limits={"macs": -1})
    with pytest.raises(TaskError, match="budget: evaluations=1 is too little; give at least 3"):
        compress("zoo:digits", budget={"evaluations": 1})
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(TaskError, match="not an empty folder"):
        compress("zoo:digits", out=tmp_path)
    assert (tmp_path / "mine").read_text() == "precious"


def test_the_fastest_network_inside_delta_is_found_and_timed_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A wide layer that needs little rank: a form of it is faster, one of the small layers is slower."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 3))
    train = blobs(300, 1)
    optimizer = torch.optim.Adam(model.parameters(), 0.001)
    for _ in range(10):
        optimizer.zero_grad()
        functional.cross_entropy(model(train.inputs), train.targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    own = Task(model.eval(), train, blobs(400, 2), recipe=Recipe(rate=0.001, batch_size=100), name="wide")
    done = compress(
        own, 3.0, objective="latency", effort="quick", formats=["svd"], budget={"evaluations": 4, "epochs": 8}
    )
    latency = done.certificate["latency"]
    assert done.inside_delta
    assert done.plan["2"] != DENSE
    assert done.certificate["objective"] == "latency"
    assert latency["ratio"] == done.certificate["time_ratio"] > 1.5
    assert latency["predicted_ratio"] > 1.5
    assert latency["original_ms"] > latency["compressed_ms"] > 0
    assert latency["predicted_on"] == [latency["machine"]]
    assert len(list((tmp_path / "diminuendo" / "latency").rglob("*.json"))) == 3
