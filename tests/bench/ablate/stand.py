"""A network on the stand: its layers surveyed in several ways, and plans of it built, tuned and scored.

Scores are those on all evaluation data: nothing is chosen by them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from diminuendo.engine import surgery, weights
from diminuendo.engine.cost import Cost, ratio
from diminuendo.engine.evaluate import MOMENT_SAMPLES
from diminuendo.engine.finetune import finetune
from diminuendo.engine.formats import Moments
from diminuendo.engine.plan import DENSE, Plan
from diminuendo.engine.profile import profile
from diminuendo.engine.refit import inherited
from diminuendo.engine.score import BATCH, NotFiniteError, divergence
from diminuendo.engine.search.path import at_most, path
from diminuendo.engine.search.rng import keyed_seed
from diminuendo.engine.search.space import LayerOptions, Space
from diminuendo.engine.search.work import Option
from diminuendo.engine.survey import factors, moments
from diminuendo.engine.task import Task
from diminuendo.engine.teacher import Teacher
from diminuendo.engine.workbench import BATCHNORM_SAMPLES, Workbench

FORMATS = ("svd", "svd_input", "spatial", "tucker2", "cp", "tt")

LOST = 100.0
"""Drop and divergence of a network whose outputs are not finite."""

Factors = dict[tuple[str, str], dict[str, Tensor]]
"""By layer and format."""


@dataclass(frozen=True)
class Scored:
    """A network after its tuning.

    Attributes:
        ratio: Params of the original for each of its own.
        drop: On the evaluation data, in points.
        divergence: KL to the original on the same, in nats per sample.
    """

    ratio: float
    drop: float
    divergence: float


@dataclass(frozen=True)
class Surveyed:
    """What a survey of one kind found: the search space, and the factors behind it."""

    space: Space
    factors: Factors

    def plan(self, wanted: float, original: int) -> Plan:
        """The plan of the multiplier path with one `wanted`-th of the original's params."""
        return fitted(self.space, int(original / wanted))

    def only(self, keep: Callable[[LayerOptions, Option], bool]) -> Surveyed:
        """The same with some of the options; dense ones stay."""
        layers = tuple(
            replace(layer, options=tuple(o for o in layer.options if o.choice == DENSE or keep(layer, o)))
            for layer in self.space.layers
        )
        return replace(self, space=replace(self.space, layers=layers))


def fitted(space: Space, most: int) -> Plan:
    """The largest point of the multiplier path that fits, and what of the rest can be filled where it helps most.

    The points of the path themselves lie up to a few percent apart, which is too far for a comparison.
    """
    plan = at_most(path(space), most).plan
    while True:
        room = most - space.cost(plan).params
        better = [
            ((now.damage - o.damage) / (o.cost.params - now.cost.params), layer.spec.name, o.choice)
            for layer in space.layers
            for now in [layer.by_choice[plan[layer.spec.name]]]
            for o in layer.options
            if o.damage < now.damage and 0 < o.cost.params - now.cost.params <= room
        ]
        if not better:
            return plan
        _, name, choice = max(better)
        plan = plan.replace(name, choice)


@dataclass
class Stand:
    """One network under one seed.

    Attributes:
        task: The network that is compressed.
        seed: Of samples, order and augmentation.
        epochs: Tuning of every network that is compared.
        teacher: What is tuned towards; the network itself when None.
        original: Params that ratios are told of; the network's own when None.
    """

    task: Task
    seed: int
    epochs: float
    formats: tuple[str, ...] = FORMATS
    teacher: Teacher | None = None
    original: int | None = None
    bench: Workbench = field(init=False)
    _tunings: int = 0

    def __post_init__(self) -> None:
        """Take the network to the bench."""
        self.bench = Workbench(self.task, self.seed)

    def begin(self) -> None:
        """Start a variant: all tune with the same seeds."""
        self._tunings = 0

    @property
    def teaching(self) -> Teacher:
        """What is tuned towards."""
        found = self.teacher or self.bench.teacher
        if not isinstance(found, Teacher):
            raise TypeError("the data is streamed; give samples in memory")
        return found

    # --- surveys -------------------------------------------------------------------------------------------

    @cached_property
    def aware(self) -> Surveyed:
        """Factors by the data, damage as calibrated: as the engine does it."""
        inputs = self.bench.training_inputs(MOMENT_SAMPLES)
        return self._survey(moments.collect(self.bench.model, self.bench.discovery.layers, inputs))

    @cached_property
    def plain(self) -> Surveyed:
        """Factors of the weights alone, as if all inputs were white noise; damage as calibrated."""
        model = self.bench.model
        return self._survey(
            {
                spec.name: moments.white(spec, model.get_submodule(spec.name), absorbs_mean=False)
                for spec in self.bench.discovery.layers
            }
        )

    def _survey(self, seen: Mapping[str, Moments]) -> Surveyed:
        bench, made, layers = self.bench, Factors(), []
        costs = {layer.name: Cost(layer.params, layer.macs) for layer in self._profile.layers}
        for spec in bench.discovery.layers:
            own = factors.factor(bench.model, spec, seen[spec.name], self.formats)
            made |= {(spec.name, name): tensors for name, tensors in own.items()}
            options, _ = bench.calibration.options(spec, own)
            dense = Option(DENSE, costs[spec.name], 0.0, 0.0)
            layers.append(LayerOptions(spec, (dense, *sorted(options, key=lambda o: (o.cost.params, o.choice)))))
        return Surveyed(Space(tuple(layers), self._profile.cost), made)

    @cached_property
    def uncalibrated(self) -> Surveyed:
        """Factors by the data, damage as the share of each layer's output variance that is dropped."""
        layers = tuple(
            replace(layer, options=tuple(replace(option, damage=option.energy) for option in layer.options))
            for layer in self.aware.space.layers
        )
        return replace(self.aware, space=replace(self.aware.space, layers=layers))

    def one_format(self, name: str) -> Surveyed:
        """One format; pointwise and linear layers, which have only that one, take svd."""
        return self.aware.only(lambda layer, o: o.choice.format == (name if layer.spec.kernel_size > 1 else "svd"))

    def some_formats(self, names: Collection[str]) -> Surveyed:
        """Some of the formats."""
        return self.aware.only(lambda _, option: option.choice.format in names)

    # --- networks ------------------------------------------------------------------------------------------

    @cached_property
    def _profile(self) -> Any:
        return profile(self.bench.model, self.bench.example, time=False)

    @property
    def params(self) -> int:
        """Params that ratios are told of."""
        return self.original or self._profile.cost.params

    def built(self, surveyed: Surveyed, plan: Plan, *, layers: bool = True, head: bool = True) -> nn.Module:
        """A plan's network with its factors' weights, layers fitted one after the other, and settled."""
        model = self.bench.model
        candidate = self.bench.fast(surgery.build(model, plan))
        surgery.load_factors(candidate, model, plan, self._of(surveyed, plan))
        if layers:
            self.bench.refit(candidate, model, plan)
        self.settle(candidate, head=head)
        return candidate

    def child(self, surveyed: Surveyed, before: Plan, parent: nn.Module, plan: Plan) -> nn.Module:
        """A plan's network that starts from a tuned parent's weights."""
        model = self.bench.model
        candidate = self.bench.fast(surgery.build(model, plan))
        state = surgery.warm_start(model, before, parent.state_dict(), plan, self._of(surveyed, plan))
        weights.load_into(candidate, state)
        self.bench.refit(candidate, parent, inherited(before, plan))
        self.settle(candidate)
        return candidate

    @staticmethod
    def _of(surveyed: Surveyed, plan: Plan) -> dict[str, dict[str, Tensor]]:
        return {name: surveyed.factors[name, c.format] for name, c in plan.items() if c != DENSE}

    def settle(self, model: nn.Module, *, head: bool = True) -> None:
        """Re-estimate BatchNorm, and fit the head."""
        if head:
            self.bench.settle(model)
        else:
            surgery.reestimate_batchnorm(model, self.bench.training_inputs(BATCHNORM_SAMPLES), BATCH)

    def tune(
        self,
        model: nn.Module,
        epochs: float,
        *,
        rate: float = 1.0,
        start: float = 0.0,
        teacher: Teacher | None = None,
        own: float | None = None,
        orthogonal: bool = True,
        head: bool = True,
    ) -> nn.Module:
        """Tune in place, as the engine does, and settle.

        Args:
            teacher: What is tuned towards, where it is another one.
            own: Weight of the task's loss, where it is not the recipe's.
            orthogonal: Whether steps on matrices are orthogonalised.
            head: Whether the head is fitted afterwards.
        """
        recipe = replace(self.bench.recipe, orthogonal=orthogonal)
        self._tunings += 1
        finetune(
            model,
            teacher or self.teaching,
            self.task.loss_of,
            recipe if own is None else replace(recipe, own=own),
            epochs=epochs,
            rate=rate,
            seed=keyed_seed(self.seed, "ablation", self._tunings),
            start=start,
        )
        self.settle(model, head=head)
        return model

    def scored(self, model: nn.Module) -> Scored:
        """A network on all evaluation data, against the network that is tuned towards."""
        bench = self.bench
        size = ratio(self.params, profile(model, bench.example, time=False).cost.params)
        try:
            scores, logits = bench.measure(model, bench.evaluation)
        except NotFiniteError:
            return Scored(size, LOST, LOST)
        apart = divergence(self.reference[1], logits)
        drop = float((self.reference[0] - scores).mean()) * (1.0 if self.task.metric.higher_is_better else -1.0)
        return Scored(size, drop, apart if math.isfinite(apart) else LOST)

    @cached_property
    def reference(self) -> tuple[Tensor, Tensor]:
        """Scores and logits, on the evaluation data, of what is tuned towards."""
        model = self.bench.model if self.teacher is None else self.teacher.model
        return self.bench.measure(model, self.bench.evaluation)


def blind(teacher: Teacher) -> Teacher:
    """A teacher that teaches nothing: its logits, and those of whoever learns, are the same constants."""

    def constant(outputs: Any) -> Tensor:
        return torch.zeros(len(teacher.logits(outputs)), 2)

    return Teacher(teacher.model, teacher.train, teacher.augment, teacher.seed, constant)
