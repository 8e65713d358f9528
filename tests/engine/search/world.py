"""A world to search in: a made-up network whose drop is a known function of the plan, answered without torch."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace

from diminuendo.engine.cost import Cost
from diminuendo.engine.exports.forms import Exported, parse
from diminuendo.engine.plan import DENSE, Call, Choice, LayerSpec, Plan
from diminuendo.engine.search.drive import AnyAnswer
from diminuendo.engine.search.work import (
    Evaluate,
    Evaluated,
    Export,
    ExportsMade,
    Failed,
    FailureReason,
    Judge,
    Judged,
    LayerTime,
    Option,
    Prepare,
    Prepared,
    ProfileSummary,
    Surveyed,
    SurveyLayer,
    Verdict,
    Work,
)

WIDTHS = (16, 32, 48, 64)
REST = Cost(1000, 1000, 4000, 3 * 64, 50_000)
"""What is not a layer of the search: the input counts for memory."""

CALL_NS, MAC_NS, BLOCK = 5_000, 0.05, 16
"""Time of each stage of a form, and of each MAC; channels are computed in whole blocks."""


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def profile_of(cost: Cost) -> ProfileSummary:
    ms = cost.latency_ns / 1e6
    return ProfileSummary(cost.params, cost.macs, cost.size_bytes / 2**20, cost.memory_bytes / 2**20, ms, ())


def untimed(cost: Cost) -> Cost:
    return replace(cost, latency_ns=0)


def stages_ns(*stages: tuple[int, int]) -> int:
    """Time of stages of (channels, weights of each) at 64 positions."""
    blocks = (BLOCK * math.ceil(channels / BLOCK) * weights for channels, weights in stages)
    return round(sum(CALL_NS + MAC_NS * 64 * each for each in blocks))


@dataclass
class World:
    """Answers works as a real worker would, from a known landscape.

    Attributes:
        sensitivity: Points of drop for each unit of dropped energy, by layer.
        misjudged: Factor by which the calibration underrates a layer, by layer index.
        diverges: Work indices whose tuning diverges.
        floor: Drop that no tuning removes.
        own: Weight of the owner's loss as the recipe has it; None: the search finds it.
        learned_by_heart: Factor on divergence and drop under the full weight of the owner's loss.
        cured: Share of drop and divergence that is left after two dozen epochs.
        untuned: Factor on drop and divergence of candidates that were not tuned.
        stricter: Points by which drops are larger on the sealed half.
        unexportable: Forms that fail.
        export_fails: Why no exports can be had at all, whoever tries.
        off: Factor by which networks are slower, measured whole, than the sum of the table says.
        beside_s: Seconds that a candidate takes beside its tuning, of which an epoch takes one.
        epoch_s: Seconds that an epoch of the original is said to take.
    """

    sensitivity: tuple[float, ...] = (4.0, 2.0, 1.0, 1.0)
    misjudged: dict[int, float] = field(default_factory=dict)
    diverges: frozenset[int] = frozenset()
    floor: float = 0.0
    own: float | None = 1.0
    learned_by_heart: float = 1.0
    cured: float = 1.0
    untuned: float = 1.0
    stricter: float = 0.0
    off: float = 1.0
    beside_s: float = 0.0
    epoch_s: float = 0.0
    unexportable: tuple[str, ...] = ()
    export_fails: FailureReason | None = None
    answered: list[int] = field(default_factory=list)

    def spec(self, i: int) -> LayerSpec:
        return LayerSpec(f"layer{i}", "conv", WIDTHS[i], WIDTHS[i], (3, 3), calls=(Call(1, (8, 8), (8, 8)),))

    def energy(self, choice: Choice, i: int) -> float:
        """Share dropped: falls geometrically with the rank; tucker2 pays on both sides."""
        if choice == DENSE:
            return 0.0
        return min(1.0, sum(math.exp(-6.0 * rank / WIDTHS[i]) - math.exp(-6.0) for rank in choice.ranks))

    def cost(self, choice: Choice, i: int) -> Cost:
        width, positions = WIDTHS[i], 64
        if choice == DENSE:
            params, ns = 9 * width * width, stages_ns((width, 9 * width))
        elif choice.format == "svd":
            (rank,) = choice.ranks
            params, ns = rank * (9 * width + width), stages_ns((rank, 9 * width), (width, rank))
        else:
            r_in, r_out = choice.ranks
            params = width * r_in + 9 * r_in * r_out + r_out * width
            ns = stages_ns((r_in, width), (r_out, 9 * r_in), (width, r_out))
        return Cost(params, params * positions, 4 * params, positions * (width + sum(choice.ranks)), ns)

    def options(self, i: int) -> tuple[Option, ...]:
        width = WIDTHS[i]
        ranks = range(2, width, max(1, width // 16))
        choices = [Choice("svd", (r,)) for r in ranks] + [Choice("tucker2", (r, r)) for r in ranks]
        rated = self.sensitivity[i] / self.misjudged.get(i, 1.0)
        return tuple(
            Option(c, self.cost(c, i), self.energy(c, i), 0.3 * rated * self.energy(c, i))
            for c in choices
            if self.cost(c, i).params < 9 * width * width
        )

    def timed(self, i: int) -> LayerTime:
        return LayerTime(self.cost(DENSE, i).latency_ns, self.total().latency_ns, 0.01, "a made-up machine")

    def total(self) -> Cost:
        cost = REST
        for i in range(len(WIDTHS)):
            cost = cost + self.cost(DENSE, i)
        return cost

    def plan_cost(self, plan: Plan) -> Cost:
        cost = REST
        for i, choice in enumerate(plan.values()):
            cost = cost + self.cost(choice, i)
        return cost

    def drop(self, plan: Plan) -> float:
        """Drop after tuning, in quarters of a point, as 400 samples would show it."""
        damage = sum(
            s * self.energy(c, i) for i, (s, c) in enumerate(zip(self.sensitivity, plan.values(), strict=True))
        )
        return self.floor + round(4 * (damage - 0.25)) / 4

    def divergence(self, plan: Plan) -> float:
        return 0.02 * sum(
            s * self.energy(c, i) for i, (s, c) in enumerate(zip(self.sensitivity, plan.values(), strict=True))
        )

    def run(self, work: Work) -> AnyAnswer:
        self.answered.append(work.index)
        question = work.question
        if isinstance(question, Prepare):
            layers = tuple((self.spec(i), untimed(self.cost(DENSE, i))) for i in range(len(WIDTHS)))
            total = untimed(self.total())
            return Prepared(
                sha("task"), "top1", True, 98.0, 400, 400, 1000, total, layers, (), sha("moments"), 1.0, own=self.own,
                epoch_s=self.epoch_s, score_s=self.beside_s,
            )  # fmt: skip
        if isinstance(question, SurveyLayer):
            i = int(question.layer[-1])
            stored = tuple((name, sha(f"{question.layer} {name}")) for name in ("svd", "tucker2"))
            options = tuple(o for o in self.options(i) if all(r % question.multiple == 0 for r in o.choice.ranks))
            if not question.latency:
                options = tuple(replace(o, cost=untimed(o.cost)) for o in options)
                return Surveyed(question.layer, stored, options, (), 1.0)
            return Surveyed(question.layer, stored, options, (), 1.0, self.timed(i))
        if isinstance(question, Evaluate):
            plan = Plan(question.choices)
            cost = untimed(self.plan_cost(plan))
            if work.index in self.diverges:
                return Evaluated(None, None, None, cost, 100, self.beside_s + question.epochs, self.beside_s)
            weights = sha(f"{plan.key()} {question.parent} {question.epochs} {question.tuning_seed}")
            left = self.cured if question.start + question.epochs >= 24 else 1.0
            left *= self.learned_by_heart if question.own == 1.0 else 1.0
            left *= 1.0 if question.start + question.epochs else self.untuned
            return Evaluated(
                98.0 - left * self.drop(plan),
                left * self.divergence(plan),
                weights,
                cost,
                100,
                self.beside_s + question.epochs,
                self.beside_s,
            )
        if isinstance(question, Export):
            return self.exported(question)
        return self.judge(question)

    def exported(self, question: Export) -> ExportsMade | Failed:
        """Every form as a file of its own, but for those of `unexportable`."""
        if self.export_fails is not None:
            return Failed(self.export_fails, "exporting: it was lost")
        made = [
            (Exported(form, error="the network decides by its data; write it otherwise"), None)
            if form in self.unexportable
            else (
                Exported(form, parse(form).file, 1000, metric=98.0, drop=0.0),
                sha(f"{question.tuned.weights} {form}"),
            )
            for form in question.forms
        ]
        return ExportsMade(tuple(made), 2.0)

    def judge(self, question: Judge) -> Judged:
        plans = [Plan(tuned.choices) for tuned in question.finalists]
        drops = [self.drop(plan) + self.stricter for plan in plans]
        verdicts = tuple(Verdict(98.0 - drop, drop, drop - 0.5, drop + 0.5) for drop in drops)
        original = profile_of(self.total())
        profiles = tuple(profile_of(self.whole(p)) for p in plans)
        return Judged(
            98.0,
            verdicts,
            Verdict(98.0, 0.0, -0.5, 0.5),
            original,
            profiles,
            "a made-up machine",
            1.0,
            tuple(original.time_ms / profile.time_ms for profile in profiles),
            0.02,
        )

    def whole(self, plan: Plan) -> Cost:
        """What a finalist is measured to cost."""
        cost = self.plan_cost(plan)
        return replace(cost, latency_ns=round(self.off * cost.latency_ns))
