from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.engine.tasks import held
from tests.engine.threads import one_thread  # noqa: F401 - a fixture
from torch import Tensor, nn
from torch.nn import functional

from diminuendo.engine.descent import one_cycle
from diminuendo.engine.finetune import finetune
from diminuendo.engine.score import divergence, outputs_of
from diminuendo.engine.task import Recipe, Samples, Task, TaskError
from diminuendo.engine.teacher import FEW_COPIES, MAX_COPIES, REPEATS, Missing, Teacher, distillation

RECIPE = Recipe(rate=0.1, batch_size=16, weight_decay=0.0)


def problem(seed: int = 0) -> tuple[nn.Sequential, Samples]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    model.eval()
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


def test_micro_batches_add_up_to_the_batch() -> None:
    """Without BatchNorm, which goes by what it sees, parts of a batch give the same weights as the whole."""
    torch.manual_seed(0)
    original = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).double().eval()
    inputs = torch.randn(50, 6, dtype=torch.float64)
    samples = Samples(inputs, original(inputs).argmax(dim=1).detach())
    found, sizes = [], set[int]()
    for parts in (1, 2, 3, 100):
        student = copy.deepcopy(original)
        first, last = student[0], student[2]
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            first.weight.mul_(0.5)
        first.register_forward_hook(lambda _m, given, _o: sizes.add(len(given[0])))
        teacher = Teacher(original, samples, None, seed=3)
        finetune(student, teacher, functional.cross_entropy, RECIPE, epochs=3, rate=1.0, seed=1, parts=parts)
        found.append(last.weight.detach())
    assert {16, 8, 5, 6, 2} <= sizes, "of the whole, of halves, of thirds, and of as many as may be"
    assert 1 not in sizes, "a BatchNorm cannot go by a single sample"
    assert not torch.equal(found[0], original.state_dict()["2.weight"])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-9, atol=1e-12)


def test_what_is_missing_is_0_at_the_original_and_1_where_nothing_is_told() -> None:
    torch.manual_seed(0)
    teacher = torch.randn(40, 7)

    def missing(*parts: tuple[Tensor, Tensor]) -> float:
        found = Missing(4.0)
        for student, wanted in parts:
            found.add(student, wanted)
        return found.value

    assert missing((teacher, teacher)) == 0.0
    assert missing((torch.full((40, 7), 3.0), teacher)) == pytest.approx(1.0)
    assert missing((-teacher, teacher)) == 1.0
    near, nearer = teacher + 0.3 * torch.randn(40, 7), teacher + 0.1 * torch.randn(40, 7)
    assert 0.05 < missing((nearer, teacher)) < 0.15 < missing((near, teacher)) < 0.4
    halves = [(near[:10], teacher[:10]), (near[10:], teacher[10:])]
    assert missing(*halves) == pytest.approx(missing((near, teacher)), rel=1e-5)
    assert missing((teacher * math.nan, teacher)) == 1.0


def test_what_is_missing_of_one_column_is_of_its_variance() -> None:
    torch.manual_seed(0)
    teacher = torch.randn(400, 1)
    for student, wanted in ((teacher, 0.0), (teacher.mean().expand(400, 1), 1.0), (teacher + 0.2, 0.2)):
        found = Missing(4.0)
        found.add(student, teacher)
        assert found.value == pytest.approx(wanted, abs=0.02)


def test_orthogonalised_steps_are_shorter_the_nearer_the_original_is() -> None:
    """From the original itself they are short, and a tuning leaves it nearly as it was."""
    model, samples = problem()
    teacher = Teacher(model, samples, None, seed=3)
    moved = []
    for noise in (0.0, 0.3):
        student = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(noise * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
        before = copy.deepcopy(student.state_dict())["0.weight"]
        finetune(student, teacher, functional.cross_entropy, RECIPE, epochs=0.1, rate=1.0, seed=0)
        moved.append(float((student.state_dict()["0.weight"] - before).norm()))
    assert 0.0 < moved[0] < 0.6 * moved[1]


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


def test_a_loss_that_is_no_longer_finite_ends_the_tuning_at_once() -> None:
    teacher_model, samples = problem()
    student, calls = copy.deepcopy(teacher_model), 0

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return outputs.sum() * (math.nan if calls == 3 else 1.0)

    done = finetune(student, Teacher(teacher_model, samples, None, 0), loss, RECIPE, epochs=4, rate=1.0, seed=0)
    assert (done.diverged, done.samples, calls) == (True, 3 * 16, 3)


def test_named_losses_are_added_up() -> None:
    def end(loss: Callable[[Any, Any], Any]) -> dict[str, Tensor]:
        teacher_model, samples = problem()
        student = copy.deepcopy(teacher_model)
        finetune(student, Teacher(teacher_model, samples, None, 0), loss, RECIPE, epochs=1, rate=1.0, seed=0)
        return student.state_dict()

    def both(outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, targets) + outputs.square().mean()

    def named(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"class": functional.cross_entropy(outputs, targets), "size": outputs.square().mean()}

    one, two = end(both), end(named)
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)


def whole_pass(teacher: Teacher, number: int) -> tuple[Tensor, Tensor | None]:
    """Inputs and logits of one pass; it fits one window."""
    (window,) = teacher.windows(number * teacher.blocks, teacher.blocks)
    return window.samples.inputs, window.logits


def sorted_rows(inputs: Tensor) -> Tensor:
    return inputs[inputs[:, 0].argsort()]


def many(count: int = 700) -> tuple[nn.Module, Samples]:
    model, _ = problem()
    inputs = torch.randn(count, 6, generator=torch.Generator().manual_seed(2))
    return model, Samples(inputs, model(inputs).argmax(dim=1).detach())


def test_the_teacher_keeps_copies_and_gives_the_same_ones_everywhere() -> None:
    model, samples = problem()
    one, two = Teacher(model, samples, jitter, 7), Teacher(model, samples, jitter, 7)
    inputs, logits = whole_pass(one, 3)
    assert (one.copies, one.keeps_inputs) == (MAX_COPIES, True)
    assert torch.equal(inputs, whole_pass(two, 3 + MAX_COPIES)[0])
    assert not torch.equal(inputs, whole_pass(one, 4)[0])
    assert logits is not None
    torch.testing.assert_close(logits, model(inputs).detach())
    plain = whole_pass(Teacher(model, samples, None, 7), 5)[0]
    assert torch.equal(sorted_rows(plain), sorted_rows(samples.inputs))


def test_a_pass_in_blocks_has_every_sample_once_with_its_target_and_logits() -> None:
    model, samples = many()
    teacher = Teacher(model, samples, None, 7)
    assert teacher.blocks == 700 // 64
    windows = [w for start in (0, 4, 7) for w in teacher.windows(start, {0: 4, 4: 3, 7: teacher.blocks - 7}[start])]
    inputs = torch.cat([w.samples.inputs for w in windows])
    assert torch.equal(sorted_rows(inputs), sorted_rows(samples.inputs))
    for window in windows:
        assert window.logits is not None
        assert torch.equal(window.logits.argmax(dim=1), window.samples.targets)
    assert [len(w.samples) for w in windows] == [
        size
        for start, count in ((0, 4), (4, 3), (7, teacher.blocks - 7))
        for size in teacher.window_sizes(start, count)
    ]
    first, again = (next(iter(teacher.windows(number * teacher.blocks, 1))).samples.inputs for number in (0, 1))
    assert not torch.equal(sorted_rows(first), sorted_rows(again))  # another pass, another order of the blocks


def test_kept_logits_are_computed_as_the_student_computes() -> None:
    model, samples = problem()
    teacher = Teacher(model, samples, None, 7)
    (wide,), (narrow,), (again,) = (list(teacher.windows(0, teacher.blocks, bf16=b)) for b in (False, True, False))
    assert wide.logits is not None
    assert narrow.logits is not None
    assert again.logits is not None
    assert narrow.logits.dtype == torch.float32
    assert torch.equal(wide.logits, again.logits)
    assert not torch.equal(wide.logits, narrow.logits)
    torch.testing.assert_close(narrow.logits, wide.logits, atol=0.05, rtol=0.05)


def test_where_only_logits_fit_the_original_sees_each_block_of_a_copy_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, samples = many()
    monkeypatch.setattr("diminuendo.engine.teacher.COPIES_BYTES", FEW_COPIES * 700 * 3 * 4)
    teacher = Teacher(model, samples, jitter, 7)
    assert (teacher.copies, teacher.keeps_inputs) == (FEW_COPIES, False)
    seen = 0

    def count(_: nn.Module, arguments: tuple[Tensor]) -> None:
        nonlocal seen
        seen += len(arguments[0])

    handle = model.register_forward_pre_hook(count)
    early = whole_pass(teacher, 1)
    assert seen == 700
    later = whole_pass(teacher, 3)
    assert seen == 700
    whole_pass(teacher, 1 + REPEATS * FEW_COPIES)
    assert seen == 700
    assert [teacher.copy_of(n) for n in (*range(4), *range(6, 10), 31, 32, 33)] == [0, 1, 0, 1, 0, 1, 2, 3, 7, 0, 1]
    handle.remove()
    inputs, logits = later
    assert logits is not None
    torch.testing.assert_close(logits, model(inputs).detach())
    assert torch.equal(sorted_rows(early[0]), sorted_rows(inputs))


def test_windows_are_bounded_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model, samples = many()
    monkeypatch.setattr("diminuendo.engine.teacher.WINDOW_BYTES", 3 * 700 * 6 * 4 // 10)
    teacher = Teacher(model, samples, None, 7)
    assert teacher.window_sizes(8, 7) == [140, 210, 140]  # 2 blocks of 70 to the end of the pass, then at most 3


@pytest.mark.parametrize(("epochs", "seen"), [(0.0, 0), (0.01, 70), (0.5, 350), (1.3, 910)])
def test_a_part_of_a_pass_is_whole_blocks_at_least_one(epochs: float, seen: int) -> None:
    model, samples = many()
    student = copy.deepcopy(model)
    teacher = Teacher(model, samples, None, 7)
    tuning = finetune(student, teacher, functional.cross_entropy, RECIPE, epochs=epochs, rate=1.0, seed=0)
    assert tuning.samples == seen


def test_a_tuning_that_goes_on_sees_other_data_first() -> None:
    model, samples = many()
    ends = []
    for start in (0.0, 0.3):
        student = copy.deepcopy(model)
        teacher = Teacher(model, samples, None, 7)
        finetune(student, teacher, functional.cross_entropy, RECIPE, epochs=0.2, rate=1.0, seed=0, start=start)
        ends.append(student.state_dict())
    assert not all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_without_room_for_copies_tuning_gives_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def student_of() -> dict[str, Tensor]:
        teacher_model, samples = problem()
        student = copy.deepcopy(teacher_model)
        teacher = Teacher(teacher_model, samples, None, seed=3)
        finetune(student, teacher, functional.cross_entropy, RECIPE, epochs=2, rate=1.0, seed=1)
        return student.state_dict()

    kept = student_of()
    monkeypatch.setattr("diminuendo.engine.teacher.COPIES_BYTES", 0)
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


def test_distillation_is_a_mean_over_positions_in_any_layout() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 5, 4, generator=generator)  # two of (N, T, C)
    expected = distillation(student.flatten(0, 1), teacher.flatten(0, 1), 4.0)
    torch.testing.assert_close(distillation(student.transpose(1, 2), teacher.transpose(1, 2), 4.0), expected)


def test_distillation_of_one_column_by_hand() -> None:
    # Variance of 0, 2, 4, 6: 5. Mean square of the differences: 1/2.
    teacher, student = torch.tensor([0.0, 2.0, 4.0, 6.0]), torch.tensor([1.0, 1.0, 4.0, 6.0])
    assert float(distillation(student, teacher, 4.0)) == pytest.approx(0.05)
    assert float(distillation(student.unsqueeze(1), teacher.unsqueeze(1), 4.0)) == pytest.approx(0.05)


def test_classes_that_are_ruled_out_leave_the_gradient_finite() -> None:
    out = -torch.inf
    student = torch.tensor([[0.5, 0.0, out]], requires_grad=True)
    value = distillation(student, torch.tensor([[0.0, 0.0, out]]), 2.0)
    value.backward()  # type: ignore[no-untyped-call]
    two = distillation(torch.tensor([[0.5, 0.0]]), torch.tensor([[0.0, 0.0]]), 2.0)
    torch.testing.assert_close(value.detach(), two)
    assert student.grad is not None
    assert bool(torch.isfinite(student.grad).all())


class Texts(nn.Module):
    """A language model of two heads, one unused, with a tied embedding; it returns a record and no tensor."""

    def __init__(self, *, sparse: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4, sparse=sparse)
        self.body = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.unused = nn.Linear(4, 4)
        self.register_buffer("shift", torch.ones(4, dtype=torch.int64))

    def forward(self, ids: Tensor, *, mask: Tensor) -> dict[str, Any]:
        hidden = self.norm(self.body(self.embedding(ids)) + self.shift)
        hidden = hidden * mask.unsqueeze(-1).to(hidden.dtype)
        return {"logits": hidden @ self.embedding.weight.T, "words": "some"}


def texts(count: int = 24) -> Samples:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 7, (count, 5), generator=generator)
    mask = (torch.rand(count, 5, generator=generator) > 0.2).to(torch.float32)
    return Samples({"ids": ids, "mask": mask}, ids.roll(-1, 1))


def language_task(model: nn.Module, logits: Callable[[Any], Tensor]) -> Task:
    return Task(model, texts(), texts(), logits=logits)


def tokens(outputs: dict[str, Any]) -> Tensor:
    """(N * T, V), sample by sample."""
    return outputs["logits"].flatten(0, 1)  # type: ignore[no-any-return]


def classes(outputs: dict[str, Any]) -> Tensor:
    """(N, V, T)."""
    return outputs["logits"].transpose(1, 2)  # type: ignore[no-any-return]


def token_by_token(outputs: dict[str, Any]) -> Tensor:
    """(T * N, V), not sample by sample."""
    return outputs["logits"].transpose(0, 1).flatten(0, 1)  # type: ignore[no-any-return]


def language_tuning(logits: Callable[[Any], Tensor], dtype: torch.dtype = torch.float32, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    model = Texts(**options).to(dtype)
    task = language_task(model, logits)
    student = copy.deepcopy(model)
    with torch.no_grad():
        student.body.weight.mul_(0.5)
    teacher = Teacher(model, held(task.train), None, seed=3, logits=logits)
    recipe = Recipe(rate=0.05, batch_size=8)

    def no_loss(outputs: Any, targets: Tensor) -> Tensor:
        return torch.zeros(())

    assert not finetune(student, teacher, no_loss, recipe, epochs=8, rate=1.0, seed=1).diverged
    reference = outputs_of(model, held(task.train).inputs, part=tokens)
    damaged = copy.deepcopy(model)
    with torch.no_grad():
        damaged.body.weight.mul_(0.5)
    before = divergence(reference, outputs_of(damaged, held(task.train).inputs, part=tokens))
    assert divergence(reference, outputs_of(student, held(task.train).inputs, part=tokens)) < 0.5 * before
    return student


def test_logits_of_any_layout_give_the_same_tuning() -> None:
    one, two = language_tuning(tokens).state_dict(), language_tuning(classes).state_dict()
    three = language_tuning(token_by_token).state_dict()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(tensor, three[name], atol=1e-5, rtol=1e-4)


def test_kept_logits_are_those_of_the_samples() -> None:
    model, samples, index = Texts().eval(), texts(), torch.tensor([5, 0, 23])
    for logits in (tokens, classes):
        teacher = Teacher(model, samples, None, 0, logits)
        (window,) = teacher.windows(0, teacher.blocks)
        assert window.logits is not None
        torch.testing.assert_close(teacher.taken(window.logits, index), teacher.on(window.samples.take(index).inputs))
    assert whole_pass(Teacher(model, samples, None, 0, token_by_token), 0)[1] is None


def test_logits_that_are_larger_than_the_data_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = Teacher(Texts().eval(), texts(), None, 0, tokens)
    monkeypatch.setattr("diminuendo.engine.teacher.COPIES_BYTES", 24 * 5 * (8 + 4 + 7 * 4))
    assert (teacher.copies, teacher.keeps_inputs) == (1, True)
    for room, kept in ((24 * 5 * (8 + 4 + 7 * 4) - 1, 1), (24 * 5 * 7 * 4 - 1, 0)):
        monkeypatch.setattr("diminuendo.engine.teacher.COPIES_BYTES", room)
        teacher = Teacher(Texts().eval(), texts(), None, 0, tokens)
        assert (teacher.copies, teacher.keeps_inputs) == (kept, False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_of_other_widths_are_tuned_and_stay_so(dtype: torch.dtype) -> None:
    student = language_tuning(tokens, dtype)
    assert all(p.dtype == dtype for p in student.parameters())


def test_narrow_weights_take_steps_that_they_could_not_show_by_themselves() -> None:
    # 1 + 2^-10 rounds to 1 in bfloat16, whose steps there are 2^-7: 16 such steps must add up to 1 + 2^-6.
    model = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    with torch.no_grad():
        model.weight.fill_(1.0)
    samples = Samples(torch.ones(16, 1, dtype=torch.bfloat16), torch.zeros(16))
    teacher = Teacher(model, samples, None, 0)
    recipe = Recipe(rate=2**-10, momentum=0.0, weight_decay=0.0, batch_size=2, ema=0.0, own=1.0)

    def uphill(outputs: Tensor, targets: Tensor) -> Tensor:
        return -outputs.mean()

    teacher.logits = lambda outputs: torch.zeros(len(outputs))
    finetune(model, teacher, uphill, recipe, epochs=4, rate=1.0, seed=0)
    assert float(model.weight.detach()) == 1.0 + 2**-6


def test_sparse_gradients_are_taken() -> None:
    language_tuning(tokens, sparse=True)


def test_frozen_weights_and_buffers_stay() -> None:
    teacher_model, samples = problem()
    student = copy.deepcopy(teacher_model)
    student[0].requires_grad_(False)
    before = copy.deepcopy(student.state_dict())
    teacher = Teacher(teacher_model, samples, None, 0)
    finetune(student, teacher, functional.cross_entropy, RECIPE, epochs=1, rate=1.0, seed=0)
    now = student.state_dict()
    assert torch.equal(before["0.weight"], now["0.weight"])
    assert not torch.equal(before["3.weight"], now["3.weight"])
    frozen = copy.deepcopy(teacher_model).requires_grad_(False)
    assert finetune(frozen, teacher, functional.cross_entropy, RECIPE, epochs=1, rate=1.0, seed=0).samples == 0


def test_dropout_follows_the_seed_and_leaves_the_global_one_alone() -> None:
    teacher_model, samples = problem()
    teacher = Teacher(teacher_model, samples, None, 0)

    def tune(seed: int) -> dict[str, Tensor]:
        student = nn.Sequential(nn.Dropout(0.5), *copy.deepcopy(teacher_model))
        torch.manual_seed(seed)
        state = torch.random.get_rng_state()
        finetune(student, teacher, functional.cross_entropy, RECIPE, epochs=1, rate=1.0, seed=4)
        assert torch.equal(torch.random.get_rng_state(), state)
        return student.state_dict()

    one, again = tune(seed=1), tune(seed=2)
    assert all(torch.equal(one[name], again[name]) for name in one)


def test_augmentation_that_loses_samples_is_named() -> None:
    model, samples = problem()
    with pytest.raises(TaskError, match=r"^augment: 95 inputs came back for 96"):
        list(Teacher(model, samples, lambda inputs, generator: inputs[1:], 0).windows(0, 1))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda outputs, targets: outputs.sum(dim=1), r"^loss: it returned shape \(16,\); return one number"),
        (
            lambda outputs, targets: {"main": outputs.sum(), "rest": outputs},
            r"^loss 'rest': it returned shape \(16, 3\); return one number",
        ),
        (lambda outputs, targets: {}, r"^loss: it returned a dict; return one number"),
        (lambda outputs, targets: 3.0, r"^loss: it returned a float; return one number"),
    ],
)
def test_a_loss_that_is_no_number_is_named(loss: Callable[[Any, Any], Tensor], message: str) -> None:
    model, samples = problem()
    with pytest.raises(TaskError, match=message):
        finetune(model, Teacher(copy.deepcopy(model), samples, None, 0), loss, RECIPE, epochs=1, rate=1.0, seed=0)


def test_a_loss_that_no_weight_bears_on_is_named() -> None:
    model, samples = problem()
    teacher = Teacher(copy.deepcopy(model), samples, None, 0, logits=lambda outputs: outputs.detach())
    with pytest.raises(TaskError, match=r"^loss: no weight that is trained"):
        finetune(model, teacher, lambda o, t: torch.zeros(()), RECIPE, epochs=1, rate=1.0, seed=0)


class Auxiliary(nn.Module):
    """Gives more logits in training mode than in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return torch.cat([y, y], dim=1) if self.training else y


def test_logits_that_change_their_shape_in_training_are_named() -> None:
    samples, model = problem()[1], Auxiliary()
    teacher = Teacher(copy.deepcopy(model), samples, None, 0)
    with pytest.raises(TaskError, match=r"^logits: shape \(16, 6\) where .* \(16, 3\)"):
        finetune(model, teacher, functional.cross_entropy, RECIPE, epochs=1, rate=1.0, seed=0)
