"""How the zoo's networks are trained from scratch: the usual recipe, and a short one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

RecipeName = Literal["usual", "short"]

MILESTONES = (0.3, 0.6, 0.8)
"""Where the usual recipe divides its rate by 5: after 60, 120 and 160 of 200 epochs."""

STEP = 0.2
WARM = 0.2
"""Share of the short recipe in which the rate rises."""


@dataclass(frozen=True, slots=True)
class TrainingRecipe:
    """SGD from random weights.

    Attributes:
        name: ``usual``: steps of the rate, as in the literature. ``short``: one cycle, a rise and half a cosine.
        epochs: Passes over the training images.
        rate: Largest learning rate.
        nesterov: Whether momentum is Nesterov's.
        smoothing: Of the labels.
    """

    name: RecipeName
    epochs: int
    rate: float
    nesterov: bool
    smoothing: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 128

    def rate_at(self, progress: float) -> float:
        """Learning rate when a share 0 <= progress < 1 of the training is done."""
        if self.name == "usual":
            return self.rate * STEP ** sum(progress >= milestone for milestone in MILESTONES)
        if progress < WARM:
            return self.rate * (0.04 + 0.96 * progress / WARM)
        return self.rate * 0.5 * (1.0 + math.cos(math.pi * (progress - WARM) / (1.0 - WARM)))


RECIPES: dict[RecipeName, TrainingRecipe] = {
    "usual": TrainingRecipe("usual", epochs=200, rate=0.1, nesterov=False, smoothing=0.0),
    "short": TrainingRecipe("short", epochs=18, rate=0.15, nesterov=True, smoothing=0.1),
}
