"""A world to search in: a made-up network whose drop is a known function of the plan, answered without torch."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field

from diminuendo.engine.cost import Cost
from diminuendo.engine.plan import DENSE, Call, Choice, LayerSpec, Plan
from diminuendo.engine.search.drive import AnyAnswer
from diminuendo.engine.search.work import (
    Evaluate,
    Evaluated,
    Judge,
    Judged,
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
REST = Cost(1000, 1000, 4000, 3 * 64)
"""What is not a layer of the search: the input counts for memory."""


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def profile_of(cost: Cost) -> ProfileSummary:
    return ProfileSummary(cost.params, cost.macs, cost.size_bytes / 2**20, cost.memory_bytes / 2**20, 1.0, ())


@dataclass
class World:
    """Answers works as a real worker would, from a known landscape.

    Attributes:
        sensitivity: Points of drop for each unit of dropped energy, by layer.
        misjudged: Factor by which the calibration underrates a layer, by layer index.
        diverges: Work indices whose tuning diverges.
        floor: Drop that no tuning removes.
    """

    sensitivity: tuple[float, ...] = (4.0, 2.0, 1.0, 1.0)
    misjudged: dict[int, float] = field(default_factory=dict)
    diverges: frozenset[int] = frozenset()
    floor: float = 0.0
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
            params = 9 * width * width
        elif choice.format == "svd":
            params = choice.ranks[0] * (9 * width + width)
        else:
            r_in, r_out = choice.ranks
            params = width * r_in + 9 * r_in * r_out + r_out * width
        return Cost(params, params * positions, 4 * params, positions * (width + sum(choice.ranks)))

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
            layers = tuple((self.spec(i), self.cost(DENSE, i)) for i in range(len(WIDTHS)))
            return Prepared(
                sha("task"), "top1", True, 98.0, 400, 400, 1000, self.total(), layers, (), sha("moments"), 1.0
            )
        if isinstance(question, SurveyLayer):
            i = int(question.layer[-1])
            stored = tuple((name, sha(f"{question.layer} {name}")) for name in ("svd", "tucker2"))
            options = tuple(o for o in self.options(i) if all(r % question.multiple == 0 for r in o.choice.ranks))
            return Surveyed(question.layer, stored, options, (), 1.0)
        if isinstance(question, Evaluate):
            plan = Plan(question.choices)
            cost = self.plan_cost(plan)
            if work.index in self.diverges:
                return Evaluated(None, None, None, cost, 100, float(question.epochs))
            weights = sha(f"{plan.key()} {question.parent} {question.epochs} {question.tuning_seed}")
            return Evaluated(98.0 - self.drop(plan), self.divergence(plan), weights, cost, 100, float(question.epochs))
        return self.judge(question)

    def judge(self, question: Judge) -> Judged:
        plans = [Plan(tuned.choices) for tuned in question.finalists]
        verdicts = tuple(
            Verdict(98.0 - self.drop(p), self.drop(p), self.drop(p) - 0.5, self.drop(p) + 0.5) for p in plans
        )
        original = profile_of(self.total())
        profiles = tuple(profile_of(self.plan_cost(p)) for p in plans)
        return Judged(98.0, verdicts, Verdict(98.0, 0.0, -0.5, 0.5), original, profiles, "a made-up machine", 1.0)
