from __future__ import annotations

import copy
from contextlib import closing
from itertools import islice
from typing import Any

import pytest
import torch
from tests.engine import tasks
from tests.engine.datasets import Pairs
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from diminuendo.engine import Samples, Task, compress, reading
from diminuendo.engine.data import Indexed, Stream
from diminuendo.engine.finetune import finetune
from diminuendo.engine.gather import training
from diminuendo.engine.original import Original
from diminuendo.engine.streaming import StreamTeacher
from diminuendo.engine.task import Recipe
from diminuendo.engine.workbench import Workbench

RECIPE = Recipe(rate=0.01, batch_size=3)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)).eval()


def stream(count: int = 21) -> Stream:
    """Batches of 5, the last of a pass of 1."""
    found = training(DataLoader(Pairs(count, noise=0.01), 5, shuffle=True), 64)
    assert isinstance(found, Stream)
    return found


def jitter(inputs: Tensor, generator: torch.Generator) -> Tensor:
    return inputs + torch.randn(inputs.shape, generator=generator)


def lessons(teacher: StreamTeacher, seed: int, epochs: float) -> list[Any]:
    with closing(teacher.lessons(0.0, epochs, 64, torch.Generator().manual_seed(seed))) as found:
        return list(found)


def test_lessons_are_the_loaders_batches_with_the_originals_logits() -> None:
    teacher = StreamTeacher(network(), stream(), None)
    assert teacher.extent(0.0, 2.0, 64) == (42, 10)
    found = lessons(teacher, 1, 2.0)
    assert [len(lesson.targets) for lesson in found] == [5, 5, 5, 5] * 2  # batches of one sample are left out
    for lesson in found:
        torch.testing.assert_close(lesson.wanted, teacher.model(lesson.inputs).detach())
    again, other = lessons(teacher, 1, 2.0), lessons(teacher, 2, 2.0)
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(found, again, strict=True))
    assert not torch.equal(found[0].inputs, other[0].inputs)


def test_a_part_of_a_pass_is_whole_steps_at_least_one() -> None:
    teacher = StreamTeacher(network(), stream(20), None)
    assert [teacher.extent(0.0, epochs, 64) for epochs in (0.01, 0.5, 1.25)] == [(5, 1), (10, 2), (25, 5)]


def test_what_comes_is_augmented_by_the_seed() -> None:
    plain, more = StreamTeacher(network(), stream(), None), StreamTeacher(network(), stream(), jitter)
    one, two, again = lessons(plain, 1, 0.5)[0], lessons(more, 1, 0.5)[0], lessons(more, 1, 0.5)[0]
    assert 0.1 < float((one.inputs - two.inputs).abs().mean()) < 2.0
    assert torch.equal(two.inputs, again.inputs)
    torch.testing.assert_close(two.wanted, more.model(two.inputs).detach())


def test_a_tuning_on_a_stream_repeats_itself() -> None:
    def tuned() -> dict[str, Tensor]:
        original = network()
        student = copy.deepcopy(original)
        with torch.no_grad():
            student[3].weight.mul_(0.5)  # type: ignore[index]
        teacher = StreamTeacher(original, stream(), None)
        done = finetune(student, teacher, functional.cross_entropy, RECIPE, epochs=1.5, rate=1.0, seed=3)
        assert (done.samples, done.diverged) == (34, False)
        return student.state_dict()

    one, again = tuned(), tuned()
    assert all(torch.equal(one[name], again[name]) for name in one)


def test_the_original_is_left_as_it_was_while_lessons_are_given() -> None:
    model = network().train()
    before = copy.deepcopy(model.state_dict())
    teacher = StreamTeacher(model, stream(), None)
    with closing(teacher.lessons(0.0, 1.0, 64, torch.Generator())) as found:
        list(islice(found, 2))
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


class Slopes(nn.Module):
    """Takes a gradient in its forward, which is not possible in inference mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            (slope,) = torch.autograd.grad(self.layer(x).sum(), x)
        return slope


def test_networks_that_take_gradients_in_their_forward_teach_too() -> None:
    model = Slopes()
    original, inputs = Original(model), torch.zeros(2, 3)
    expected = model.layer.weight.detach().expand(2, 3)
    torch.testing.assert_close(original.on(inputs), expected)
    assert not original.on(inputs).is_inference()
    with original.beside():
        torch.testing.assert_close(original.at_once(inputs), expected)
    plain = Original(network()).on(inputs)
    assert plain.is_inference()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Original(network()).on(torch.zeros(2, 7))


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Blobs with noise that is drawn anew each time, or without."""

    def __init__(self, count: int, seed: int, noise: float) -> None:
        self.points, self.classes = tasks.blobs(count, seed)
        self.noise = noise

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.points[index] + self.noise * torch.randn(8), self.classes[index]


def test_a_whole_job_on_data_that_is_never_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same decisions again, and the certificate's figure from the data itself."""
    monkeypatch.setattr(reading, "MEMORY_BYTES", 1000)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3))
    points, classes = tasks.blobs(300, 1)
    tasks.trained(Task(model, Samples(points, classes), Samples(points, classes)), steps=60)
    task = Task(model, DataLoader(Noisy(300, 1, 0.1), 50, shuffle=True), Noisy(200, 2, 0.0), recipe=tasks.RECIPE)
    wishes: dict[str, Any] = {"effort": "quick", "stage": 1, "budget": {"evaluations": 6}}
    done, again = (compress(task, 10.0, **wishes) for _ in range(2))
    assert done.inside_delta
    assert done.certificate["params_ratio"] > 1.2
    assert done.plan == again.plan
    assert done.certificate["compressed"] == again.certificate["compressed"]
    points, classes = tasks.blobs(200, 2)
    bench = Workbench(task, 0)
    assert isinstance(bench.evaluation, Indexed)
    sealed = bench.halves[1]
    hits = 100.0 * (done.model(points[sealed]).argmax(dim=1) == classes[sealed]).to(torch.float64)
    assert float(hits.mean()) == pytest.approx(done.certificate["compressed"])
