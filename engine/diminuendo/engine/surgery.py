"""Puts a plan into a network: layers replaced by their forms, weights from factors or from a parent."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diminuendo.engine import tree
from diminuendo.engine.formats import FORMATS, Factors, get
from diminuendo.engine.formats.base import Format
from diminuendo.engine.formats.layers import geometry
from diminuendo.engine.modules import avoid_fast_paths, copied, evaluating, take_place, unwrapped
from diminuendo.engine.plan import DENSE, Choice, Plan, PlanError


def build(model: nn.Module, plan: Plan) -> nn.Module:
    """A deep copy of the network with the plan's layers replaced; the weights of replaced layers are unset.

    Args:
        model: The original, dense network; not changed.
        plan: Layers that it does not name stay as they are.

    Raises:
        PlanError: A layer that the network lacks, a format that has no form of it, or ranks out of range.
    """
    model = unwrapped(model)
    check(model, plan)
    changes = {name: choice for name, choice in plan.items() if choice != DENSE}
    forms = {name: get(choice.format) for name, choice in changes.items()}
    # A memo entry stands for each replaced layer: its dense weights are never copied.
    layers = {name: _layer(model, name) for name in changes}
    replacements = {name: form.build(layers[name], changes[name].ranks) for name, form in forms.items()}
    memo: dict[int, object] = {id(layers[name]): replacements[name] for name in changes}
    built = copied(model, memo)
    for name in changes:
        take_place(layers[name], replacements[name], memo)
    avoid_fast_paths(built)
    return built


def check(model: nn.Module, plan: Plan) -> None:
    """Refuse a plan that does not fit a network.

    Raises:
        PlanError: Names every layer that is wrong, its choice, and what is legal.
    """
    problems = []
    for name, choice in plan.items():
        try:
            layer = _layer(model, name)
            if choice != DENSE:
                _form(layer, name, choice)
        except PlanError as error:
            problems.append(str(error))
    if problems:
        raise PlanError("; ".join(problems))


def load_factors(candidate: nn.Module, model: nn.Module, plan: Plan, factors: Mapping[str, Factors]) -> None:
    """Set the weights of every replaced layer of a network made by `build` from its stored factors.

    Args:
        candidate: Changed in place.
        model: The original, dense network that it was built from.
        plan: As it was built.
        factors: By layer, in the format that the plan chooses; PlanError names a layer that is missing.
    """
    model = unwrapped(model)
    for name, choice in plan.items():
        if choice != DENSE:
            module = candidate.get_submodule(name)
            if not isinstance(module, nn.Sequential):
                raise PlanError(f"layer {name!r} is not built as {choice}; build the plan first")
            own = _factors_of(factors, name, choice)
            get(choice.format).load(module, geometry(name, _layer(model, name)), own, choice.ranks)


def warm_start(
    model: nn.Module,
    parent_plan: Plan,
    parent_state: Mapping[str, Tensor],
    plan: Plan,
    factors: Mapping[str, Factors],
) -> dict[str, Tensor]:
    """Weights for a child from a tuned parent.

    A layer of the same choice keeps the parent's weights; one of the same format at other ranks is resized; one
    that changes its form starts from the original network (its stored factors, or its dense weights).

    Args:
        model: The original, dense network.
        parent_plan: What the parent was built by.
        parent_state: State dict of the tuned parent.
        plan: The child's plan, over the same layers.
        factors: Of every child's layer that is not dense, in the format that its plan chooses.

    Returns:
        State dict for ``build(model, plan)``; tensors may be shared with the parent's state.

    Raises:
        PlanError: The plans are of different layers, or factors are missing.
    """
    if plan.keys() != parent_plan.keys():
        odd = sorted(plan.keys() ^ parent_plan.keys())
        raise PlanError(f"parent and child are plans of different layers: {', '.join(odd)}")
    model = unwrapped(model)
    changed = [name for name in plan if plan[name] != parent_plan[name]]
    names = _names(model, changed)
    prefixes = tuple(f"{each}." for own in names.values() for each in own)
    state = {key: value for key, value in parent_state.items() if not key.startswith(prefixes)}
    for name, own in names.items():
        fresh = _changed_layer(model, name, parent_plan[name], parent_state, plan[name], factors)
        state |= {f"{each}.{key}": value for each in own for key, value in fresh.items()}
    return state


def _names(model: nn.Module, layers: Collection[str]) -> dict[str, list[str]]:
    """All names of some layers: a state dict has a module that is known by several under each of them."""
    found: dict[int, list[str]] = {id(_layer(model, name)): [] for name in layers}
    for name, module in model.named_modules(remove_duplicate=False):
        if id(module) in found:
            found[id(module)].append(name)
    return {name: found[id(_layer(model, name))] for name in layers}


def _changed_layer(
    model: nn.Module,
    name: str,
    before: Choice,
    parent_state: Mapping[str, Tensor],
    choice: Choice,
    factors: Mapping[str, Factors],
) -> dict[str, Tensor]:
    """Weights of one layer whose choice differs from its parent's."""
    layer = _layer(model, name)
    if choice == DENSE:
        return {key: value.detach().clone() for key, value in layer.state_dict().items()}
    form, own = _form(layer, name, choice), _factors_of(factors, name, choice)
    if choice.format == before.format:
        prefix = f"{name}."
        old = {key.removeprefix(prefix): value for key, value in parent_state.items() if key.startswith(prefix)}
        return form.resize(layer, old, choice.ranks, own)
    module = form.build(layer, choice.ranks)
    form.load(module, geometry(name, layer), own, choice.ranks)
    return module.state_dict()


@torch.no_grad()
def reestimate_batchnorm(model: nn.Module, inputs: Any, batch_size: int) -> None:
    """Take BatchNorm's running statistics anew: the mean over batches of these inputs.

    Args:
        model: Changed in place, in the buffers of its BatchNorm layers alone; its mode stays. Without BatchNorm
            that keeps statistics there is nothing to do.
        inputs: (N, ...), on the model's device; split into batches of nearly equal size.
        batch_size: At most so many samples in a batch.
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    ]
    if not norms:
        return
    momenta = [module.momentum for module in norms]
    samples = tree.count(inputs)
    try:
        with evaluating(model):
            for module in norms:
                module.reset_running_stats()
                module.momentum = None  # a cumulative average
                module.train()
            for index in torch.arange(samples).tensor_split(math.ceil(samples / batch_size)):
                tree.call(model, tree.take(inputs, slice(int(index[0]), int(index[-1]) + 1)))
    finally:
        for module, momentum in zip(norms, momenta, strict=True):
            module.momentum = momentum


def _layer(model: nn.Module, name: str) -> nn.Module:
    """A layer by name; PlanError when there is none."""
    try:
        return model.get_submodule(name)
    except AttributeError:
        near = difflib.get_close_matches(name, [other for other, _ in model.named_modules() if other], n=1)
        hint = f"did you mean {near[0]!r}?" if near else "a plan names modules as named_modules() does"
        raise PlanError(f"the network has no layer {name!r}; {hint}") from None


def _form(layer: nn.Module, name: str, choice: Choice) -> Format:
    """The choice's format, checked against the layer."""
    if choice.format == DENSE.format:
        raise PlanError(f"layer {name!r}: dense takes no ranks, got {list(choice.ranks)}")
    try:
        form = get(choice.format)
    except PlanError as error:
        raise PlanError(f"layer {name!r}: {error}") from None
    spec = geometry(name, layer)
    if not form.supports(spec):
        size = f" with kernel {'x'.join(map(str, spec.kernel))}" if spec.kernel else ""
        groups = f" and {spec.groups} groups" if spec.groups > 1 else ""
        known = ", ".join(other for other, each in FORMATS.items() if each.supports(spec))
        raise PlanError(
            f"layer {name!r}: {form.name} has no form of a {spec.kind} layer{size}{groups}; legal: dense, {known}"
        )
    form.check_ranks(spec, choice.ranks)
    return form


def _factors_of(factors: Mapping[str, Factors], name: str, choice: Choice) -> Factors:
    """The factors of a layer; PlanError when they are missing."""
    if name not in factors:
        raise PlanError(f"layer {name!r}: the plan chooses {choice}, but there are no factors of it")
    return factors[name]
