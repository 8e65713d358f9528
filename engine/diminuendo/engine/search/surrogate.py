"""What a plan is expected to do to the network, learned from the candidates tuned so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diminuendo.engine.plan import Plan
from diminuendo.engine.search import isotonic
from diminuendo.engine.search.isotonic import Monotone
from diminuendo.engine.search.space import Space

PRIOR = 2.0
"""Trials that the prior of a layer's weight counts for."""

FLOOR = 1e-6
"""Smallest divergence, in nats, that is told from none."""


@dataclass(frozen=True, slots=True)
class Observation:
    """A tuned candidate: its plan, its divergence from the original (nats) and its drop (points)."""

    plan: Plan
    divergence: float
    drop: float


@dataclass(frozen=True)
class Surrogate:
    """Layer weights, and drop as monotone functions of damage and of divergence.

    Attributes:
        weights: Correction of each layer's calibrated damage.
        drop_by_damage: Drop after tuning over log of weighted damage.
        drop_by_divergence: Drop over log of the measured divergence: the divergence of a few hundred samples is
            far less noisy than their accuracy, and so steadies it.
    """

    space: Space
    weights: dict[str, float]
    drop_by_damage: Monotone
    drop_by_divergence: Monotone

    @classmethod
    def fit(cls, space: Space, seen: Sequence[Observation]) -> Surrogate:
        """Fit to at least one observation."""
        weights = fit_weights(space, seen)
        damage = [math.log(max(FLOOR, space.damage(o.plan, weights))) for o in seen]
        divergence = [math.log(max(FLOOR, o.divergence)) for o in seen]
        drops = [o.drop for o in seen]
        return cls(space, weights, isotonic.fit(damage, drops), isotonic.fit(divergence, drops))

    def damage(self, plan: Plan) -> float:
        """Weighted damage of a plan."""
        return self.space.damage(plan, self.weights)

    def drop(self, plan: Plan) -> float:
        """Drop expected of a plan after tuning, in points."""
        return self.drop_by_damage(math.log(max(FLOOR, self.damage(plan))))

    def steadied(self, drop: float, divergence: float) -> float:
        """A measured drop, steadied by what its divergence says: the mean of both."""
        return 0.5 * (drop + self.drop_by_divergence(math.log(max(FLOOR, divergence))))


def fit_weights(space: Space, seen: Sequence[Observation], *, sweeps: int = 30) -> dict[str, float]:
    """Each layer's factor on its calibrated damage, so that weighted sums follow the measured divergences.

    Maximum a posteriori of a Poisson-like model with a gamma prior of mean 1 on every weight, by the usual
    multiplicative updates (Lee and Seung 2000): weights stay positive, and a layer that the trials say nothing
    about stays at 1.
    """
    names = [layer.spec.name for layer in space.layers]
    rows = np.array([space.damages(o.plan) for o in seen], dtype=np.float64).reshape(len(seen), len(names))
    target = np.array([max(FLOOR, o.divergence) for o in seen], dtype=np.float64)
    useful = rows.sum(axis=1) > FLOOR
    rows, target = rows[useful], target[useful]
    weights = np.ones(len(names))
    if len(rows) > 1:
        # Tuning shrinks all divergences alike; only what differs between layers is learned.
        sums = rows.sum(axis=1)
        rows, target = rows / sums[:, None], target / sums
        target = target / np.median(target)
        prior = PRIOR / len(names)
        for _ in range(sweeps):
            expected = np.maximum(rows @ weights, FLOOR)
            weights *= (rows.T @ (target / expected) + prior / weights) / (rows.sum(axis=0) + prior)
    return dict(zip(names, weights.tolist(), strict=True))
