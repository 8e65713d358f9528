"""Tasks of a folder with a model file and a data.toml, and one that is compressed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes
from tests.engine.described.folders import NPZ, arrays, classifier, described, folders, image_folder
from tests.engine.foreign.networks import exported, seeded
from torch import nn

from diminuendo.engine import SetMetric, compress, zoo
from diminuendo.engine.described import is_described, task
from diminuendo.engine.described.tasks import log_probabilities
from diminuendo.engine.search.budget import BudgetName
from diminuendo.engine.surgery import build
from diminuendo.engine.task import Samples, TaskError


def test_a_folder_is_a_task(tmp_path: Path) -> None:
    image_folder(tmp_path / "train", 2, 1)
    image_folder(tmp_path / "test", 8, 2)
    classifier(tmp_path)
    assert not is_described(tmp_path)
    described(tmp_path, folders(more="[augment]\nflip = true"))
    assert is_described(tmp_path)
    made = task(tmp_path)
    assert (made.name, made.source) == (tmp_path.name, "")
    assert made.augment is not None
    assert made.augment(torch.ones(2, 3, 8, 8), torch.Generator()).shape == (2, 3, 8, 8)
    assert made.model(torch.ones(5, 3, 8, 8)).shape == (5, 3)
    (tmp_path / "task.py").write_text("")
    assert not is_described(tmp_path)


def test_a_network_that_ends_in_a_softmax_is_judged_by_what_it_was_made_of(tmp_path: Path) -> None:
    image_folder(tmp_path / "train", 2, 1)
    image_folder(tmp_path / "test", 8, 2)
    classifier(tmp_path, soft=True)
    made = task(described(tmp_path, folders()))
    outputs = made.model(torch.randn(4, 3, 8, 8))
    torch.testing.assert_close(outputs.sum(dim=1), torch.ones(4))
    torch.testing.assert_close(log_probabilities(outputs).softmax(dim=1), outputs)
    loss = made.loss_of(outputs, torch.tensor([0, 1, 2, 0]))
    torch.testing.assert_close(loss, -outputs[range(4), [0, 1, 2, 0]].clamp(min=1e-12).log().mean())


def test_what_does_not_fit_the_network_is_refused(tmp_path: Path) -> None:
    image_folder(tmp_path / "train", 1, 1)
    image_folder(tmp_path / "test", 1, 2)
    described(tmp_path, folders())
    with pytest.raises(TaskError, match=r"the model files none; put one there that ends in .onnx or .pt2"):
        task(tmp_path)
    classifier(tmp_path, classes=4)
    with pytest.raises(TaskError, match=r"3 classes \(blue, green, red\) for a network with 4 outputs"):
        task(tmp_path)
    shutil.copy(tmp_path / "model.onnx", tmp_path / "other.onnx")
    with pytest.raises(TaskError, match=r"the model files model.onnx, other.onnx"):
        task(tmp_path)
    (tmp_path / "other.onnx").unlink()
    described(tmp_path, NPZ)
    for name in ("train", "test"):
        arrays(tmp_path / f"{name}.npz", x=np.ones((20, 3, 8, 8)), y=np.arange(20) % 5)
    with pytest.raises(TaskError, match=r"label 4 is not a class of the network, which are 0 to 3"):
        task(tmp_path)
    described(tmp_path, NPZ.replace("classification", "regression"))
    with pytest.raises(TaskError, match=r"1 targets for each sample and the network gives 4 values"):
        task(tmp_path)


def test_a_regression_is_judged_by_its_root_mean_squared_error(tmp_path: Path) -> None:
    values, wanted = load_diabetes(return_X_y=True)
    arrays(tmp_path / "d.npz", x=values, y=wanted)
    text = '[task]\nkind = "regression"\nname = "diabetes"\n[data]\nkind = "npz"\npath = "d.npz"\ninputs = "x"\n'
    described(tmp_path, text + 'target = "y"\nsplit = 0.25\n')
    exported(
        seeded(lambda: nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 1))),
        [torch.randn(2, 10)],
        tmp_path,
        "pt2",
    )
    made = task(tmp_path)
    assert isinstance(made.train, Samples)
    assert isinstance(made.evaluation, Samples)
    assert (made.name, len(made.train), len(made.evaluation)) == ("diabetes", 332, 110)
    outputs, targets = made.model(made.evaluation.inputs).detach(), made.evaluation.targets
    squared = (outputs[:, 0] - targets).square().mean()
    torch.testing.assert_close(made.loss_of(outputs, targets), squared)
    assert isinstance(made.metric, SetMetric)
    assert not made.metric.higher_is_better
    found = made.metric.value(made.metric.statistics(outputs, targets))
    assert found == pytest.approx(float(squared.sqrt()), rel=1e-5)
    assert made.logits(outputs).shape == (110, 1, 1)


def test_a_file_is_compressed(tmp_path: Path) -> None:
    digits = zoo.task("digits")
    assert isinstance(digits.train, Samples)
    assert isinstance(digits.evaluation, Samples)
    exported(digits.model, [digits.train.head(2).inputs], tmp_path, "older")
    for name, some in (("train", digits.train.head(200)), ("test", digits.evaluation.head(200))):
        arrays(tmp_path / f"{name}.npz", x=some.inputs.numpy(), y=some.targets.numpy())
    made = task(described(tmp_path, NPZ))
    budget: dict[BudgetName, float] = {"evaluations": 4, "epochs": 12}
    result = compress(made, delta=5.0, effort="quick", formats=["svd"], stage=1, budget=budget)
    assert result.certificate["params_ratio"] > 1.2
    assert result.certificate["original"] > 95
    assert any(choice.format != "dense" for _, choice in result.plan.items())
    assert result.model(digits.evaluation.head(3).inputs).shape == (3, 10)
    assert sum(p.numel() for p in build(made.model, result.plan).parameters()) < sum(
        p.numel() for p in made.model.parameters()
    )
