"""Any module: found or left dense with a reason, the same at full ranks, smaller at low ones, itself never changed."""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tests.engine.kinds import computed, flows, hub, layers, networks, refused, weights
from tests.engine.kinds.entry import Entry
from tests.engine.threads import one_thread  # noqa: F401 - a fixture
from torch import Tensor, nn

from diminuendo.engine import tree
from diminuendo.engine.formats import FORMATS, Factors
from diminuendo.engine.modules import copied, evaluating, unwrapped
from diminuendo.engine.plan import Choice, LayerSpec, Plan
from diminuendo.engine.profile import profile
from diminuendo.engine.surgery import build, load_factors
from diminuendo.engine.survey.discover import Discovery, discover
from diminuendo.engine.survey.factors import factor
from diminuendo.engine.survey.moments import collect
from diminuendo.engine.survey.partial import Ending
from diminuendo.engine.survey.trial import tensors_of

TABLE = (*layers.ENTRIES, *weights.ENTRIES, *computed.ENTRIES, *flows.ENTRIES, *networks.ENTRIES, *hub.ENTRIES)


@dataclass
class Surveyed:
    """A network with what was found in it."""

    model: nn.Module
    inputs: Any
    found: Discovery
    factors: Mapping[str, Mapping[str, Factors]]


def survey(model: nn.Module, inputs: Any) -> Surveyed:
    """The network's layers, and of each its factors in its first and its last format, and at rank 0."""
    found = discover(model, inputs)
    moments = collect(model, found.layers, inputs, 2)
    chosen = {spec.name: [*formats(spec), "zero"] for spec in found.layers}
    made = {spec.name: factor(model, spec, moments[spec.name], chosen[spec.name]) for spec in found.layers}
    return Surveyed(model, inputs, found, made)


def formats(spec: LayerSpec) -> list[str]:
    """First and last of those that have a form of the layer which pays."""
    names = [name for name, form in FORMATS.items() if form.exact and form.supports(spec) and form.pays(spec)]
    return [names[0], names[-1]]


def state_of(model: nn.Module) -> list[Any]:
    """All of a network that may not change."""
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    hooks = [
        [(key, id(hook)) for key, hook in getattr(module, kind).items()]
        for module in model.modules()
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_forward_hooks_with_kwargs")
    ]
    return [
        [(name, t.shape, t.dtype, t.device, t.requires_grad) for name, t in tensors],
        [(t.data_ptr() if t.layout is torch.strided else id(t), t.grad is None) for t in model.parameters()],
        [bytes_of(t) for _, t in tensors],
        [(name, id(module), module.training) for name, module in model.named_modules(remove_duplicate=False)],
        hooks,
    ]


def bytes_of(tensor: Tensor) -> bytes:
    return tensor.detach().clone().to_dense().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    """In eval mode, with the same random numbers each time."""
    torch.manual_seed(2)
    random.seed(2)
    with evaluating(model), torch.no_grad():
        given = tree.call(model, inputs)
    found = list(tree.leaves(given)) or list(tree.leaves(vars(given)))
    assert found
    return found


def made(surveyed: Surveyed, plan: Plan) -> nn.Module:
    built = build(surveyed.model, plan)
    own = {name: surveyed.factors[name][choice.format] for name, choice in plan.items()}
    load_factors(built, surveyed.model, plan, own)
    return built


def check_what_is_found(entry: Entry, found: Discovery) -> None:
    names = tuple(spec.name for spec in found.layers)
    assert names == entry.found if isinstance(entry.found, tuple) else len(names) == entry.found, found
    unmatched = set(entry.dense)
    for name, reason in found.left_dense:
        keys = [key for key in entry.dense if re.fullmatch(key, name) and re.search(entry.dense[key], reason)]
        assert keys, f"{name!r} is left dense: {reason}"
        unmatched -= set(keys)
    assert not unmatched


def check_full_ranks(entry: Entry, surveyed: Surveyed) -> None:
    """The same outputs, counted as built."""
    expected = outputs(copied(unwrapped(surveyed.model)), surveyed.inputs)
    for place in (0, -1):
        forms = {spec.name: FORMATS[formats(spec)[place]] for spec in surveyed.found.layers}
        plan = Plan.of(
            {
                spec.name: Choice(forms[spec.name].name, forms[spec.name].max_ranks(spec))
                for spec in surveyed.found.layers
            }
        )
        candidate = made(surveyed, plan)
        for one, other in zip(outputs(copied(candidate), surveyed.inputs), expected, strict=True):
            assert one.dtype == other.dtype
            sizes = [size for size in other.abs().flatten().tolist() if size < 1e18]  # the others stand for infinity
            atol = entry.tolerance * max(sizes, default=0.0)
            torch.testing.assert_close(one, other, rtol=0.0, atol=atol, equal_nan=True)
        check_cost(surveyed, plan, candidate, macs=True)


def check_cost(surveyed: Surveyed, plan: Plan, candidate: nn.Module, *, macs: bool) -> None:
    """Params, and MACs where the calls are those of the original, are what the formats count."""
    found = profile(copied(candidate), surveyed.inputs, time=False)
    for spec in surveyed.found.layers:
        cost = FORMATS[plan[spec.name].format].cost(spec, plan[spec.name].ranks)
        own = [layer for layer in found.layers if layer.name.startswith(f"{spec.name}.")]
        assert sum(layer.params for layer in own) == cost.params, spec
        assert not macs or sum(layer.macs for layer in own) == cost.macs, spec


def check_low_ranks(entry: Entry, surveyed: Surveyed) -> None:
    """At ranks 1 and 0: smaller, counted as built, whole after a round trip, and at rank 1 trainable."""
    params = profile(copied(unwrapped(surveyed.model)), surveyed.inputs, time=False).params
    for place in (0, -1, None):
        names = {spec.name: "zero" if place is None else formats(spec)[place] for spec in surveyed.found.layers}
        forms = {name: FORMATS[form] for name, form in names.items()}
        plan = Plan.of(
            {
                spec.name: Choice(forms[spec.name].name, (1,) * len(forms[spec.name].max_ranks(spec)))
                for spec in surveyed.found.layers
            }
        )
        candidate = made(surveyed, plan)
        check_cost(surveyed, plan, candidate, macs=not entry.routed)
        assert sum(p.numel() for p in candidate.parameters() if p.requires_grad) < params or not plan
        assert all(p.is_leaf for p in candidate.parameters())
        kept = {name: p.requires_grad for name, p in unwrapped(surveyed.model).named_parameters()}
        assert all(p.requires_grad is kept.get(name, True) for name, p in candidate.named_parameters())
        again = build(surveyed.model, plan)
        again.load_state_dict(candidate.state_dict())
        given, expected = (outputs(copied(each), surveyed.inputs) for each in (again, candidate))
        for one, other in zip(given, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0.0, atol=0.0, equal_nan=True)
        if place is not None:
            check_backward(surveyed, candidate)


def check_endings(entry: Entry, surveyed: Surveyed) -> None:
    """From a changed layer on the network gives what it gives as a whole; where it is random, that is noticed."""
    layers = surveyed.found.layers
    for spec in {layers[i].name: layers[i] for i in (0, len(layers) // 2, -1)}.values() if layers else ():
        form = FORMATS[formats(spec)[0]]
        plan = Plan.of({spec.name: Choice(form.name, (1,) * len(form.max_ranks(spec)))})
        network = made(surveyed, plan).eval()
        ending = Ending(network, network.get_submodule(spec.name))
        tried = ending.tried([tree.take(surveyed.inputs, slice(start, start + 2)) for start in (0, 2)])
        assert (tried is None) is entry.random
        if tried is not None:
            kept = ending.keep(surveyed.inputs)
            for one, other in zip(tensors_of(ending.run(kept)), tensors_of(ending.whole(surveyed.inputs)), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5, equal_nan=True)


def check_backward(surveyed: Surveyed, candidate: nn.Module) -> None:
    """In train mode gradients reach every form whose layer they reach in the original, where they can at all."""
    original = copied(unwrapped(surveyed.model))
    try:
        backward(original, surveyed.inputs)
    except RuntimeError:
        return
    backward(candidate, surveyed.inputs)
    for spec in surveyed.found.layers:
        if original.get_submodule(spec.name).get_parameter("weight").grad is not None:
            for parameter in candidate.get_submodule(spec.name).parameters():
                assert parameter.grad is not None, spec
                assert bool(torch.isfinite(parameter.grad).all())


def backward(model: nn.Module, inputs: Any) -> None:
    torch.manual_seed(3)
    given = tree.call(model.train(), inputs)
    found = list(tree.leaves(given)) or list(tree.leaves(vars(given)))
    total = sum(
        (leaf.abs().float().clamp(max=1e3).square().mean() for leaf in found if leaf.requires_grad), torch.zeros(())
    )
    total.backward()  # type: ignore[no-untyped-call]


@contextmanager
def warned(messages: Sequence[str]) -> Iterator[None]:
    with warnings.catch_warnings():
        for message in messages:
            warnings.filterwarnings("ignore", message=message)
        yield


@pytest.mark.parametrize(
    "entry", [pytest.param(entry, id=entry.name, marks=[pytest.mark.slow] * entry.slow) for entry in TABLE]
)
def test_any_module(entry: Entry) -> None:
    with warned(entry.warnings):
        torch.manual_seed(0)
        model = entry.build()
        torch.manual_seed(1)
        inputs = entry.inputs()
        if entry.hooks_itself:
            outputs(model, inputs)
        before = state_of(model)
        surveyed = survey(model, inputs)
        check_what_is_found(entry, surveyed.found)
        check_full_ranks(entry, surveyed)
        check_low_ranks(entry, surveyed)
        check_endings(entry, surveyed)
        assert state_of(model) == before


@pytest.mark.parametrize("refusal", refused.REFUSALS, ids=str)
def test_networks_that_are_refused(refusal: refused.Refusal) -> None:
    with warned(refusal.warnings):
        model = refusal.build()
        before = [(module.training, len(module._forward_hooks)) for module in model.modules()]
        with pytest.raises(refusal.error, match=refusal.message):
            discover(model, refusal.inputs())
        assert [(module.training, len(module._forward_hooks)) for module in model.modules()] == before


def test_the_table_is_long_enough() -> None:
    names = [entry.name for entry in TABLE]
    assert len(set(names)) == len(names) >= 100
    assert len(hub.ENTRIES) >= 10
