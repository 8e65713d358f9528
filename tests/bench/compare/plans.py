"""Plans that need no search: the same ranks for all layers, and random ones about them."""

from __future__ import annotations

import math

import numpy as np

from diminuendo.engine.cost import ratio
from diminuendo.engine.plan import DENSE, Choice, Plan
from diminuendo.engine.search.space import LayerOptions, Space

SPREAD = math.log(2.0)
"""How far a drawn layer's params may be from those of the same ranks for all, in logs, either way."""

TOLERANCE = math.log(1.05)
"""How near a drawn plan is to the ratio that was asked for."""

DRAWS = 500


def ratio_of(space: Space, plan: Plan) -> float:
    """Params of the original for each of the plan's."""
    return ratio(space.total.params, space.cost(plan).params)


def exponents(space: Space) -> dict[str, float]:
    """How much of a common log ratio each layer takes, so that all have the same share of their ranks.

    The params of a kernel between two ranks go with the square of the share, those of a pointwise layer with the share
    itself. The first and the last layer stay dense, as is usual: there is little to save and much to lose.
    """
    last = len(space.layers) - 1
    return {
        layer.spec.name: 0.0 if index in (0, last) else 0.5 if layer.spec.kernel_size == 1 else 1.0
        for index, layer in enumerate(space.layers)
    }


def uniform(space: Space, wanted: float) -> Plan:
    """The same share of ranks for all layers, in the form that the survey says harms least.

    The share is found by bisection, so that the whole network has the ratio that is wanted.
    """
    low, high = 0.0, math.log(1e4)
    for _ in range(40):
        middle = (low + high) / 2
        if ratio_of(space, _divided(space, middle)) < wanted:
            low = middle
        else:
            high = middle
    return _divided(space, high)


def _divided(space: Space, log_ratio: float) -> Plan:
    taken = exponents(space)
    choices = []
    for layer in space.layers:
        name = layer.spec.name
        choices.append((name, _least_harm(layer, log_ratio * taken[name]) if taken[name] else DENSE))
    return Plan(tuple(choices))


def _least_harm(layer: LayerOptions, log_ratio: float) -> Choice:
    """The least damaged form with so many fewer params; the smallest form where there is none."""
    most = layer.options[0].cost.params * math.exp(-log_ratio)
    fitting = [option for option in layer.options if option.cost.params <= most * (1 + 1e-9)]
    if fitting:
        return min(fitting, key=lambda o: (o.damage, o.cost.params, o.choice)).choice
    return min(layer.options, key=lambda o: (o.cost.params, o.choice)).choice


def drawn(space: Space, wanted: float, rng: np.random.Generator) -> Plan:
    """A random plan of about the ratio that is wanted.

    Every layer takes a format at random, and of its ladder the rung nearest to log-uniform params, up to `SPREAD` from
    those of the same ranks for all; plans of another ratio in all are rejected.
    """
    nearest, distance = space.dense, math.inf
    for _ in range(DRAWS):
        plan = _about(space, wanted, rng)
        apart = abs(math.log(ratio_of(space, plan) / wanted))
        if apart < distance:
            nearest, distance = plan, apart
        if distance <= TOLERANCE:
            break
    return nearest


def _about(space: Space, wanted: float, rng: np.random.Generator) -> Plan:
    # What some layers do not give up, others must: the middle of the draw is itself drawn.
    middle = math.log(wanted) + rng.uniform(0.0, SPREAD)
    taken = exponents(space)
    choices = []
    for layer in space.layers:
        name, ladders = layer.spec.name, list(layer.ladders.values())
        if not ladders or not taken[name]:
            choices.append((name, DENSE))
            continue
        ladder = ladders[int(rng.integers(len(ladders)))]
        target = math.log(ladder[-1].cost.params) - middle * taken[name] - rng.uniform(-SPREAD, SPREAD)
        found = min(ladder, key=lambda option: abs(math.log(option.cost.params) - target))
        choices.append((name, found.choice))
    return Plan(tuple(choices))
