"""How much searching each effort does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diminuendo.engine.plan import FORMAT_NAMES

EffortName = Literal["quick", "normal", "deep"]


@dataclass(frozen=True, slots=True)
class Settings:
    """Amounts of one effort. Epochs are passes over the training data.

    Attributes:
        budgets: Plans of the first round, log-spaced in params.
        least_ratio: Params ratio of the mildest plan of the first round.
        most_damage: Predicted damage of the strongest one, in nats before tuning.
        first_epochs: Tuning of each plan of the first round.
        kept: Plans that go on, the ones nearest to delta.
        kept_epochs: Further tuning of the kept ones.
        bracket: Plans between the last one inside delta and the first one outside, from the former's weights.
        bracket_epochs: Tuning of each of those.
        moves: Evaluations of the annealing.
        window: Annealing proposals under way at a time. Proposal k knows the outcomes up to k - window, however
            many evaluators there are, so that decisions do not depend on their number.
        move_epochs: Tuning of each of those.
        surrogate_moves: Moves on the surrogate for each proposal.
        step: First step of the annealing, in log params.
        cooling: Factor on the step after a proposal that fell outside delta.
        least_step: The annealing ends when the step is smaller.
        growths: Params of the candidates that are tuned in full and judged, relative to the best one's.
        final_epochs: Full tuning of each of those.
        squeezes: Most smaller ones that are made from a finalist which full tuning left far inside delta.
        easings: Most attempts to bring a finalist inside delta where full tuning left all of them outside.
        formats: Forms that layers may take, when the request does not say. Each costs its measurements in the survey.
    """

    budgets: int
    least_ratio: float
    most_damage: float
    first_epochs: float
    kept: int
    kept_epochs: float
    bracket: int
    bracket_epochs: float
    moves: int
    window: int
    move_epochs: float
    surrogate_moves: int
    step: float
    cooling: float
    least_step: float
    growths: tuple[float, ...]
    final_epochs: float
    squeezes: int
    easings: int
    formats: tuple[str, ...]

    @property
    def untuned(self) -> bool:
        """Whether no candidate is tuned before the full tuning."""
        return not self.first_epochs

    @property
    def after_epochs(self) -> float:
        """Most tuning of what is made of a finalist that came out inside delta."""
        return self.final_epochs if self.untuned else self.move_epochs


_RANKED = tuple(name for name in FORMAT_NAMES if name != "zero")

EFFORTS: dict[EffortName, Settings] = {
    "quick": Settings(
        budgets=6,
        least_ratio=2.0,
        most_damage=2.0,
        first_epochs=2,
        kept=3,
        kept_epochs=4,
        bracket=4,
        bracket_epochs=4,
        moves=12,
        window=4,
        move_epochs=6,
        surrogate_moves=1000,
        step=0.25,
        cooling=0.75,
        least_step=0.02,
        growths=(1.0, 1.4, 2.2),
        final_epochs=12,
        squeezes=4,
        easings=2,
        formats=("svd", "tucker2", "cp"),
    ),
    "normal": Settings(
        budgets=8,
        least_ratio=1.5,
        most_damage=3.0,
        first_epochs=3,
        kept=4,
        kept_epochs=6,
        bracket=4,
        bracket_epochs=6,
        moves=24,
        window=4,
        move_epochs=8,
        surrogate_moves=3000,
        step=0.25,
        cooling=0.8,
        least_step=0.01,
        growths=(1.0, 1.15, 1.35, 1.7),
        final_epochs=24,
        squeezes=6,
        easings=3,
        formats=_RANKED,
    ),
    "deep": Settings(
        budgets=12,
        least_ratio=1.5,
        most_damage=3.0,
        first_epochs=4,
        kept=6,
        kept_epochs=8,
        bracket=6,
        bracket_epochs=8,
        moves=64,
        window=8,
        move_epochs=12,
        surrogate_moves=5000,
        step=0.25,
        cooling=0.85,
        least_step=0.005,
        growths=(1.0, 1.1, 1.25, 1.5, 2.0),
        final_epochs=48,
        squeezes=8,
        easings=3,
        formats=_RANKED,
    ),
}
"""The amounts of every effort."""
