from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.engine.threads import one_thread  # noqa: F401 - a fixture
from torch import Tensor, nn
from torch.nn import functional

from diminuendo.engine import precision, tryout
from diminuendo.engine.finetune import finetune
from diminuendo.engine.modules import with_forward
from diminuendo.engine.original import Lesson
from diminuendo.engine.precision import autocast, has_bf16_units, is_image, lay_out, widened
from diminuendo.engine.score import divergence, outputs_of
from diminuendo.engine.search.work import Numerics
from diminuendo.engine.task import Recipe, Samples, Task
from diminuendo.engine.teacher import Teacher
from diminuendo.engine.tryout import choice, fastest, ways

PLAIN = Numerics("float32", bf16=False, channels_last=True)
CONTIGUOUS = Numerics("float32", bf16=False, channels_last=False)
NARROW = Numerics("float32", bf16=True, channels_last=True)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4, 3)
    return nn.Sequential(*layers).eval()


def images(count: int = 32) -> Samples:
    inputs = torch.randn(count, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    return Samples(inputs, torch.arange(count) % 3)


def lesson(model: nn.Module) -> Lesson:
    batch = images(8)
    return Lesson(batch.inputs, batch.targets, model(batch.inputs).detach())


def task(model: nn.Module, **changes: Any) -> Task:
    return Task(model, images(), images(), recipe=Recipe(rate=0.05, batch_size=8), **changes)


@pytest.fixture
def bf16_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor that has them: torch computes the same without, only slowly."""
    monkeypatch.setattr(tryout, "has_bf16_units", lambda device: True)


def test_what_is_tried_is_what_may_pay(bf16_units: None) -> None:
    model = network()
    assert ways(model, images().inputs) == [PLAIN, NARROW, CONTIGUOUS, Numerics("float32", True, False)]
    flat = nn.Linear(3, 3)
    assert ways(flat, torch.zeros(1, 3)) == [CONTIGUOUS, Numerics("float32", True, False)]
    assert ways(flat, torch.zeros(1, 2, 3, 3)) == [PLAIN, NARROW]  # no weight of which the order matters
    assert ways(nn.Linear(3, 3, dtype=torch.float64), torch.zeros(1, 3)) == [Numerics("float64", False, False)]
    assert ways(nn.ReLU(), torch.zeros(1, 3)) == [CONTIGUOUS]


def test_without_units_for_it_bfloat16_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tryout, "has_bf16_units", lambda device: False)
    assert ways(network(), images().inputs) == [PLAIN, CONTIGUOUS]


@pytest.mark.parametrize(
    ("found", "units"),
    [
        ({"avx2": True, "avx512_f": True, "architecture": "x86_64"}, False),
        ({"avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"amx_bf16": True}, True),
        ({"neon": True, "bf16": True, "architecture": "aarch64"}, True),
    ],
)
def test_units_are_those_that_torch_finds(found: dict[str, Any], units: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert has_bf16_units(torch.device("cpu")) == units


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([[1.0, 1.0, 1.0]], 0),
        ([[1.0, 1.0, 1.0], [0.5, 0.5, 0.5]], 1),
        ([[1.0, 1.0, 1.0], [0.9, 0.9, 0.9]], 0),  # not clearly
        ([[1.0, 1.0, 1.0], [0.5, 0.9, 0.5]], 0),  # not each time
        ([[1.0, 3.0, 2.0], [0.5, 2.2, 1.2]], 1),  # beside each other, on a busy machine
        ([[1.0, 1.0], [0.5, 0.5], [0.45, 0.45], [0.3, 0.3]], 3),
        ([[1.0, 1.0], [0.5, 0.5], [0.45, 0.45], [0.44, 0.44]], 1),  # not clearly faster than the one before
    ],
)
def test_another_way_is_taken_when_each_of_its_steps_is_clearly_faster(
    seconds: list[list[float]], expected: int
) -> None:
    assert choice(seconds) == expected


def test_steps_are_timed_in_turn_and_the_network_is_left_alone(
    bf16_units: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that runs at half the speed while a step is computed under autocast."""
    clock, order = [0.0], []

    def forward(model: nn.Module, inputs: Tensor) -> Tensor:
        narrow = torch.is_autocast_enabled("cpu")
        if model.training:
            clock[0] += 1.0 if narrow else 2.0
            order.append(narrow)
        return model(inputs)  # type: ignore[no-any-return]

    model = network()
    before = copy.deepcopy(model.state_dict())
    monkeypatch.setattr("diminuendo.engine.stopwatch.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("diminuendo.engine.stopwatch._Waits.ns", lambda waits: 0)

    found = fastest(with_forward(model, forward), task(model), lesson(model), [PLAIN, NARROW])
    assert found.numerics == NARROW
    assert found.step_s == pytest.approx(1.0)
    assert order == [False, True] + [False, True] * tryout.ROUNDS
    assert not model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


class Fussy(nn.Module):
    """Puts rows into a buffer of its own type, which autocast's do not fit."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = torch.zeros(len(x), 3)
        found[torch.arange(len(x))] = self.layer(x)
        return found


class Touchy(nn.Module):
    """Magnifies what bfloat16 rounds away."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return 1e4 * (self.layer(x) - self.layer(x + 1e-3))  # type: ignore[no-any-return]


@pytest.mark.parametrize("make", [Fussy, Touchy])
def test_a_way_that_raises_or_gives_something_else_is_left_out(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, inputs = make().eval(), torch.randn(8, 3)
    given = Lesson(inputs, torch.arange(8) % 3, model(inputs).detach())
    flat = Numerics("float32", bf16=False, channels_last=False)
    found = fastest(model, task(model), given, [flat, Numerics("float32", bf16=True, channels_last=False)])
    assert found.numerics == flat


def test_what_is_wrong_with_the_owners_code_is_raised_at_the_start() -> None:
    model = network()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        raise KeyError("x")

    with pytest.raises(KeyError):
        fastest(model, task(model, loss=loss), lesson(model), [PLAIN])


def test_a_network_without_trained_weights_is_not_stepped() -> None:
    model = network().requires_grad_(False)
    assert fastest(model, task(model), lesson(model), [PLAIN, CONTIGUOUS]).numerics in (PLAIN, CONTIGUOUS)


def test_tuning_under_autocast_comes_near_to_tuning_without() -> None:
    original, samples = network(), images(96)
    dtypes = set()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        dtypes.add(outputs.dtype)
        return functional.cross_entropy(outputs, targets)

    ends = []
    for bf16 in (False, True):
        student = copy.deepcopy(original)
        with torch.no_grad():
            student.get_parameter("4.weight").mul_(0.5)
        lay_out(student, channels_last=bf16)
        teacher = Teacher(original, samples, None, 0)
        done = finetune(student, teacher, loss, Recipe(batch_size=16), epochs=3, rate=1.0, seed=0, bf16=bf16)
        assert not done.diverged
        ends.append(outputs_of(student, samples.inputs))
    assert dtypes == {torch.float32}
    assert 0.0 < divergence(ends[0], ends[1]) < 1e-2
    assert all(p.dtype == torch.float32 for p in student.parameters())


def test_the_original_beside_computes_as_its_student_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diminuendo.engine.teacher.COPIES_BYTES", 0)
    model, samples = network(), images(64)
    for bf16 in (False, True):
        teacher = Teacher(model, samples, None, 0)
        given = next(teacher.lessons(0.0, 1.0, 16, torch.Generator(), bf16=bf16))
        assert given.wanted.dtype == (torch.bfloat16 if bf16 else torch.float32)
        torch.testing.assert_close(given.wanted.float(), model(given.inputs), atol=0.05 * bf16 + 1e-5, rtol=0.0)


def test_orders_in_memory_are_changed_in_place() -> None:
    model = network()
    parameters, before = list(model.parameters()), copy.deepcopy(model.state_dict())
    weight = model.get_parameter("0.weight")
    lay_out(model, channels_last=True)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    lay_out(model, channels_last=False)
    assert weight.is_contiguous()
    assert all(one is two for one, two in zip(parameters, model.parameters(), strict=True))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_only_images_are_images() -> None:
    assert is_image(torch.zeros(1, 3, 2, 2))
    assert not is_image(torch.zeros(1, 3))
    assert not is_image((torch.zeros(1, 3, 2, 2),))


def test_only_bfloat16_is_widened() -> None:
    given = {"a": torch.zeros(1, dtype=torch.bfloat16), "b": (torch.zeros(1, dtype=torch.float64), torch.arange(2))}
    found = widened(given)
    assert [found["a"].dtype, found["b"][0].dtype, found["b"][1].dtype] == [torch.float32, torch.float64, torch.int64]
    with autocast(network(), enabled=False):
        assert not torch.is_autocast_enabled("cpu")
    assert precision.device_of(nn.ReLU()).type == "cpu"


@pytest.mark.parametrize(
    ("numerics", "text"),
    [
        (PLAIN, "float32, channels_last"),
        (NARROW, "bfloat16 autocast, channels_last"),
        (Numerics("float64", channels_last=False), "float64, contiguous"),
    ],
)
def test_numerics_are_said_in_words(numerics: Numerics, text: str) -> None:
    assert str(numerics) == text
