from __future__ import annotations

import copy

import pytest
import torch
from tests.engine.networks import Small, fingerprint, images, small
from torch import Tensor, nn

from diminuendo.engine.formats import Factors, get
from diminuendo.engine.plan import DENSE, Choice, Plan, PlanError
from diminuendo.engine.profile import profile
from diminuendo.engine.surgery import build, load_factors, reestimate_batchnorm, warm_start
from diminuendo.engine.survey import factors
from diminuendo.engine.survey.discover import discover
from diminuendo.engine.survey.moments import collect

LAYERS = ("conv1", "conv2", "mix", "fc")
PLAN = Plan.of(
    {"conv1": DENSE, "conv2": Choice("tucker2", (4, 6)), "mix": Choice("svd", (5,)), "fc": Choice("svd", (2,))}
)


@pytest.fixture(scope="module")
def made() -> dict[str, dict[str, dict[str, Tensor]]]:
    """Factors by layer and format."""
    model, inputs = small(), images(20)
    layers = discover(model, inputs[:1]).layers
    moments = collect(model, layers, inputs)
    return {spec.name: factors.factor(model, spec, moments[spec.name]) for spec in layers}


def chosen(made: dict[str, dict[str, dict[str, Tensor]]], plan: Plan) -> dict[str, Factors]:
    return {layer: made[layer][choice.format] for layer, choice in plan.items() if choice != DENSE}


def candidate(made: dict[str, dict[str, dict[str, Tensor]]], plan: Plan, model: nn.Module | None = None) -> nn.Module:
    built = build(model or small(), plan)
    load_factors(built, model or small(), plan, chosen(made, plan))
    return built.eval()


def test_the_original_is_untouched_and_shares_nothing(made: dict[str, dict[str, dict[str, Tensor]]]) -> None:
    model = small()
    before = fingerprint(model)
    built = candidate(made, PLAN, model)
    own = {p.data_ptr() for p in model.parameters()}
    assert not own & {p.data_ptr() for p in built.parameters()}
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.zero_()
    assert fingerprint(model) == before


def test_what_is_built_costs_what_the_formats_say(made: dict[str, dict[str, dict[str, Tensor]]]) -> None:
    model, example = small(), images(1)
    original, compressed = profile(model, example, time=False), profile(candidate(made, PLAN), example, time=False)
    saved_params = saved_macs = 0
    dense = {layer.name: layer for layer in original.layers}
    for spec in discover(model, example).layers:
        choice = PLAN[spec.name]
        if choice != DENSE:
            cost = get(choice.format).cost(spec, choice.ranks)
            saved_params += dense[spec.name].params - cost.params
            saved_macs += dense[spec.name].macs - cost.macs
    assert compressed.params == original.params - saved_params
    assert compressed.macs == original.macs - saved_macs


def test_full_ranks_give_the_networks_own_outputs(made: dict[str, dict[str, dict[str, Tensor]]]) -> None:
    for name in ("svd", "tucker2"):
        model, inputs = small().eval(), images(5)
        choices = {}
        for spec in discover(model, inputs).layers:
            form = get(name if get(name).supports(spec) else "svd")
            choices[spec.name] = Choice(form.name, form.max_ranks(spec))
        torch.testing.assert_close(candidate(made, Plan.of(choices))(inputs), model(inputs), atol=1e-4, rtol=1e-4)


def test_an_empty_plan_is_a_copy() -> None:
    model = small().eval()
    built = build(model, Plan(()))
    assert built is not model
    assert torch.equal(built(images(2)), model(images(2)))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"conv9": Choice("svd", (1,))}, "the network has no layer 'conv9'"),
        ({"conv9": DENSE}, "the network has no layer 'conv9'"),
        ({"conv1": Choice("cpd", (1,))}, "unknown format 'cpd'; known: dense, svd, svd_input, spatial, tucker2"),
        ({"conv1": Choice("svd", (9,))}, r"layer 'conv1': svd rank 9 of \[9\] is out of range; legal: 1\.\.8"),
        ({"conv1": Choice("tucker2", (2, 0))}, r"'conv1': tucker2 rank 0 of \[2, 0\] .* legal: 1\.\.2 x 1\.\.8"),
        ({"conv1": Choice("tucker2", (2,))}, r"'conv1': tucker2 takes 2 rank\(s\), got \[2\]"),
        (
            {"mix": Choice("tucker2", (2, 2))},
            "'mix': tucker2 has no form of a conv layer with kernel 1x1; legal: dense, svd",
        ),
        ({"bn1": Choice("svd", (2,))}, "'bn1': a BatchNorm2d has no form but dense"),
        ({"conv1": Choice("dense", (2,))}, r"'conv1': dense takes no ranks, got \[2\]"),
    ],
)
def test_plans_that_do_not_fit_are_named(plan: dict[str, Choice], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        build(small(), Plan.of(plan))


def test_grouped_convolutions_have_some_of_the_forms() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2))
    build(model, Plan.of({"0": Choice("svd", (4,))}))
    with pytest.raises(PlanError, match=r"layer '0': svd rank 5 of \[5\] is out of range; legal: 1\.\.4"):
        build(model, Plan.of({"0": Choice("svd", (5,))}))
    with pytest.raises(PlanError, match="layer '0': tucker2 has no form of a conv layer with kernel 3x3 and 2 groups"):
        build(model, Plan.of({"0": Choice("tucker2", (1, 1))}))


def test_missing_factors_are_named(made: dict[str, dict[str, dict[str, Tensor]]]) -> None:
    few = {layer: value for layer, value in chosen(made, PLAN).items() if layer != "mix"}
    with pytest.raises(PlanError, match=r"layer 'mix': the plan chooses svd\(5\), but there are no factors of it"):
        load_factors(build(small(), PLAN), small(), PLAN, few)


def tuned(model: nn.Module) -> dict[str, Tensor]:
    """State of a network whose every parameter moved."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1).add_(0.01)
    return model.state_dict()


def test_warm_start_keeps_resizes_and_replaces(made: dict[str, dict[str, dict[str, Tensor]]]) -> None:
    parent = tuned(candidate(made, PLAN))
    plan = Plan.of({"conv1": DENSE, "conv2": Choice("tucker2", (6, 9)), "mix": DENSE, "fc": Choice("svd", (2,))})
    model = small()
    state = warm_start(model, PLAN, parent, plan, chosen(made, plan))
    child = build(model, plan).eval()
    child.load_state_dict(state)
    assert torch.equal(state["conv1.weight"], parent["conv1.weight"])  # dense in both: the tuned weight
    assert torch.equal(state["fc.1.bias"], parent["fc.1.bias"])
    assert torch.equal(state["bn1.weight"], parent["bn1.weight"])
    assert torch.equal(state["mix.weight"], model.mix.weight)  # was factored: the original weight
    grown = get("tucker2").resize(
        model.conv2,
        {key.removeprefix("conv2."): value for key, value in parent.items() if key.startswith("conv2.")},
        (6, 9),
        made["conv2"]["tucker2"],
    )
    assert all(torch.equal(state[f"conv2.{key}"], value) for key, value in grown.items())


def test_warm_start_by_growth_alone_is_the_parents_function(made: dict[str, dict[str, dict[str, Tensor]]]) -> None:
    parent = candidate(made, PLAN)
    state = tuned(parent)
    plan = PLAN.replace("conv2", Choice("tucker2", (8, 12))).replace("mix", Choice("svd", (9,)))
    child = build(small(), plan).eval()
    child.load_state_dict(warm_start(small(), PLAN, state, plan, chosen(made, plan)))
    torch.testing.assert_close(child(images(4)), parent(images(4)), atol=1e-5, rtol=1e-5)


def test_warm_start_into_another_format_starts_from_its_factors(
    made: dict[str, dict[str, dict[str, Tensor]]],
) -> None:
    parent = tuned(candidate(made, PLAN))
    plan = PLAN.replace("conv2", Choice("svd", (7,))).replace("conv1", Choice("svd", (3,)))
    state = warm_start(small(), PLAN, parent, plan, chosen(made, plan))
    for layer, rank in (("conv2", 7), ("conv1", 3)):
        assert torch.equal(state[f"{layer}.0.weight"], made[layer]["svd"]["right"][:rank])
    build(small(), plan).load_state_dict(state)


def test_warm_start_leaves_the_parents_state_alone(made: dict[str, dict[str, dict[str, Tensor]]]) -> None:
    parent = tuned(candidate(made, PLAN))
    before = copy.deepcopy(parent)
    plan = PLAN.replace("conv2", Choice("tucker2", (2, 9))).replace("mix", Choice("svd", (2,)))
    warm_start(small(), PLAN, parent, plan, chosen(made, plan))
    assert all(torch.equal(parent[key], before[key]) for key in before)


def test_plans_of_different_layers_are_named(made: dict[str, dict[str, dict[str, Tensor]]]) -> None:
    with pytest.raises(PlanError, match="different layers: fc"):
        warm_start(small(), PLAN, {}, Plan(PLAN.choices[:-1]), {})


class Twins(nn.Module):
    """One layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(8, 8)
        self.other, self.head = self.one, nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.other(self.one(x).relu()))  # type: ignore[no-any-return]


@pytest.mark.parametrize("choice", [Choice("svd", (2,)), Choice("svd", (5,)), DENSE])
def test_warm_start_of_a_layer_under_two_names(choice: Choice) -> None:
    torch.manual_seed(0)
    model, inputs = Twins(), torch.randn(20, 8)
    (spec, _) = discover(model, inputs).layers
    own = {"one": factors.factor(model, spec, collect(model, [spec], inputs)["one"], ["svd"])["svd"]}
    plan = Plan.of({"one": Choice("svd", (3,))})
    parent = build(model, plan)
    load_factors(parent, model, plan, own)
    child_plan = Plan.of({"one": choice})
    child = build(model, child_plan)
    state = warm_start(model, plan, tuned(parent), child_plan, own)
    child.load_state_dict(state)  # strictly: no key is missing or left over
    assert all(
        torch.equal(state[f"one.{key}"], value) for key, value in child.get_submodule("one").state_dict().items()
    )
    assert child.get_submodule("one") is child.get_submodule("other")


def batch_statistics(model: Small, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of what the first BatchNorm sees."""
    rows = model.conv1(batch).detach().movedim(1, 0).flatten(1)
    return rows.mean(dim=1), rows.var(dim=1)


def test_batchnorm_is_reestimated_as_the_mean_over_batches() -> None:
    model, inputs = small(), images(21)
    reestimate_batchnorm(model, inputs, 10)
    parts = [batch_statistics(model, batch) for batch in (inputs[:7], inputs[7:14], inputs[14:])]
    mean, variance = (torch.stack(values).mean(dim=0) for values in zip(*parts, strict=True))
    torch.testing.assert_close(model.bn1.running_mean, mean)
    torch.testing.assert_close(model.bn1.running_var, variance)
    assert int(model.bn1.num_batches_tracked) == 3  # type: ignore[arg-type]


def test_reestimation_forgets_what_was_and_is_repeatable() -> None:
    model, other, inputs = small(), small(), images(12)
    nn.init.constant_(other.bn1.running_mean, 100.0)  # type: ignore[arg-type]
    for network in (model, other):
        reestimate_batchnorm(network, inputs, 6)
    reestimate_batchnorm(model, inputs, 6)
    assert torch.equal(model.bn2.running_var, other.bn2.running_var)  # type: ignore[arg-type]


def test_reestimation_touches_nothing_else() -> None:
    model = small()
    model.bn2.eval()
    model.bn1.momentum = 0.3
    before = fingerprint(model)
    reestimate_batchnorm(model, images(12), 6)
    state, modes, hooks = fingerprint(model)
    changed = {name for (name, value), (_, old) in zip(state, before[0], strict=True) if value != old}
    kinds = ("running_mean", "running_var", "num_batches_tracked")
    assert changed == {f"{norm}.{kind}" for norm in ("bn1", "bn2") for kind in kinds}
    assert (modes, hooks) == before[1:]
    assert (model.bn1.momentum, model.bn2.momentum) == (0.3, 0.1)


def test_without_batchnorm_no_forward_is_run() -> None:
    class Silent(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            raise RuntimeError("a forward was run")

    reestimate_batchnorm(Silent(2, 2), torch.zeros(4, 2), 2)
