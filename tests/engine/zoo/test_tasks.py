from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.engine.tasks import held
from tests.engine.zoo.test_cifar import encoded, pixels, write_both
from torch import Tensor

from diminuendo.engine import zoo
from diminuendo.engine.task import TaskError
from diminuendo.engine.zoo import cifar
from diminuendo.engine.zoo.catalog import Source
from diminuendo.engine.zoo.state import load_weights
from diminuendo.engine.zoo.training import accuracy

SHARED = Path(__file__).parents[4] / "shared" / "data"
WEIGHTS = SHARED / "weights" / "resnet18-cifar100.safetensors"
needs_shared_data = pytest.mark.skipif(not WEIGHTS.is_file(), reason="needs ../shared/data beside the repository")


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def state(name: str, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {key: value.clone() for key, value in zoo.network(name).state_dict().items()}


def saved(tmp_path: Path, tensors: dict[str, Tensor]) -> Path:
    path = tmp_path / "weights.safetensors"
    save_file(tensors, path)
    return path


def test_a_task_from_the_users_weights_and_data(tmp_path: Path) -> None:
    tensors = state("mobilenet_v2?classes=10")
    write_both(tmp_path, image=[encoded(image) for image in pixels(3, seed=1)], label=[0, 9, 4])
    task = zoo.task("mobilenet_v2?classes=10", weights=saved(tmp_path, tensors), data=tmp_path)
    assert (task.source, task.name) == ("zoo:mobilenet_v2?classes=10", "mobilenet_v2")
    assert not task.model.training
    assert all(torch.equal(value, tensors[name]) for name, value in task.model.state_dict().items())
    assert (len(held(task.train)), len(held(task.evaluation)), task.augment) == (3, 3, cifar.augment)
    assert (task.recipe.rate, task.recipe.batch_size, task.recipe.weight_decay) == (0.05, 128, 5e-4)


def test_halves_are_cast_and_batchnorms_counter_may_be_missing(tmp_path: Path) -> None:
    tensors = state("resnet18")
    stored = {
        name: value.half() if value.dim() > 1 else value
        for name, value in tensors.items()
        if not name.endswith("num_batches_tracked")
    }
    model = zoo.network("resnet18")
    load_weights(model, saved(tmp_path, stored), Source.parse("resnet18"))
    loaded = model.state_dict()
    assert {value.dtype for value in loaded.values()} == {torch.float32, torch.int64}
    assert torch.equal(loaded["conv1.weight"], tensors["conv1.weight"].half().float())
    assert torch.equal(loaded["fc.bias"], tensors["fc.bias"])


def test_what_is_missing_is_said_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(TaskError) as caught:
        zoo.task("vgg19")
    text = str(caught.value)
    assert "weights: the package has none for zoo:vgg19; train them with" in text
    assert "`python -m diminuendo.engine.zoo.train vgg19 --data DIR`" in text
    assert "--weights FILE" in text
    assert "data: give a folder with train-*.parquet and test-*.parquet" in text
    with pytest.raises(TaskError) as caught:
        zoo.task("vgg19", weights=tmp_path / "w")
    assert str(caught.value).startswith("data: ")
    with pytest.raises(TaskError, match=r"^weights: .*train 'vgg19\?classes=10' --data DIR"):
        zoo.task("vgg19?classes=10", data=tmp_path)
    with pytest.raises(TaskError, match=r"the zoo loads no data for zoo:resnet18_imagenet; .* as a bundle"):
        zoo.task("resnet18_imagenet", weights=tmp_path / "w", data=tmp_path)


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    source = Source.parse("mobilenet_v1")
    good = state("mobilenet_v1")
    cases: list[tuple[dict[str, Tensor], str]] = [
        ({k: v for k, v in good.items() if k != "conv1.weight"}, "lacks 'conv1.weight', which zoo:mobilenet_v1 has"),
        ({**good, "extra": torch.zeros(1)}, "has 'extra', which zoo:mobilenet_v1 has not; give a file trained for"),
        (
            {**good, "bn1.bias": torch.zeros(31)},
            "'bn1.bias' has shape (31,), zoo:mobilenet_v1 expects (32,); give a file trained for this network",
        ),
        ({**good, "bn1.bias": torch.zeros(32, dtype=torch.int8)}, "'bn1.bias' is int8, zoo:mobilenet_v1 expects float"),
        ({**good, "bn1.bias": torch.full((32,), float("nan"))}, "'bn1.bias' has values that are not finite"),
        (
            state("mobilenet_v1?classes=16"),
            "was trained for 16 classes ('fc.weight' has shape (16, 1024)), zoo:mobilenet_v1 has 100; "
            "say zoo:mobilenet_v1?classes=16",
        ),
    ]
    for tensors, says in cases:
        model = zoo.network("mobilenet_v1")
        before = {name: value.clone() for name, value in model.state_dict().items()}
        path = saved(tmp_path, tensors)
        with pytest.raises(TaskError) as caught:
            load_weights(model, path, source)
        assert f"weights: {path}" in str(caught.value)
        assert says in str(caught.value)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_weights_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    source, model = Source.parse("mobilenet_v1"), zoo.network("mobilenet_v1")
    with pytest.raises(TaskError, match=r"nowhere is not there; give a safetensors file, or train one with `python"):
        load_weights(model, tmp_path / "nowhere", source)
    broken = tmp_path / "broken"
    broken.write_bytes(b"PK\x03\x04" * 10)
    with pytest.raises(TaskError, match=r"broken is no safetensors file that can be read"):
        load_weights(model, broken, source)


def test_digits_takes_other_weights_but_no_other_data(tmp_path: Path) -> None:
    tensors = {name: value.clone() for name, value in zoo.network("digits").state_dict().items()}
    task = zoo.task("digits", weights=saved(tmp_path, tensors))
    assert torch.equal(task.model.state_dict()["fc.weight"], tensors["fc.weight"])
    assert task.source == "zoo:digits"
    with pytest.raises(TaskError, match=r"zoo:digits brings its own data; leave .* out"):
        zoo.task("digits", data=tmp_path)


@needs_shared_data
@pytest.mark.usefixtures("one_thread")
def test_the_real_weights_know_the_real_images() -> None:
    source = Source.parse("resnet18")
    model = zoo.network("resnet18").eval()
    load_weights(model, WEIGHTS, source)
    samples = cifar.read(SHARED / "cifar100", "test", source, limit=600)
    assert len(samples) == 600
    # 74.76 % of all 10,000; the standard error of 600 of them is 1.8 points.
    assert accuracy(model, samples) == pytest.approx(74.76, abs=4.0)
    mean, std = samples.inputs.mean(dim=(0, 2, 3)), samples.inputs.std(dim=(0, 2, 3))
    assert bool((mean.abs() < 0.05).all())
    assert bool(((std - 1).abs() < 0.05).all())
