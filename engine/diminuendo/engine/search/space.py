"""The search space: every layer's options with their costs and damages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from diminuendo.engine.cost import Cost
from diminuendo.engine.plan import DENSE, Choice, LayerSpec, Plan
from diminuendo.engine.search.objective import Goal
from diminuendo.engine.search.patterns import matches
from diminuendo.engine.search.state import Request
from diminuendo.engine.search.work import Option, Prepared, Surveyed


@dataclass(frozen=True)
class LayerOptions:
    """One layer and every form that it may take, dense first, then by ascending params."""

    spec: LayerSpec
    options: tuple[Option, ...]

    @cached_property
    def by_choice(self) -> dict[Choice, Option]:
        """Options by their choice."""
        return {option.choice: option for option in self.options}

    @cached_property
    def ladders(self) -> dict[str, tuple[Option, ...]]:
        """Options of each format by ascending params, the dense one at the end of each."""
        formats = dict.fromkeys(o.choice.format for o in self.options if o.choice != DENSE)
        dense = self.options[0]
        return {name: (*(o for o in self.options if o.choice.format == name), dense) for name in formats}


@dataclass(frozen=True)
class Space:
    """All layers with their options, and the cost of what is never compressed.

    Attributes:
        total: Cost of the original network.
        goal: What is made small, and what is kept inside limits.
    """

    layers: tuple[LayerOptions, ...]
    total: Cost
    goal: Goal = field(default_factory=Goal)

    @classmethod
    def of(cls, prepared: Prepared, surveys: Iterable[Surveyed], request: Request | None = None) -> Space:
        """The space that a survey of every layer spans, inside what the request allows; a frozen layer needs none."""
        surveyed = {survey.layer: survey for survey in surveys}
        request = request or Request("", 1.0)
        layers = []
        for spec, cost in prepared.layers:
            found = () if matches(request.freeze, spec.name) else surveyed[spec.name].options
            least = cost.params / _most_ratio(request, spec.name)
            options = sorted((o for o in found if o.cost.params >= least), key=lambda o: (o.cost.params, o.choice))
            layers.append(LayerOptions(spec, (Option(DENSE, cost, 0.0, 0.0), *options)))
        return cls(tuple(layers), prepared.total, request.goal)

    @cached_property
    def by_name(self) -> dict[str, LayerOptions]:
        """Layers by name."""
        return {layer.spec.name: layer for layer in self.layers}

    @cached_property
    def fixed(self) -> Cost:
        """Cost of everything that is not an optimizable layer."""
        rest = self.total
        for layer in self.layers:
            rest = rest - layer.options[0].cost
        return rest

    @cached_property
    def dense(self) -> Plan:
        """The plan that changes nothing."""
        return Plan(tuple((layer.spec.name, DENSE) for layer in self.layers))

    def amount(self, cost: Cost) -> int:
        """The figure of a cost that the search makes small."""
        return self.goal.amount(cost)

    def cost(self, plan: Plan) -> Cost:
        """Cost of the whole network under a plan."""
        cost = self.fixed
        for name, choice in plan.choices:
            cost = cost + self.by_name[name].by_choice[choice].cost
        return cost

    def damages(self, plan: Plan) -> tuple[float, ...]:
        """Calibrated damage of every layer's choice, in the network's order."""
        return tuple(self.by_name[name].by_choice[choice].damage for name, choice in plan.choices)

    def damage(self, plan: Plan, weights: Mapping[str, float] | None = None) -> float:
        """Sum of the layers' damages, each times its weight (1 when absent)."""
        return sum(
            damage * (weights.get(name, 1.0) if weights else 1.0)
            for (name, _), damage in zip(plan.choices, self.damages(plan), strict=True)
        )


def _most_ratio(request: Request, layer: str) -> float:
    """The most by which the params of a layer may shrink."""
    return min((most for pattern, most in request.max_ratio if matches((pattern,), layer)), default=math.inf)
