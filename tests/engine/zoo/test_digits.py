from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from tests.engine.tasks import held
from torch import nn

from diminuendo.engine import zoo
from diminuendo.engine.profile import profile
from diminuendo.engine.survey.discover import discover
from diminuendo.engine.task import Task
from diminuendo.engine.zoo import digits
from diminuendo.engine.zoo.catalog import UnknownNetworkError
from diminuendo.engine.zoo.training import accuracy


@pytest.fixture(scope="module")
def task() -> Task:
    return zoo.task("digits")


def test_the_committed_weights_know_digits_that_they_were_not_trained_on(task: Task) -> None:
    assert accuracy(task.model, held(task.evaluation)) >= 98.0


def test_the_network_is_a_residual_one_of_the_promised_size(task: Task) -> None:
    figures = profile(task.model, held(task.evaluation).inputs, time=False)
    assert 150_000 <= figures.params <= 300_000
    assert figures.uncounted == ()
    assert any(isinstance(module, nn.BatchNorm2d) for module in task.model.modules())
    found = discover(task.model, held(task.evaluation).inputs[:1])
    assert len(found.layers) == 10
    assert found.left_dense == ()


def test_the_split_is_fixed_stratified_and_has_no_image_twice(task: Task) -> None:
    assert (len(held(task.train)), len(held(task.evaluation))) == (997, 800)
    images = torch.cat([held(task.train).inputs, held(task.evaluation).inputs]).flatten(1)
    assert len(torch.unique(images, dim=0)) == 1797
    train, evaluation = (held(each).targets.bincount() for each in (task.train, task.evaluation))
    shares = evaluation / (train + evaluation)
    assert bool(((shares - 800 / 1797).abs() < 0.01).all())
    again = digits.data()
    assert torch.equal(again[1].inputs, held(task.evaluation).inputs)
    assert torch.equal(again[1].targets, held(task.evaluation).targets)


def test_images_are_those_of_scikit_learn_which_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, classes = load_digits(return_X_y=True)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)  # whoever imports it now gets an ImportError
    train, evaluation = digits.data()
    scaled = torch.cat([train.inputs, evaluation.inputs]) * digits.PIXEL_STD + digits.PIXEL_MEAN
    found = torch.cat(
        [(16 * scaled).round().flatten(1), torch.cat([train.targets, evaluation.targets])[:, None]], dim=1
    )
    wanted = np.column_stack([pixels, classes])
    assert sorted(found.tolist()) == sorted(wanted.tolist())


def test_without_scikit_learn_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match="'sklearn', whose images zoo:digits is of"):
        digits.data()


def test_inputs_are_normalised(task: Task) -> None:
    images = torch.cat([held(task.train).inputs, held(task.evaluation).inputs])
    assert images.shape[1:] == (1, 8, 8)
    assert float(images.mean()) == pytest.approx(0.0, abs=1e-3)
    assert float(images.std()) == pytest.approx(1.0, abs=1e-3)


def test_augmentation_shifts_by_at_most_a_pixel_and_depends_on_the_generator_alone() -> None:
    image = torch.full((500, 1, 8, 8), digits.BACKGROUND)
    image[:, 0, 3, 4] = 2.0
    before = image.clone()
    shifted = digits.augment(image, torch.Generator().manual_seed(3))
    assert torch.equal(image, before)
    assert torch.equal(shifted, digits.augment(image, torch.Generator().manual_seed(3)))
    # The one bright pixel is there in each image, in each of the nine places.
    places = {(int(p) // 8, int(p) % 8) for p in shifted.flatten(1).argmax(dim=1)}
    assert places == {(row, column) for row in (2, 3, 4) for column in (3, 4, 5)}
    assert bool((shifted.flatten(1).sum(dim=1) - (2.0 + 63 * digits.BACKGROUND)).abs().max() < 1e-4)


def test_background_comes_in_at_the_border() -> None:
    shifted = digits.augment(torch.ones(100, 1, 8, 8), torch.Generator().manual_seed(0))
    inner = shifted[:, :, 1:-1, 1:-1]
    assert torch.equal(inner, torch.ones_like(inner))
    assert set(torch.unique(shifted).tolist()) == {1.0, torch.tensor(digits.BACKGROUND).item()}


def test_a_network_without_weights_takes_them(task: Task) -> None:
    fresh = zoo.network("digits")
    fresh.load_state_dict(task.model.state_dict())
    assert task.source == "zoo:digits"


@pytest.mark.parametrize("ask", [zoo.task, zoo.network])
def test_unknown_names_suggest_the_nearest(ask: object) -> None:
    assert callable(ask)
    with pytest.raises(UnknownNetworkError, match="no network 'digts'; did you mean 'digits'"):
        ask("digts")
