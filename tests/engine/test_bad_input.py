"""What an owner may get wrong: a job says which field it is, what was found and what to do, before it pays anything."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from tests.engine.datasets import Items, Pairs, Raising
from tests.engine.threads import one_thread  # noqa: F401 - a fixture
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from diminuendo.engine import Metric, Recipe, Samples, SetMetric, Task, compress
from diminuendo.engine.search.session import Step
from diminuendo.engine.task import TOP1
from diminuendo.engine.workbench import UserCodeError


class Held(nn.Sequential):
    """Keeps what no copy can be made of."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.lines = (line for line in ("a", "b"))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def task(**changes: Any) -> Task:
    return dataclasses.replace(
        Task(network(), Pairs(60), Pairs(60), recipe=Recipe(rate=0.01, batch_size=20)), **changes
    )


def broken_forward(network: nn.Module, inputs: Tensor) -> Tensor:
    raise LookupError("no such head")


UNLABELLED = DataLoader(TensorDataset(torch.zeros(40, 3)), 8)
NAN = Samples(torch.full((40, 3), math.nan), torch.zeros(40, dtype=torch.int64))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": UNLABELLED}, r"^train: a batch is a list of 1, not \(inputs, targets\): there are no labels in it"),
        ({"evaluation": UNLABELLED}, r"^evaluation: a batch is a list of 1, not .* there are no labels in it"),
        ({"evaluation": Items([torch.zeros(3)] * 40)}, r"^evaluation: a batch is one tensor of shape \(\d+, 3\)"),
        ({"train": DataLoader(Items([]), 8)}, r"^train: there are no samples; give "),
        ({"train": DataLoader(Pairs(3), 8, drop_last=True, sampler=[])}, r"^train: there are no samples"),
        ({"train": Samples(torch.zeros(0, 3), torch.zeros(0))}, r"^train: there are no training samples"),
        ({"evaluation": DataLoader(Items([]), 8)}, r"^evaluation: there are no samples; give "),
        ({"evaluation": Pairs(10)}, r"^evaluation: 10 samples cannot be split .* at least 20"),
        ({"evaluation": Raising(40)}, r"^evaluation: reading the data: OSError: file 39 is gone"),
        ({"evaluation": NAN}, r"^logits: they are NaN or infinite on evaluation samples; check those inputs"),
        (
            {"metric": Metric("odd", lambda outputs, targets: outputs[:, 0] * math.nan)},
            r"^metric 'odd' returned a value that is not finite; check it on a single batch",
        ),
        (
            {"metric": Metric("mean", lambda outputs, targets: outputs.mean())},
            r"^metric 'mean' returned shape \(\) for 30 samples; return one value for each sample, shape \(30,\)",
        ),
        (
            {"metric": SetMetric("odd", lambda outputs, targets: outputs, list)},  # type: ignore[arg-type]
            r"^metric 'odd': its value is a list; let SetMetric\.value return one real number",
        ),
        (
            {"metric": SetMetric("raising", lambda outputs, targets: outputs, lambda values: 1 / 0)},
            r"^metric 'raising': ZeroDivisionError: .* \(.*test_bad_input\.py:\d+\)$",
        ),
        ({"metric": Metric("raising", lambda outputs, targets: outputs["x"])}, r"^metric 'raising': \w+Error: "),
        ({"model": Held(*network())}, r"^model: attribute 'lines' \(generator\) .* cannot be copied .*; make it when"),
        ({"forward": broken_forward}, r"^the network's forward: LookupError: no such head"),
        ({"loss": lambda outputs, targets: outputs.sum(dim=1)}, r"^loss: it returned shape \(20,\); return one number"),
        ({"loss": lambda outputs, targets: targets.undefined}, r"^fine-tuning: AttributeError: "),
        ({"optimizer": lambda parameters: None}, r"^optimizer: it returned a NoneType, not a torch.optim.Optimizer"),
        ({"scheduler": lambda optimizer, steps: None}, r"^scheduler: it returned a NoneType, not an LRScheduler"),
    ],
)
def test_it_is_said_at_the_start(changes: dict[str, Any], message: str) -> None:
    works: list[str] = []
    with pytest.raises(UserCodeError, match=message):
        compress(task(**changes), effort="quick", on_done=lambda done: works.append(done.work.subject))
    assert works == ["the original network"]


def test_the_owners_traceback_comes_back() -> None:
    with pytest.raises(UserCodeError) as caught:
        compress(task(forward=broken_forward), effort="quick")
    assert "in broken_forward" in caught.value.traceback_text


def test_a_loss_that_is_not_a_number_costs_a_candidate_and_not_the_job() -> None:
    """Once, in the middle of a job: that candidate is lost, the others go on."""
    calls = 0

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return functional.cross_entropy(outputs, targets) * (math.nan if calls == 20 else 1.0)

    steps: list[Step] = []
    model = network()
    rows = torch.randn(60, 3, generator=torch.Generator().manual_seed(1))
    samples = Samples(rows, model(rows).argmax(dim=1).detach())
    own = task(model=model, train=samples, evaluation=samples, loss=loss, metric=TOP1)
    done = compress(own, 50.0, effort="quick", stage=1, budget={"evaluations": 8}, on_step=steps.append)
    reasons = [reason for step in steps for reason, _ in step.warnings]
    assert reasons.count("CANDIDATE_DIVERGED") == 1
    assert done.certificate["evaluations"] == 8
    assert done.inside_delta
