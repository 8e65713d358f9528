"""What is ablated: each variant compresses a network to some ratios, with the same epochs of tuning for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from tests.bench.ablate.nested import NESTED, Nested
from tests.bench.ablate.stand import Scored, Stand, Surveyed, blind
from tests.bench.compare.plans import uniform
from tests.bench.compare.pruned import without_channels

from diminuendo.engine import surgery, weights
from diminuendo.engine.modules import copied
from diminuendo.engine.plan import DENSE, Choice, Plan
from diminuendo.engine.search.rng import keyed_seed
from diminuendo.engine.search.space import LayerOptions

STEP = 1.3
"""How much larger a parent is than its child in a search."""

PRUNED = 1.5
"""What channel pruning takes before low rank."""

NESTED_POINTS = 16
"""Plans that a nested training draws from."""

Variant = Callable[[Stand, Sequence[float]], list[Scored]]


def _each(one: Callable[[Stand, float], Scored]) -> Variant:
    """A variant that compresses to each ratio by itself."""
    return lambda stand, ratios: [one(stand, ratio) for ratio in ratios]


def _one_shot(survey: Callable[[Stand], Surveyed]) -> Variant:
    """From factors, tuned once."""

    def one(stand: Stand, ratio: float) -> Scored:
        surveyed = survey(stand)
        built = stand.built(surveyed, surveyed.plan(ratio, stand.params))
        return stand.scored(stand.tune(built, stand.epochs))

    return _each(one)


def _untuned(survey: Callable[[Stand], Surveyed]) -> Variant:
    """From factors, fitted."""

    def one(stand: Stand, ratio: float) -> Scored:
        surveyed = survey(stand)
        return stand.scored(stand.built(surveyed, surveyed.plan(ratio, stand.params)))

    return _each(one)


def _refitted(*, layers: bool, head: bool, tuned: bool = True) -> Variant:
    """With layers fitted before tuning or not, and the head before and after it or not."""

    def one(stand: Stand, ratio: float) -> Scored:
        built = stand.built(stand.aware, stand.aware.plan(ratio, stand.params), layers=layers, head=head)
        return stand.scored(stand.tune(built, stand.epochs, head=head) if tuned else built)

    return _each(one)


def _uniform(stand: Stand, ratio: float) -> Scored:
    built = stand.built(stand.aware, uniform(stand.aware.space, ratio))
    return stand.scored(stand.tune(built, stand.epochs))


def _gradual(steps: int) -> Variant:
    """Compress and tune in steps of the same factor and of the same epochs, each from the weights of the one before."""

    def one(stand: Stand, ratio: float) -> Scored:
        surveyed, each = stand.aware, stand.epochs / steps
        plan = surveyed.plan(math.pow(ratio, 1 / steps), stand.params)
        model = stand.tune(stand.built(surveyed, plan), each)
        for step in range(2, steps + 1):
            before, plan = plan, surveyed.plan(math.pow(ratio, step / steps), stand.params)
            model = stand.child(surveyed, before, model, plan)
            stand.tune(model, each, start=each * (step - 1))
        return stand.scored(model)

    return _each(one)


def _own(weight: float, *, distilled: bool = True) -> Variant:
    """With another weight of the task's own loss beside the distillation, or that loss alone."""

    def one(stand: Stand, ratio: float) -> Scored:
        built = stand.built(stand.aware, stand.aware.plan(ratio, stand.params))
        teacher = stand.teaching if distilled else blind(stand.teaching)
        return stand.scored(stand.tune(built, stand.epochs, teacher=teacher, own=weight))

    return _each(one)


def _by_sgd(stand: Stand, ratio: float) -> Scored:
    """With plain SGD's steps on matrices, too."""
    built = stand.built(stand.aware, stand.aware.plan(ratio, stand.params))
    return stand.scored(stand.tune(built, stand.epochs, orthogonal=False))


def _from_factors_after(stand: Stand, ratio: float) -> Scored:
    """What a child has in a search that starts each candidate anew: half of the epochs."""
    built = stand.built(stand.aware, stand.aware.plan(ratio, stand.params))
    return stand.scored(stand.tune(built, stand.epochs / 2))


def _from_parent(stand: Stand, ratio: float) -> Scored:
    """The same epochs from the weights of a parent that the search has tuned already."""
    surveyed = stand.aware
    before, plan = surveyed.plan(ratio / STEP, stand.params), surveyed.plan(ratio, stand.params)
    parent = stand.tune(stand.built(surveyed, before), stand.epochs)
    child = stand.child(surveyed, before, parent, plan)
    return stand.scored(stand.tune(child, stand.epochs / 2, start=stand.epochs))


# --- shared nested factors -----------------------------------------------------------------------------------


def nested_space(stand: Stand) -> Surveyed:
    """One nested format for each layer, with nothing dense between: all plans are slices of one another.

    The first and the last layer stay dense, as everywhere where ranks are not chosen layer by layer.
    """
    found = stand.aware
    ends = {found.space.layers[0].spec.name, found.space.layers[-1].spec.name}
    layers, total = list[LayerOptions](), found.space.fixed
    for layer in found.space.layers:
        name = NESTED[1] if layer.spec.kernel_size > 1 else NESTED[0]
        ladder = tuple(o for o in layer.options if o.choice.format == name)
        options = layer.options[:1] if layer.spec.name in ends or not ladder else ladder
        layers.append(replace(layer, options=options))
        total = total + options[0].cost  # a space takes its first options for the original's
    return Surveyed(replace(found.space, layers=tuple(layers), total=total), found.factors)


def _nested_plans(stand: Stand, ratios: Sequence[float]) -> tuple[Surveyed, list[Plan], list[Plan]]:
    """The space, the plans of the ratios, and all that are drawn: spread from the mildest to the strongest."""
    surveyed = nested_space(stand)
    wanted = [surveyed.plan(ratio, stand.params) for ratio in ratios]
    low, high = math.log(min(ratios)), math.log(max(ratios))
    spread = [math.exp(low + (high - low) * i / (NESTED_POINTS - 1)) for i in range(NESTED_POINTS)]
    drawn = [surveyed.plan(ratio, stand.params) for ratio in spread]
    return surveyed, wanted, list(dict.fromkeys([*wanted, *drawn]))


def _separate(stand: Stand, ratios: Sequence[float]) -> list[Scored]:
    """The plans of the nested training, each tuned by itself."""
    surveyed, wanted, _ = _nested_plans(stand, ratios)
    return [stand.scored(stand.tune(stand.built(surveyed, plan), stand.epochs)) for plan in wanted]


def _nested(share: float) -> Variant:
    """One training of shared factors for as many epochs as the separate ones have together, times `share`.

    What that leaves, each plan is tuned by itself afterwards, from its slices.
    """

    def run(stand: Stand, ratios: Sequence[float]) -> list[Scored]:
        surveyed, wanted, drawn = _nested_plans(stand, ratios)
        largest = _largest(drawn)
        epochs = share * stand.epochs * len(ratios)
        shared = Nested(stand.built(surveyed, largest), largest, drawn, keyed_seed(stand.seed, "nested"))
        stand.tune(shared, epochs, head=False)  # each plan has its own, below
        found = []
        for plan in wanted:
            model = stand.bench.fast(surgery.build(stand.bench.model, plan))
            weights.load_into(model, shared.state_of(plan))
            stand.settle(model)
            if share < 1.0:
                stand.tune(model, (1 - share) * stand.epochs, start=epochs)
            found.append(stand.scored(model))
        return found

    return run


def _largest(plans: Sequence[Plan]) -> Plan:
    """For every layer the highest ranks of all plans."""
    choices = []
    for name, first in plans[0].items():
        ranks = tuple(max(column) for column in zip(*(plan[name].ranks for plan in plans), strict=True))
        choices.append((name, Choice(first.format, ranks) if ranks else DENSE))
    return Plan(tuple(choices))


# --- channel pruning -----------------------------------------------------------------------------------------


def _pruned(stand: Stand, ratio: float) -> Scored:
    model = without_channels(stand.bench.model, stand.bench.example, ratio)
    stand.settle(model)
    return stand.scored(stand.tune(stand.bench.fast(model), stand.epochs))


def _pruned_first(stand: Stand, ratio: float) -> Scored:
    """Channels first, tuned for half of the epochs, then low rank of what is left for the other half."""
    model = stand.bench.fast(without_channels(stand.bench.model, stand.bench.example, PRUNED))
    stand.settle(model)
    stand.tune(model, stand.epochs / 2)
    task = replace(stand.task, model=copied(model))
    rest = Stand(task, stand.seed, stand.epochs, stand.formats, stand.teaching, stand.params)
    torch.manual_seed(stand.seed)
    built = rest.built(rest.aware, rest.aware.plan(ratio, stand.params))
    return rest.scored(rest.tune(built, stand.epochs / 2, start=stand.epochs / 2))


VARIANTS: dict[str, Variant] = {
    "base": _one_shot(lambda stand: stand.aware),
    "plain": _one_shot(lambda stand: stand.plain),
    "uncalibrated": _one_shot(lambda stand: stand.uncalibrated),
    "uniform": _each(_uniform),
    "svd": _one_shot(lambda stand: stand.one_format("svd")),
    "tucker2": _one_shot(lambda stand: stand.one_format("tucker2")),
    "cp": _one_shot(lambda stand: stand.one_format("cp")),
    "svd, tucker2, cp": _one_shot(lambda stand: stand.some_formats(("svd", "tucker2", "cp"))),
    "gradual, 2 steps": _gradual(2),
    "gradual, 4 steps": _gradual(4),
    "no distillation": _own(1.0, distilled=False),
    "both in full": _own(1.0),
    "distillation alone": _own(0.0),
    "plain SGD": _each(_by_sgd),
    "not fitted": _refitted(layers=False, head=False),
    "layers fitted": _refitted(layers=True, head=False),
    "head fitted": _refitted(layers=False, head=True),
    "half, from factors": _each(_from_factors_after),
    "half, from a parent": _each(_from_parent),
    "separate": _separate,
    "nested": _nested(1.0),
    "nested, then separate": _nested(0.5),
    "pruned": _each(_pruned),
    "pruned, then base": _each(_pruned_first),
    "base, untuned": _untuned(lambda stand: stand.aware),
    "not fitted, untuned": _refitted(layers=False, head=False, tuned=False),
    "layers fitted, untuned": _refitted(layers=True, head=False, tuned=False),
    "plain, untuned": _untuned(lambda stand: stand.plain),
    "uncalibrated, untuned": _untuned(lambda stand: stand.uncalibrated),
}
"""All variants by name; `base` is data-aware, calibrated, of all formats, in one shot, fitted, with distillation."""
