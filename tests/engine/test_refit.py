from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diminuendo.engine import surgery, tree
from diminuendo.engine.plan import Choice, LayerSpec, Plan
from diminuendo.engine.refit import LEAST_SAMPLES, Head, head_of, made_of, refit
from diminuendo.engine.score import divergence
from diminuendo.engine.survey import factors, moments
from diminuendo.engine.survey.discover import discover
from diminuendo.engine.workbench import Workbench
from diminuendo.engine.zoo import task as zoo_task


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("stage", "inputs"),
    [
        (nn.Linear(6, 4), noise(3, 6)),
        (nn.Linear(6, 4, bias=False), noise(3, 5, 2, 6)),
        (nn.Conv1d(3, 4, 5, stride=2, padding=2), noise(3, 3, 17)),
        (nn.Conv2d(3, 4, (3, 1), stride=(2, 1), padding=(1, 0), bias=False), noise(3, 3, 9, 7)),
        (nn.Conv2d(3, 4, 3, padding=2, dilation=2), noise(3, 3, 9, 7).to(memory_format=torch.channels_last)),
        (nn.Conv2d(3, 4, 1, stride=2), noise(3, 3, 9, 7)),
        (nn.Conv3d(2, 4, (1, 3, 2), stride=(1, 2, 1), padding=(0, 1, 1)), noise(2, 2, 4, 6, 5)),
    ],
    ids=lambda value: repr(value) if isinstance(value, nn.Module) else "",
)
def test_rows_times_weights_are_the_outputs(stage: Any, inputs: Tensor) -> None:
    outputs = stage(inputs)
    flat = outputs.flatten(2).mT if inputs.dim() > 2 and not isinstance(stage, nn.Linear) else outputs
    flat = flat.reshape(len(inputs), -1, flat.shape[-1])
    grid = tuple(outputs.shape[1:-1]) if isinstance(stage, nn.Linear) else tuple(outputs.shape[2:])
    positions = torch.rand(flat.shape[:2], generator=torch.Generator().manual_seed(0)).argsort(1)[:, :5]
    rows = made_of(stage, inputs, grid, positions)
    found = rows @ stage.weight.flatten(1).T + (0 if stage.bias is None else stage.bias)
    torch.testing.assert_close(
        found, torch.cat([own[at] for own, at in zip(flat, positions, strict=True)]), atol=1e-5, rtol=1e-5
    )


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.third = nn.Conv2d(16, 12, 1)
        self.head = nn.Linear(12, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm(self.first(inputs)).relu()
        hidden = self.third(self.second(hidden).relu()).relu()
        found: Tensor = self.head(hidden.mean((2, 3)))
        return found


class Twice(Net):
    """Calls a layer two times."""

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm(self.first(inputs)).relu()
        hidden = self.third(self.second(self.second(hidden)).relu()).relu()
        found: Tensor = self.head(hidden.mean((2, 3)))
        return found


PLAN = {"first": Choice("tucker2", (2, 8)), "second": Choice("tucker2", (6, 6)), "third": Choice("svd", (5,))}


def original(kind: type[Net] = Net) -> Net:
    """A network whose BatchNorm knows its inputs."""
    model = kind().eval()
    surgery.reestimate_batchnorm(model, noise(300, 3, 8, 8, seed=2), 100)
    return model


def candidate_of(model: nn.Module, choices: dict[str, Choice], inputs: Tensor) -> nn.Module:
    """A plan's network, from the factors of its data."""
    model.eval()
    specs = discover(model, inputs[:4]).layers
    plan = Plan(tuple((spec.name, choices.get(spec.name, Choice("dense"))) for spec in specs))
    seen = moments.collect(model, specs, inputs)
    made = {s.name: own for s in specs if (own := _factors(model, s, seen, choices)) is not None}
    built = surgery.build(model, plan)
    surgery.load_factors(built, model, plan, made)
    return built.eval()


def _factors(model: nn.Module, spec: LayerSpec, seen: Any, choices: dict[str, Choice]) -> Any:
    if spec.name not in choices:
        return None
    form = choices[spec.name].format
    return factors.factor(model, spec, seen[spec.name], (form,))[form]


def outputs_of(model: nn.Module, layer: str, inputs: Tensor) -> Tensor:
    found: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _, __, outputs: found.append(outputs))
    with torch.no_grad():
        tree.call(model.eval(), inputs)
    handle.remove()
    return found[0]


def missed(candidate: nn.Module, model: nn.Module, layer: str, inputs: Tensor) -> float:
    """Share of the variance of a layer's outputs that the candidate's lack."""
    wanted = outputs_of(model, layer, inputs)
    apart = (outputs_of(candidate, layer, inputs) - wanted).square().mean()
    return float(apart / wanted.var())


@torch.no_grad()
def state_of(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


def same(one: dict[str, Tensor], other: dict[str, Tensor], prefix: str = "") -> bool:
    return all(torch.equal(one[k], other[k]) for k in one if k.startswith(prefix))


def test_layers_come_nearer_to_the_originals_on_samples_that_were_not_seen() -> None:
    model, inputs, fresh = original(), noise(300, 3, 8, 8), noise(100, 3, 8, 8, seed=1)
    candidate = candidate_of(model, PLAN, inputs)
    before, kept = {name: missed(candidate, model, name, fresh) for name in PLAN}, state_of(model)
    changed = refit(candidate, model, PLAN, inputs, absorbed={"first"})
    assert set(changed) == set(PLAN)
    surgery.reestimate_batchnorm(candidate, inputs, 100)
    after = {name: missed(candidate, model, name, fresh) for name in PLAN}
    assert after["second"] < 0.9 * before["second"]
    assert after["third"] < 0.8 * before["third"]
    assert same(kept, state_of(model))


def test_a_layer_takes_back_a_part_of_what_the_one_before_it_has_lost() -> None:
    """Its ranks are full: by the factors of the original's activations it would do nothing about it."""
    model, inputs = original(), noise(300, 3, 8, 8)
    plan = {"second": Choice("tucker2", (16, 3)), "third": Choice("svd", (12,))}
    candidate = candidate_of(model, plan, inputs)
    before = missed(candidate, model, "third", inputs)
    refit(candidate, model, plan, inputs)
    surgery.reestimate_batchnorm(candidate, inputs, 100)
    assert missed(candidate, model, "third", inputs) < 0.9 * before


def test_the_same_twice_and_on_a_slice_of_the_memory() -> None:
    model, inputs = original(), noise(300, 3, 8, 8)
    one, two, three = (candidate_of(model, PLAN, inputs) for _ in range(3))
    for each in (one, two):
        refit(each, model, PLAN, inputs)
    assert same(state_of(one), state_of(two))
    refit(three, model, PLAN, inputs, output_bytes=100 * 16 * 8 * 8 * 4)
    assert not same(state_of(one), state_of(three))
    assert missed(three, model, "third", inputs) < missed(candidate_of(model, PLAN, inputs), model, "third", inputs)


def test_a_layer_that_is_called_twice_stays() -> None:
    model, inputs = original(Twice), noise(200, 3, 8, 8)
    candidate = candidate_of(model, PLAN, inputs)
    before = state_of(candidate)
    assert set(refit(candidate, model, PLAN, inputs)) == {"first", "third"}
    assert same(before, state_of(candidate), "second.")


class Flat(nn.Module):
    """One layer sees samples and positions in one dimension, one a single vector, one as it should be."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.flat, self.whole = nn.Linear(6, 8), nn.Linear(8, 8)
        self.vector = nn.Linear(3, 8)
        self.constant = nn.Parameter(torch.randn(3))
        self.head = nn.Linear(8, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.flat(inputs.flatten(0, 1)).relu().unflatten(0, inputs.shape[:2])
        hidden = self.whole(hidden).relu().mean(1)
        found: Tensor = self.head(hidden + self.vector(self.constant))
        return found


def test_a_layer_whose_first_dimension_is_not_the_samples_stays() -> None:
    model, inputs = Flat().eval(), noise(200, 5, 6)
    plan = {name: Choice("svd", (2,)) for name in ("flat", "whole", "vector")}
    candidate = surgery.build(model, Plan(tuple(plan.items()))).eval()
    for parameter in candidate.parameters():
        nn.init.normal_(parameter)
    before = state_of(candidate)
    assert refit(candidate, model, plan, inputs) == ("whole",)
    assert same(before, state_of(candidate), "flat.")
    assert same(before, state_of(candidate), "vector.")
    assert head_of(model, [*plan, "head"], inputs[:4], lambda outputs: outputs) == "head"
    assert Head(model, "head", inputs).fit(candidate, inputs)


@pytest.mark.parametrize("why", ["few", "tied", "frozen", "dense"])
def test_what_cannot_be_fitted_stays(why: str) -> None:
    model, inputs = original(), noise(200, 3, 8, 8)
    plan = {"third": PLAN["third"]} if why != "dense" else {}
    candidate: Any = candidate_of(model, plan, inputs)
    if why == "tied":
        candidate.other, candidate.more = copy.copy(candidate.third[0]), copy.copy(candidate.third[1])
    if why == "frozen":
        candidate.requires_grad_(False)
    before = state_of(candidate)
    few = inputs[: LEAST_SAMPLES - 1] if why == "few" else inputs
    assert refit(candidate, model, ["third"], few) == ()
    assert same(before, state_of(candidate), "third")


def test_the_head_is_the_layer_whose_outputs_are_the_logits() -> None:
    model, inputs = original(), noise(4, 3, 8, 8)
    names = ["first", "second", "third", "head"]
    assert head_of(model, names, inputs, lambda outputs: outputs) == "head"
    assert head_of(model, names, inputs, lambda outputs: outputs.log_softmax(1)) is None
    assert head_of(model, names[:-1], inputs, lambda outputs: outputs) is None
    whole = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 1))
    assert head_of(whole, ["0", "1"], inputs, lambda outputs: outputs) == "1"


@pytest.mark.parametrize("choice", [None, Choice("svd", (4,))], ids=str)
def test_the_heads_outputs_come_nearer_on_samples_that_were_not_seen(choice: Choice | None) -> None:
    model, inputs, fresh = original(), noise(400, 3, 8, 8), noise(100, 3, 8, 8, seed=1)
    candidate = candidate_of(model, {**PLAN, **({"head": choice} if choice else {})}, inputs)
    surgery.reestimate_batchnorm(candidate, inputs, 100)
    before, kept = missed(candidate, model, "head", fresh), state_of(candidate)
    assert Head(model, "head", inputs).fit(candidate, inputs)
    assert missed(candidate, model, "head", fresh) < 0.8 * before
    after = state_of(candidate)
    assert all(torch.equal(kept[key], after[key]) for key in kept if not key.startswith("head"))


def test_a_head_that_is_right_stays() -> None:
    model, inputs = original(), noise(200, 3, 8, 8)
    before = state_of(model)
    Head(model, "head", inputs).fit(model, inputs)
    for key, value in state_of(model).items():
        torch.testing.assert_close(value, before[key], atol=1e-4, rtol=0)


def test_an_untuned_plan_of_a_real_network_has_half_of_the_divergence() -> None:
    bench = Workbench(zoo_task("digits"), 0)
    inputs = bench.training_inputs(1000)
    choices = {
        name: Choice("tucker2", (12, 12)) for name in ("block2.conv1", "block2.conv2", "block3.conv1", "block3.conv2")
    }
    plain = candidate_of(bench.model, choices, inputs)
    fitted = copy.deepcopy(plain)
    surgery.reestimate_batchnorm(plain, inputs, 250)
    bench.refit(fitted, bench.model, choices)
    bench.settle(fitted)
    apart = [divergence(bench.reference, bench.measure(each, bench.search_half)[1]) for each in (plain, fitted)]
    assert apart[1] < 0.5 * apart[0]
