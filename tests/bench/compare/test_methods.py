"""All methods on a small network, so that what they share is held to be the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.bench import blobs
from tests.bench.compare.course import ROUNDING, OverspentError
from tests.bench.compare.lab import Lab
from tests.bench.compare.methods import METHODS
from tests.bench.compare.plans import uniform
from tests.bench.compare.pruned import PruningBench
from tests.bench.compare.subjects import Subject

from diminuendo.engine.modules import copied
from diminuendo.engine.search.work import Evaluated

EPOCHS = 12


@pytest.fixture(scope="module")
def network() -> Subject:
    return Subject("digits", "task:blobs", blobs.task(), 300, 8.0)


def lab(network: Subject, folder: Path, method: str, epochs: int = EPOCHS) -> Lab:
    return Lab(network, folder, method=method, seed=0, epochs=epochs, threads=1)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_to_its_epochs_and_is_judged_inside_delta(
    network: Subject, tmp_path: Path, method: str
) -> None:
    found = METHODS[method](lab(network, tmp_path, method))
    assert 0 < found.epochs <= EPOCHS * (1 + ROUNDING)
    assert found.seconds > 0
    assert found.certified.finalists
    assert found.certified.ratio == 1.0 or found.certified.drop <= 1.0
    again = METHODS[method](lab(network, tmp_path, method))  # as it was kept, but for pruning
    assert again.certified == found.certified
    assert again.trials == found.trials


def test_what_one_method_surveyed_is_there_for_the_next(network: Subject, tmp_path: Path) -> None:
    first = lab(network, tmp_path, "uniform")
    assert first.space.layers
    known = set((tmp_path / "answers").iterdir())
    second = lab(network, tmp_path, "tpe")
    assert second.space == first.space
    assert set((tmp_path / "answers").iterdir()) == known
    assert second.seconds == first.seconds


def test_epochs_that_are_not_there_are_not_spent(network: Subject, tmp_path: Path) -> None:
    here = lab(network, tmp_path, "uniform", 12)
    plan = uniform(here.space, 1.5)
    candidate = here.tuned(plan, 8, rate=1.0)
    with pytest.raises(OverspentError):
        here.tuned_on(candidate, 5)
    assert here.account.spent == 8


def test_drops_of_both_benches_are_those_of_the_engine(network: Subject, tmp_path: Path) -> None:
    here = lab(network, tmp_path, "uniform")
    answer = here._evaluated(here.space.dense, 0, 1.0, None)
    assert isinstance(answer, Evaluated)
    assert answer.score == here.prepared.baseline  # no BatchNorm that could change
    pruning = PruningBench(here)
    untouched = pruning.tuned(copied(pruning.bench.model), 0, rate=1.0)
    assert (untouched.ratio, untouched.drop) == (1.0, 0.0)
    assert pruning.sealed_drops([untouched]) == [0.0]


def test_pruned_networks_have_the_ratio_that_was_asked_for(network: Subject, tmp_path: Path) -> None:
    pruning = PruningBench(lab(network, tmp_path, "pruning"))
    before = {name: value.clone() for name, value in pruning.bench.model.state_dict().items()}
    made = pruning.pruned(2.0)
    assert 2.0 <= pruning.ratio_of(made) < 2.3
    assert made(torch.zeros(4, 8)).shape == (4, 3)
    after = pruning.bench.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
