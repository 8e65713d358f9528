from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diminuendo.engine import zoo
from diminuendo.engine.task import Samples, TaskError
from diminuendo.engine.zoo import checkpoint
from diminuendo.engine.zoo.recipes import RECIPES, TrainingRecipe
from diminuendo.engine.zoo.training import Progress, Settings, StoppedError, Training, fresh

SHORT = TrainingRecipe("short", epochs=3, rate=0.1, nesterov=True, smoothing=0.1, batch_size=4)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )


def noisy(inputs: Tensor, generator: torch.Generator) -> Tensor:
    return inputs + 0.1 * torch.randn(inputs.shape, generator=generator)


def samples(count: int, seed: int) -> Samples:
    """Images whose class is the sign of their mean."""
    inputs = torch.randn(count, 2, 6, 6, generator=torch.Generator().manual_seed(seed))
    targets = torch.arange(count) % 2
    return Samples(inputs + (targets * 2.0 - 1.0)[:, None, None, None], targets)


def training(recipe: TrainingRecipe = SHORT, *, seed: int = 0, bf16: bool = False, count: int = 18) -> Training:
    settings = Settings("zoo:made-up", recipe, seed, bf16, count)
    return Training(fresh(network, seed), samples(count, 1), samples(10, 2), settings, noisy)


def state_of(done: Training) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in done.model.state_dict().items()}


def test_a_training_learns_and_tells_of_each_epoch() -> None:
    told: list[Any] = []
    done = training()
    done.run(on_epoch=told.append)
    assert [epoch.number for epoch in told] == [1, 2, 3]
    assert told == done.progress.epochs
    assert told[-1].test_top1 == 100.0
    assert told[-1].loss < told[0].loss
    assert done.progress.step == 3 * 5
    # The last of 15 steps: 14/15 done, so (14/15 - 0.2) / 0.8 = 11/12 of the fall.
    assert told[-1].rate == pytest.approx(0.1 * 0.5 * (1 + math.cos(math.pi * 11 / 12)))


def test_stopping_after_any_step_changes_no_bit(tmp_path: Path) -> None:
    straight = training()
    straight.run()
    path, turns, current = tmp_path / "c", 0, training()
    while True:
        steps = iter(range(3))  # three steps or evaluation batches in each turn
        try:
            current.run(stop=lambda steps=steps: next(steps, None) is None)  # type: ignore[misc]
            break
        except StoppedError:
            checkpoint.write(path, current.state_dict())
            current = training()
            current.load_state_dict(checkpoint.read(path))
            turns += 1
    assert turns >= 4
    assert all(torch.equal(value, state_of(straight)[name]) for name, value in state_of(current).items())
    for first, second in zip(straight.progress.epochs, current.progress.epochs, strict=True):
        assert (first.loss, first.train_top1, first.test_top1) == (second.loss, second.train_top1, second.test_top1)
    assert [file.name for file in tmp_path.iterdir()] == ["c"]


def test_every_saved_state_leads_to_the_same_end() -> None:
    states: list[dict[str, Any]] = []
    whole = training()
    whole.run(save=lambda: states.append({**whole.state_dict(), "model": state_of(whole)}))
    assert len(states) == 2 * 3  # after each epoch's steps, and after its evaluation
    assert [len(state["progress"]["epochs"]) for state in states] == [0, 1, 1, 2, 2, 3]


def test_the_seed_decides_and_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = training(), training(), training(seed=1)
    for each in (first, again, other):
        each.run()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, state_of(first)[name]) for name, value in state_of(again).items())
    assert not torch.equal(state_of(other)["0.weight"], state_of(first)["0.weight"])


def test_bf16_forwards_train_float32_weights() -> None:
    done = training(bf16=True)
    done.run()
    assert done.progress.epochs[-1].test_top1 == 100.0
    assert {value.dtype for value in state_of(done).values()} == {torch.float32, torch.int64}
    plain = training()
    plain.run()
    assert not torch.equal(state_of(plain)["0.weight"], state_of(done)["0.weight"])


def test_a_last_batch_of_one_sample_is_left_out() -> None:
    done = training(count=17)  # 4 batches of 4, one of 1
    seen: list[int] = []
    done.run(on_step=lambda progress: seen.append(progress.seen))
    assert seen[:5] == [4, 8, 12, 16, 16]
    assert done.progress.step == 15


def test_a_loss_that_is_not_finite_is_said() -> None:
    broken = training()
    broken.train.inputs[3] = math.nan
    with pytest.raises(TaskError, match=r"the loss of epoch 1 is not finite; train with a smaller --rate"):
        broken.run()


def test_a_state_of_something_else_is_refused() -> None:
    begun = training()
    with pytest.raises(TaskError, match=r"another training: seed was 1 and is now 0; give the same settings"):
        begun.load_state_dict(training(seed=1).state_dict())
    with pytest.raises(TaskError, match=r"the state cannot be taken up \(KeyError: 'settings'\)"):
        begun.load_state_dict({})
    lacking = training().state_dict()
    del lacking["model"]["0.weight"]
    with pytest.raises(TaskError, match=r"cannot be taken up \(RuntimeError: .*0\.weight"):
        begun.load_state_dict(lacking)


def test_the_usual_recipe_is_the_usual_one() -> None:
    usual = RECIPES["usual"]
    assert (usual.epochs, usual.batch_size, usual.momentum, usual.weight_decay) == (200, 128, 0.9, 5e-4)
    rates = [usual.rate_at(epoch / 200) for epoch in (0, 59, 60, 119, 120, 159, 160, 199)]
    assert rates == pytest.approx([0.1, 0.1, 0.02, 0.02, 0.004, 0.004, 0.0008, 0.0008])


def test_the_short_recipe_rises_and_falls_once() -> None:
    short = RECIPES["short"]
    assert (short.epochs, short.nesterov, short.smoothing) == (18, True, 0.1)
    assert short.rate_at(0.0) == pytest.approx(0.15 * 0.04)
    assert short.rate_at(0.1) == pytest.approx(0.15 * 0.52)
    assert short.rate_at(0.2) == pytest.approx(0.15)
    assert short.rate_at(0.6) == pytest.approx(0.075)
    assert short.rate_at(1.0) == pytest.approx(0.0)


def test_a_fresh_network_is_the_seeds() -> None:
    first, again = (fresh(lambda: zoo.network("mobilenet_v1"), seed=4) for _ in range(2))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())


def test_a_checkpoint_that_fails_to_be_written_leaves_the_last_one(tmp_path: Path) -> None:
    path = tmp_path / "c"
    checkpoint.write(path, {"a": torch.ones(2)})
    with pytest.raises(Exception, match="pickle"):
        checkpoint.write(path, {"a": lambda: None})
    assert torch.equal(checkpoint.read(path)["a"], torch.ones(2))
    assert [file.name for file in tmp_path.iterdir()] == ["c"]


def test_means_of_nothing_are_zero() -> None:
    assert Progress().means() == (0.0, 0.0)
