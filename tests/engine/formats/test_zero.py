from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import pytest
import torch
from tests.engine.formats.cases import Case, formed, of
from tests.engine.formats.checks import check_cost, check_ladder
from tests.engine.formats.test_forms import CASES
from torch import Tensor, nn

from diminuendo.engine.cost import Cost
from diminuendo.engine.formats import get
from diminuendo.engine.plan import Call, Choice, LayerSpec, Plan, PlanError
from diminuendo.engine.surgery import build, load_factors, warm_start
from diminuendo.engine.survey import factors
from diminuendo.engine.weights import complete, from_bytes, to_bytes

ZERO = get("zero")


def test_cost_by_hand() -> None:
    spec = LayerSpec("c", "conv", 16, 8, (3, 3), True, calls=(Call(1, (20, 20), (10, 10)), Call(2, (4, 4), (2, 2))))
    assert ZERO.cost(spec, (), item_bytes=2) == Cost(16, 0, 32, 16 * (100 + 2 * 4))
    assert ZERO.cost(dataclasses.replace(spec, bias=False), ()) == Cost(0, 0, 0, 16 * 108)
    assert ZERO.cost(LayerSpec("f", "linear", 5, 8, (), True), ()) == Cost(5, 0, 20, 5)
    with pytest.raises(PlanError, match=r"layer 'c': zero takes 0 rank\(s\), got \[1\]"):
        ZERO.cost(spec, (1,))


@pytest.mark.parametrize("name", CASES)
def test_it_gives_the_mean_of_the_data(name: str) -> None:
    case = CASES[name]
    found = ZERO.factor(case.sides)
    module = formed(ZERO, case, (), found)
    outputs = module(case.inputs)
    assert outputs.shape == case.layer(case.inputs).shape
    mean = case.outputs().mean(dim=0) if case.spec.bias else torch.zeros(case.spec.out_channels, dtype=torch.float64)
    torch.testing.assert_close(case.rows(outputs.detach()), mean.expand(case.outputs().shape), atol=1e-10, rtol=0.0)
    assert torch.equal(module(torch.full_like(case.inputs, torch.inf)), outputs)
    if case.spec.bias:  # no constant is nearer
        assert case.share(module) == pytest.approx(1.0)
    assert ZERO.ladder(case.spec, found) == ZERO.snapped(case.spec, [()], 8) == [()]
    assert ZERO.energy(found, ()) == 1.0
    check_cost(ZERO, case, (), found)
    check_ladder(ZERO, case, found)
    stored = factors.from_bytes(factors.to_bytes(found))
    assert torch.equal(formed(ZERO, case, (), stored)(case.inputs), outputs)


def test_a_mean_that_nothing_takes_up_is_left_alone() -> None:
    case = of(nn.Conv2d(6, 8, 3, bias=False, dtype=torch.float64), absorbs_mean=False)
    assert not ZERO.factor(case.sides)["mean"].any()
    taken = of(nn.Conv2d(6, 8, 3, bias=False, dtype=torch.float64))
    torch.testing.assert_close(ZERO.factor(taken.sides)["mean"], taken.outputs().mean(dim=0))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_type_layout_and_lonely_samples_are_those_of_the_layer(bias: bool, dtype: torch.dtype) -> None:
    case = of(nn.Conv2d(4, 6, 3, stride=2, bias=bias, dtype=dtype))
    module = formed(ZERO, case, ())
    for inputs in (case.inputs, case.inputs.contiguous(memory_format=torch.channels_last), case.inputs[0]):
        found, expected = module(inputs), case.layer(inputs)
        assert (found.shape, found.dtype, found.stride()) == (expected.shape, expected.dtype, expected.stride())
    module.to(torch.float64)
    assert module(case.inputs.double()).dtype == torch.float64
    assert [name for name, _ in module.state_dict().items()] == (["0.bias"] if bias else [])


class Branches(nn.Module):
    """Two blocks, around which a connection leads, without and with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.one, self.two = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm, self.fc = nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu_()
        x = x + self.one(x).relu_()
        x = x + self.norm(self.two(x))
        return self.fc(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]


PLAN = Plan.of({"one": Choice("zero"), "two": Choice("zero")})


def branches() -> tuple[nn.Module, nn.Module, dict[str, dict[str, Tensor]]]:
    """The network, what is left of it without its branches, and the factors of those."""
    model = Branches().eval()
    made = {}
    for name, bias in (("one", True), ("two", False)):
        case = of(nn.Conv2d(8, 8, 3, padding=1, bias=bias))
        made[name] = ZERO.factor(case.sides)
    small = build(model, PLAN)
    load_factors(small, model, PLAN, made)
    return model, small, made


def test_a_network_without_its_branches_is_whole() -> None:
    model, small, made = branches()
    x = torch.randn(4, 3, 6, 6)
    expected = model.stem(x).relu() + made["one"]["mean"].relu().reshape(1, -1, 1, 1)  # type: ignore[operator]
    expected = expected + (model.norm.bias - model.norm.running_mean).reshape(1, -1, 1, 1)  # type: ignore[operator,union-attr]
    expected = model.fc(expected.mean(dim=(2, 3)))  # type: ignore[operator]
    torch.testing.assert_close(small.eval()(x), expected, atol=1e-4, rtol=0.0)
    again = build(model, PLAN)
    again.load_state_dict(complete(again, from_bytes(to_bytes(small))))
    assert torch.equal(again.eval()(x), small(x))
    small.train()(x).sum().backward()
    assert small.get_parameter("one.0.bias").grad is not None
    assert all(bool(torch.isfinite(p.grad).all()) for p in small.parameters() if p.grad is not None)


def test_warm_starts_to_zero_and_from_it() -> None:
    model, small, made = branches()
    with torch.no_grad():
        small.get_parameter("one.0.bias").add_(1.0)
    other = Plan.of({"one": Choice("zero"), "two": Choice("svd", (2,))})
    case = of(nn.Conv2d(8, 8, 3, padding=1, bias=False))
    two = get("svd").factor(case.sides)
    state = warm_start(model, PLAN, small.state_dict(), other, {**made, "two": two})
    child = build(model, other)
    child.load_state_dict(state)
    assert torch.equal(child.get_parameter("one.0.bias"), small.get_parameter("one.0.bias"))
    assert torch.equal(child.get_parameter("two.0.weight"), two["right"][:2])
    back = warm_start(model, other, child.state_dict(), PLAN, made)
    assert torch.equal(back["one.0.bias"], small.get_parameter("one.0.bias"))
    assert "two.0.weight" not in back
    kept = {"one": Choice("zero"), "two": Choice("svd", (1,))}
    resized = ZERO.resize(model.get_submodule("one"), {"0.bias": torch.ones(8)}, (), made["one"])
    assert torch.equal(resized["0.bias"], torch.ones(8))
    assert set(warm_start(model, other, child.state_dict(), Plan.of(kept), {**made, "two": two})) == set(state)


def test_it_is_exported() -> None:
    _, small, _ = branches()
    x = torch.randn(4, 3, 6, 6)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(small.eval(), (x,), dynamic_shapes=({0: batch},))
    for count in (1, 4, 7):
        inputs = torch.randn(count, 3, 6, 6)
        torch.testing.assert_close(exported.module()(inputs), small(inputs))


def test_it_is_exported_to_onnx(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    _, small, _ = branches()
    small.eval()
    x, path = torch.randn(4, 3, 6, 6), tmp_path / "small.onnx"
    batch = torch.export.Dim("batch", min=1, max=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(small, (x,), str(path), dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for count in (1, 4, 7):
        inputs = torch.randn(count, 3, 6, 6)
        (found,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), small(inputs).detach(), atol=1e-5, rtol=1e-5)


def test_code_that_asks_for_the_weights_type_gets_it() -> None:
    _, small, _ = branches()
    for name in ("one", "two"):
        facts = getattr(small.get_submodule(name), "weight")  # noqa: B009 - no tensor
        assert (facts.dtype, facts.shape) == (torch.float32, (8, 8, 3, 3))
        assert getattr(small.double().get_submodule(name), "weight").dtype == torch.float64  # noqa: B009
        small.float()


def test_of_a_case_in_half_precision_the_mean_is_not() -> None:
    case: Case = of(nn.Linear(5, 4, dtype=torch.bfloat16), (), batch=300)
    assert ZERO.factor(case.sides)["mean"].dtype == torch.bfloat16
