from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from diminuendo.engine.finetune import MAX_COPIES, Teacher, distillation, finetune, one_cycle
from diminuendo.engine.score import divergence, outputs_of
from diminuendo.engine.task import Recipe, Samples

RECIPE = Recipe(rate=0.1, batch_size=16, weight_decay=0.0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def problem(seed: int = 0) -> tuple[nn.Module, Samples]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)).eval()
    inputs = torch.randn(96, 6)
    return model, Samples(inputs, model(inputs).argmax(dim=1).detach())


def jitter(inputs: Tensor, generator: torch.Generator) -> Tensor:
    return inputs + 0.01 * torch.randn(inputs.shape, generator=generator)


def tuned(*, seed: int = 1, rate: float = 1.0, epochs: int = 6) -> tuple[nn.Module, nn.Module, Samples, bool]:
    teacher_model, samples = problem()
    student = copy.deepcopy(teacher_model)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    teacher = Teacher(teacher_model, samples, jitter, seed=3)
    done = finetune(student, teacher, functional.cross_entropy, RECIPE, epochs=epochs, rate=rate, seed=seed)
    return teacher_model, student, samples, done.diverged


def test_tuning_brings_a_student_back_to_its_teacher() -> None:
    teacher, student, samples, diverged = tuned()
    damaged = tuned(epochs=0)[1]
    reference = outputs_of(teacher, samples.inputs)
    before = divergence(reference, outputs_of(damaged, samples.inputs))
    after = divergence(reference, outputs_of(student, samples.inputs))
    assert not diverged
    assert after < 0.3 * before


def test_the_same_seed_gives_the_same_weights_and_another_does_not() -> None:
    one, again, other = (tuned(seed=seed)[1].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_a_rate_that_blows_up_is_said_so() -> None:
    def explode(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs * 1e30).square().sum()

    teacher_model, samples = problem()
    student = copy.deepcopy(teacher_model)
    done = finetune(student, Teacher(teacher_model, samples, None, 0), explode, RECIPE, epochs=2, rate=1.0, seed=0)
    assert done.diverged


def test_the_teacher_keeps_copies_and_gives_the_same_ones_everywhere() -> None:
    model, samples = problem()
    one, two = Teacher(model, samples, jitter, 7), Teacher(model, samples, jitter, 7)
    inputs, outputs = one.epoch(3)
    assert torch.equal(inputs, two.epoch(3 + MAX_COPIES)[0])
    assert not torch.equal(inputs, one.epoch(4)[0])
    assert outputs is not None
    torch.testing.assert_close(outputs, model(inputs).detach())
    assert torch.equal(samples.inputs, Teacher(model, samples, None, 7).epoch(5)[0])


def test_without_room_for_copies_tuning_gives_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def student_of() -> dict[str, Tensor]:
        teacher_model, samples = problem()
        student = copy.deepcopy(teacher_model)
        teacher = Teacher(teacher_model, samples, None, seed=3)
        finetune(student, teacher, functional.cross_entropy, RECIPE, epochs=2, rate=1.0, seed=1)
        return student.state_dict()

    kept = student_of()
    monkeypatch.setattr("diminuendo.engine.finetune.COPIES_BYTES", 0)
    unkept = student_of()
    for name, tensor in kept.items():
        torch.testing.assert_close(tensor, unkept[name])


def test_distillation_by_hand() -> None:
    # tau 2, teacher logits (2 ln 3, 0) -> (3/4, 1/4); student uniform: 4 * (3/4 ln 3/2 + 1/4 ln 1/2).
    teacher = torch.tensor([[2 * torch.log(torch.tensor(3.0)), 0.0]])
    expected = 4 * (0.75 * torch.log(torch.tensor(1.5)) + 0.25 * torch.log(torch.tensor(0.5)))
    torch.testing.assert_close(distillation(torch.zeros(1, 2), teacher, 2.0), expected)


def test_the_cycle_rises_and_falls_to_zero() -> None:
    rates = [one_cycle(i / 100) for i in range(101)]
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.0, abs=1e-9)
    peak = rates.index(max(rates))
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
