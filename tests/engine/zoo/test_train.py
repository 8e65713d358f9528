from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import typer
from safetensors import safe_open
from safetensors.torch import load_file
from tests.engine.zoo.test_cifar import encoded, pixels, write_both
from torch import Tensor
from typer.testing import CliRunner, Result

from diminuendo.engine import zoo
from diminuendo.engine.zoo import digits
from diminuendo.engine.zoo.catalog import Source
from diminuendo.engine.zoo.state import load_weights
from diminuendo.engine.zoo.train import main
from diminuendo.engine.zoo.train_digits import train
from diminuendo.engine.zoo.training import accuracy


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Training is reproducible on one thread; on small images more are slower, too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def command() -> typer.Typer:
    app = typer.Typer()
    app.command()(main)
    return app


def here(command_line: list[str]) -> Result:
    """The command in this process: quicker."""
    return CliRunner().invoke(command(), command_line[3:])


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


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["digit"], "the zoo has no network 'digit'; did you mean 'digits'?"),
        (
            ["vgg19"],
            "data: give a folder with train-*.parquet and test-*.parquet (columns image and label) with --data",
        ),
        (["vgg19", "--data", "nowhere"], "data: nowhere is no folder; give one with train-*.parquet"),
        (["resnet18_imagenet", "--data", "."], "data: the zoo loads no data for zoo:resnet18_imagenet; bring your own"),
        (["vgg19", "--data", ".", "--out", "no/where"], "out: no/where is no file in a folder that is there; make the"),
        (["digits", "--half"], "half: digits is trained by a recipe of its own; leave --half out"),
        (["digits", "--batch-size", "4"], "batch_size: digits is trained by a recipe of its own; leave --batch-size"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    words: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(command(), words)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: {text}")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_no_gpu_is_said() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = CliRunner().invoke(command(), ["vgg19", "--data", ".", "--device", "cuda"])
    assert (done.exit_code, done.stderr) == (
        2,
        "error: device: there is no CUDA device here; say --device cpu or auto\n",
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """20 random images of 2 classes."""
    folder = tmp_path / "data"
    folder.mkdir()
    write_both(folder, image=[encoded(image) for image in pixels(20, seed=1)], label=[0, 1] * 10)
    return folder


def training(data: Path, out: Path, *more: str) -> list[str]:
    words = ["mobilenet_v2?classes=2", "--data", str(data), "--out", str(out), "--recipe", "short", "--epochs", "3"]
    return [sys.executable, "-m", "diminuendo.engine.zoo.train", *words, "--batch-size", "4", "--threads", "1", *more]


def test_a_training_that_was_stopped_ends_with_the_same_bytes(data: Path, tmp_path: Path) -> None:
    straight, stopped = tmp_path / "straight.safetensors", tmp_path / "stopped.safetensors"
    done = here(training(data, straight))
    assert done.exit_code == 0, done.stderr
    assert re.search(r"^epoch 3/3: loss \d\.\d{4}, train [\d.]+ %, test [\d.]+ %, rate", done.stderr, re.MULTILINE)
    assert re.fullmatch(
        r"mobilenet_v2\?classes=2: [\d.]+ % on 20 images it was not trained on; recipe short, seed 0, 3 epochs: \S+\n",
        done.stdout,
    )
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        process = subprocess.Popen(training(data, stopped, "--resume"), stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        while not process.stderr.readline().startswith("epoch "):
            assert process.poll() is None
        process.send_signal(number)
        rest = process.communicate(timeout=60)[1]
        assert process.returncode == code, rest
        assert re.search(r"^stopped after step \d+; go on with --resume: \S+/stopped\.checkpoint$", rest, re.MULTILINE)
    assert not stopped.exists()
    done = here(training(data, stopped))
    assert done.exit_code == 2
    assert "stopped.checkpoint is there; go on from it with --resume, or remove it" in done.stderr
    done = here(training(data, stopped, "--resume"))
    assert done.exit_code == 0, done.stderr
    assert "going on after step " in done.stderr
    assert stopped.read_bytes() == straight.read_bytes()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"data", *(f"{n}.{e}" for n in ("straight", "stopped") for e in ("safetensors", "checkpoint"))}
    with safe_open(straight, "pt") as file:
        about = file.metadata()
    assert (about["architecture"], about["classes"], about["epochs"]) == ("mobilenet_v2", "2", "3")
    load_weights(zoo.network("mobilenet_v2?classes=2"), straight, Source.parse("mobilenet_v2?classes=2"))


def test_a_checkpoint_of_another_training_is_refused(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    words = training(data, out, "--epochs", "1", "--limit", "4", "--half")[3:]
    assert CliRunner().invoke(command(), words).exit_code == 0
    kinds = {tensor.dtype for name, tensor in load_file(out).items() if tensor.dim() > 1}
    assert kinds == {torch.float16}
    assert load_file(out)["bn1.weight"].dtype == torch.float32
    for more, text in (
        (["--seed", "1"], "seed was 0 and is now 1; give the same settings"),
        (["--epochs", "2"], "epochs was 1 and is now 2"),
        (["--recipe", "usual"], "recipe was 'short' and is now 'usual'"),
        (["--limit", "6"], "samples was 4 and is now 6"),
    ):
        done = CliRunner().invoke(command(), [*words, "--resume", *more])
        assert done.exit_code == 2, done.output
        assert f"w.checkpoint: the state is of another training: {text}" in done.stderr
    (tmp_path / "w.checkpoint").write_bytes(b"no checkpoint")
    done = CliRunner().invoke(command(), [*words, "--resume"])
    assert done.exit_code == 2
    assert re.match(
        r"error: checkpoint: \S+w\.checkpoint cannot be read \(.*\); name another one or remove it\n", done.stderr
    )
