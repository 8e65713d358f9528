from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from tests.bench import tuning
from tests.bench.tuning import Subject
from torch import nn

from diminuendo.engine import zoo
from diminuendo.engine.finetune import finetune
from diminuendo.engine.stopwatch import threads_set
from diminuendo.engine.task import Recipe, Samples, Task
from diminuendo.engine.teacher import Teacher


def test_both_loops_do_the_same_to_a_network() -> None:
    """One batch is the whole data: the order does not matter."""
    torch.manual_seed(0)
    original = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()
    images = Samples(torch.randn(32, 4), torch.arange(32) % 3)
    student, recipe = copy.deepcopy(original), Recipe(rate=0.05, batch_size=32)
    with torch.no_grad():
        student.get_parameter("3.weight").mul_(0.5)
    hand, ours = copy.deepcopy(student), copy.deepcopy(student)
    task, teacher = Task(original, images, images), Teacher(original, images, None, 0)
    tuning.by_hand(hand, images, original(images.inputs).detach(), recipe, passes=9, seed=0)
    finetune(ours, teacher, task.loss_of, recipe, epochs=9, rate=1.0, seed=0)
    for one, two in zip(hand.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(ours.get_parameter("3.weight"), student.get_parameter("3.weight"), atol=2e-3)


def test_figures_are_of_steps_and_of_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops that would take 3, 2 and 8 s, with a clock that says so."""
    taken = [[3000.0, 3300.0, 3000.0], [2000.0, 3000.0, 2500.0], [6000.0, 9900.0, 9000.0]]
    monkeypatch.setattr(tuning, "turns", lambda loops, images, rounds: taken)
    task = replace(zoo.task("digits"), recipe=Recipe(batch_size=500))
    with threads_set(1):
        found = tuning.measure(Subject("digits", task, 1), rounds=3, seed=0)
    assert (found.steps, found.batch) == (2, 500)
    assert (found.ours_ms, found.hand_ms, found.plain_ms) == (1500.0, 1250.0, 4500.0)
    assert found.overhead_percent == pytest.approx(20.0)  # of 50, 10 and 20
    assert found.speedup == pytest.approx(3.0)  # of 2, 3 and 3
    assert found.params_ratio > 4
