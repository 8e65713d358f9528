from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from tests.engine.networks import fingerprint
from tests.engine.tasks import held

from diminuendo.engine import Task, apply, load, zoo
from diminuendo.engine.formats import FORMATS
from diminuendo.engine.loading import read_plan
from diminuendo.engine.plan import DENSE, Choice, Plan, PlanError
from diminuendo.engine.profile import profile
from diminuendo.engine.survey.discover import discover
from diminuendo.engine.task import TaskError

CHOICES = {
    "block3.conv1": Choice("spatial", (8,)),
    "block3.conv2": Choice("tt", (10, 20, 10)),
    "block1.conv2": Choice("zero"),
    "block2.conv1": Choice("svd_input", (8,)),
    "block2.conv2": Choice("tucker2", (8, 8)),
    "fc": Choice("svd", (8,)),
}


@pytest.fixture(scope="module")
def task() -> Task:
    return zoo.task("digits")


@pytest.fixture(scope="module")
def result(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("applied") / "result"
    apply(Plan.of(CHOICES), task, out=folder)
    return folder


def test_the_network_has_the_plans_forms_and_no_others(task: Task, result: Path) -> None:
    plan = read_plan(result / "plan.json").plan()
    found = discover(task.model, held(task.evaluation).inputs[:1]).layers
    assert [spec.name for spec in found] == list(plan)
    assert {name: choice for name, choice in plan.items() if choice != DENSE} == CHOICES
    dense, model = profile(task.model, held(task.evaluation).inputs[:1], time=False), load(result)
    saved = sum(
        spec.params - FORMATS[c.format].cost(spec, c.ranks).params for spec in found if (c := plan[spec.name]) != DENSE
    )
    assert profile(model, held(task.evaluation).inputs[:1], time=False).params == dense.params - saved


def test_the_certificate_is_of_the_sealed_half(task: Task, result: Path) -> None:
    certificate = json.loads((result / "certificate.json").read_text())
    assert certificate["sealed_samples"] == 400
    assert certificate["drop"] == pytest.approx(certificate["original"] - certificate["compressed"])
    assert certificate["epochs"] == 0
    assert certificate["dense_control"]["epochs"] == 0
    assert certificate["inside_delta"] == (certificate["drop"] <= 1.0)


def test_an_edited_plan_is_applied_again_and_tuning_helps(task: Task, result: Path, tmp_path: Path) -> None:
    before = fingerprint(task.model)
    edited = json.loads((result / "plan.json").read_text())
    edited["layers"]["block3.conv2"] = {"format": "tucker2", "ranks": [4, 4]}
    (tmp_path / "plan.json").write_text(json.dumps(edited))
    untuned, tuned = (apply(tmp_path, task, epochs=epochs) for epochs in (0, 8))
    assert untuned.plan["block3.conv2"] == Choice("tucker2", (4, 4))
    assert tuned.certificate["drop"] < untuned.certificate["drop"]
    assert fingerprint(task.model) == before


def test_the_same_call_gives_the_same_weights(task: Task, result: Path) -> None:
    again = apply(result, "zoo:digits")
    first = load(result).state_dict()
    assert all(torch.equal(value, first[name]) for name, value in again.model.state_dict().items())


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"fcc": DENSE}, r"the network has no layer 'fcc'; did you mean 'fc'\?"),
        ({"fc": Choice("svd", (11,))}, r"layer 'fc': svd rank 11 of \[11\] is out of range; legal: 1\.\.10"),
        ({"fc": Choice("tt", (1, 1, 1))}, r"layer 'fc': tt has no form of a linear layer; legal: dense, svd"),
        ({"fc": Choice("sdv", (1,))}, r"layer 'fc': unknown format 'sdv'; known: dense, svd"),
        ({"bn": Choice("svd", (1,))}, r"layer 'bn': a BatchNorm2d has no form but dense"),
        ({"fc": Choice("svd", (0,)), "x": DENSE}, r"'fc': svd rank 0 .*; the network has no layer 'x'"),
    ],
)
def test_a_plan_that_does_not_fit_names_every_layer(task: Task, choices: dict[str, Choice], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        apply(Plan.of(choices), task)


def test_a_layer_that_must_stay_dense_says_why(task: Task) -> None:
    model = copy.deepcopy(task.model)
    model.get_parameter("fc.weight").requires_grad_(False)
    with pytest.raises(PlanError, match=r"layer 'fc': svd\(4\) is not possible: its weight is frozen .*; legal: dense"):
        apply(Plan.of({"fc": Choice("svd", (4,))}), dataclasses.replace(task, model=model))


def test_wrong_arguments_are_named(task: Task, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="epochs: -1 is negative"):
        apply(Plan(()), task, epochs=-1)
    with pytest.raises(PlanError, match=r"plan\.json is not there; name a plan\.json"):
        apply(tmp_path, task)
    (tmp_path / "full").write_text("x")
    with pytest.raises(TaskError, match="exists and is not an empty folder"):
        apply(Plan(()), task, out=tmp_path)
