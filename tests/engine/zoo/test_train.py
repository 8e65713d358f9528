from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from diminuendo.engine.zoo import digits
from diminuendo.engine.zoo.train import accuracy, train


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Training is reproducible on one thread; on small images more are slower, too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trained(seed: int) -> dict[str, Tensor]:
    return train(digits.network(), digits.data()[0], seed=seed, epochs=1)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "diminuendo.engine.zoo.train", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    for path in (first, second):
        done = run("digits", "--seed", "3", "--epochs", "1", "--out", str(path))
        assert done.returncode == 0, done.stderr
        assert "% on 800 images it was not trained on" in done.stdout
    assert first.read_bytes() == second.read_bytes()
    digits.network().load_state_dict(load_file(first))


def test_training_needs_nothing_but_the_seed() -> None:
    torch.manual_seed(1)
    first = trained(0)
    torch.manual_seed(2)
    again, other = trained(0), trained(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv.weight"], other["conv.weight"])


def test_two_epochs_learn_most_of_it() -> None:
    model = digits.network()
    training, evaluation = digits.data()
    model.load_state_dict(train(model, training, epochs=2))
    assert accuracy(model, evaluation) > 80.0


def test_unknown_names_are_one_line_and_exit_code_2() -> None:
    done = run("digit")
    assert done.returncode == 2
    assert done.stderr == "error: the zoo has no network 'digit'; did you mean 'digits'?\n"
