"""A job in this process that was stopped goes on where it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from diminuendo.engine import Recipe, Samples, Task, compress
from diminuendo.engine.search.budget import BudgetName
from diminuendo.engine.search.drive import Done
from diminuendo.engine.search.session import Step
from diminuendo.engine.task import TaskError


class Stop(Exception):
    """What a person's Ctrl-C does."""


@pytest.fixture(scope="module")
def task() -> Task:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 3)).eval()
    inputs = torch.randn(240, 8)
    samples = Samples(inputs, model(inputs).argmax(dim=1).detach())
    return Task(model, samples.take(slice(0, 160)), samples.take(slice(160, 240)), recipe=Recipe(batch_size=40))


def run(
    task: Task, work: Path | None, stop_at: int = 10**6, *, evaluations: int = 8
) -> tuple[dict[str, object], list[Done]]:
    done: list[Done] = []

    def stop(step: Step) -> None:
        if step.index == stop_at:
            raise Stop

    budget: dict[BudgetName, float] = {"evaluations": evaluations}
    found = compress(task, 5.0, effort="quick", budget=budget, work=work, on_step=stop, on_done=done.append)
    return found.certificate | {"seconds": 0, "time_ratio": 0, "latency": 0}, done


def test_what_was_done_is_not_done_again_and_the_end_is_the_same(task: Task, tmp_path: Path) -> None:
    whole, works = run(task, None)
    paid: list[Done] = []
    for stop_at in (0, 5, 8, 10**6):
        found: dict[str, object] = {}
        seen: list[Done] = []
        try:
            found, seen = run(task, tmp_path / "work", stop_at)
        except Stop:
            continue
        paid = seen
    assert found == whole
    assert len(paid) < len(works) - 8
    again, known = run(task, tmp_path / "work")
    assert again == whole
    assert all(done.remembered for done in known)


def test_a_folder_of_another_job_is_refused(task: Task, tmp_path: Path) -> None:
    run(task, tmp_path)
    with pytest.raises(TaskError, match=r"^work: .* is of another job"):
        run(task, tmp_path, evaluations=9)


def test_a_damaged_state_is_named(task: Task, tmp_path: Path) -> None:
    run(task, tmp_path)
    (tmp_path / "state").write_bytes(b"?")
    with pytest.raises(TaskError, match=r"^work: .* cannot be read .*; name another folder, or remove this one"):
        run(task, tmp_path)


def test_a_folder_that_cannot_be_made_is_named(task: Task, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TaskError, match=r"^work: .*file/work cannot be made"):
        run(task, tmp_path / "file" / "work")
