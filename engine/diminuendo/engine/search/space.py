"""The search space: every layer's options with their costs and damages."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import median

from diminuendo.engine.cost import Cost
from diminuendo.engine.plan import DENSE, ZERO, Choice, LayerSpec, Plan
from diminuendo.engine.search.objective import Goal
from diminuendo.engine.search.patterns import matches
from diminuendo.engine.search.state import Request
from diminuendo.engine.search.wiring import ENDS, Wiring, reached
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
        wiring: Which layers feed which; empty where that is not known.
    """

    layers: tuple[LayerOptions, ...]
    total: Cost
    goal: Goal = field(default_factory=Goal)
    wiring: Wiring = ()

    @classmethod
    def of(cls, prepared: Prepared, surveys: Iterable[Surveyed], request: Request | None = None) -> Space:
        """The space that a survey of every layer spans, inside what the request allows; a frozen layer needs none."""
        surveyed = {survey.layer: survey for survey in surveys}
        request = request or Request("", 1.0)
        whole_ns = round(median([s.time.whole_ns for s in surveyed.values() if s.time] or [0]))
        layers = []
        for spec, cost in prepared.layers:
            found: tuple[Option, ...] = ()
            if not matches(request.freeze, spec.name):
                cost, found = _on_one_device(cost, surveyed[spec.name], whole_ns)
            least = cost.params / _most_ratio(request, spec.name)
            options = sorted((o for o in found if o.cost.params >= least), key=lambda o: (o.cost.params, o.choice))
            layers.append(LayerOptions(spec, (Option(DENSE, cost, 0.0, 0.0), *options)))
        # Layers may take longer while they are watched.
        whole_ns = max(whole_ns, sum(layer.options[0].cost.latency_ns for layer in layers))
        return cls(tuple(layers), replace(prepared.total, latency_ns=whole_ns), request.goal, prepared.wiring)

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

    def timed(self, cost: Cost, plan: Plan) -> Cost:
        """The cost of a network as built, with the latency that the table says of its plan."""
        return replace(cost, latency_ns=self.cost(plan).latency_ns)

    def damages(self, plan: Plan) -> tuple[float, ...]:
        """Calibrated damage of every layer's choice, in the network's order; none of those that nothing depends on."""
        found = self._reached(plan)
        return tuple(
            self.by_name[name].by_choice[choice].damage if name in found else 0.0 for name, choice in plan.choices
        )

    def tidied(self, plan: Plan) -> Plan:
        """The plan without what layers at rank 0 make useless, and without what they make impossible.

        A layer from which only such layers take is of no use: it gets the cheapest form that it has. Where no way is
        left from the network's input to its output, one layer at rank 0 after the other gets the next larger form.
        """
        while ENDS not in (found := self._reached(plan)):
            plan = self._opened(plan, [name for name in plan if name in found and plan[name] == ZERO])
        useless = [name for name in plan if name not in found]
        for name in useless:
            plan = plan.replace(name, min(self.by_name[name].options, key=self._cheap).choice)
        return plan

    def _reached(self, plan: Plan) -> Collection[str]:
        """What the output depends on; everything where there is no layer at rank 0."""
        cut = [name for name, choice in plan.choices if choice == ZERO]
        return reached(self.wiring, cut) if cut and self.wiring else (ENDS, *plan)

    def _opened(self, plan: Plan, cut: Sequence[str]) -> Plan:
        """The plan with one of some layers at rank 0 in its cheapest other form: one that opens a way, if there is."""

        def cheapest(name: str) -> Option:
            return min((o for o in self.by_name[name].options if o.choice != ZERO), key=self._cheap)

        opened = [(name, plan.replace(name, cheapest(name).choice)) for name in cut]
        return min(opened, key=lambda o: (ENDS not in self._reached(o[1]), self._cheap(cheapest(o[0]))))[1]

    def _cheap(self, option: Option) -> tuple[int, float]:
        return self.amount(option.cost), option.damage

    def damage(self, plan: Plan, weights: Mapping[str, float] | None = None) -> float:
        """Sum of the layers' damages, each times its weight (1 when absent)."""
        return sum(
            damage * (weights.get(name, 1.0) if weights else 1.0)
            for (name, _), damage in zip(plan.choices, self.damages(plan), strict=True)
        )


def _on_one_device(cost: Cost, surveyed: Surveyed, whole_ns: int) -> tuple[Cost, tuple[Option, ...]]:
    """A layer's cost and options, their latencies relative to the whole network's wherever the layer was timed."""
    time, found = surveyed.time, surveyed.options
    if time is None or not time.whole_ns:
        return cost, found
    scale = whole_ns / time.whole_ns

    def scaled(cost: Cost, latency_ns: int) -> Cost:
        return replace(cost, latency_ns=round(scale * latency_ns))

    options = tuple(replace(option, cost=scaled(option.cost, option.cost.latency_ns)) for option in found)
    return scaled(cost, time.dense_ns), options


def _most_ratio(request: Request, layer: str) -> float:
    """The most by which the params of a layer may shrink."""
    return min((most for pattern, most in request.max_ratio if matches((pattern,), layer)), default=math.inf)
