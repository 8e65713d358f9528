"""What a plan is expected to do to the network, learned from the candidates tuned so far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diminuendo.engine.plan import Plan
from diminuendo.engine.search import isotonic
from diminuendo.engine.search.isotonic import Monotone
from diminuendo.engine.search.space import Space

PRIOR = 4.0
"""Trials that the prior of the weights counts for, in all."""

CLIP = 3.0
"""Most that one trial may depart from the trend, as a factor."""

LEAST_TRIALS = 5
"""Trials before weights are learned: the trend alone takes three."""

FLOOR = 1e-6
"""Smallest divergence, in nats, that is told from none."""


@dataclass(frozen=True, slots=True)
class Observation:
    """A tuned candidate: its plan, its divergence from the original (nats), its drop (points), its tuning."""

    plan: Plan
    divergence: float
    drop: float
    epochs: float = 0.0

    @property
    def tuned(self) -> bool:
        """Whether it was tuned at all."""
        return self.epochs > 0


@dataclass(frozen=True)
class Surrogate:
    """Layer weights, and drop as monotone functions of damage and of divergence.

    Attributes:
        weights: Correction of each layer's calibrated damage.
        drop_by_damage: Drop after tuning over log of weighted damage.
        drop_by_divergence: Drop over log of the measured divergence, of candidates that were tuned (True) and of those
            that were not: the divergence of a few hundred samples is far less noisy than their accuracy, and so
            steadies it. At the same divergence a tuned candidate has the lower drop.
    """

    space: Space
    weights: dict[str, float]
    drop_by_damage: Monotone
    drop_by_divergence: Mapping[bool, Monotone]

    @classmethod
    def fit(cls, space: Space, seen: Sequence[Observation]) -> Surrogate:
        """Fit to at least one observation."""
        weights = fit_weights(space, seen)
        damage = [_log(space.damage(o.plan, weights)) for o in seen]
        drops = [o.drop for o in seen]
        by_divergence = {
            tuned: isotonic.fit([_log(o.divergence) for o in alike], [o.drop for o in alike])
            for tuned in (False, True)
            if (alike := [o for o in seen if o.tuned == tuned])
        }
        return cls(space, weights, isotonic.fit(damage, drops), by_divergence)

    def damage(self, plan: Plan) -> float:
        """Weighted damage of a plan."""
        return self.space.damage(plan, self.weights)

    def drop(self, plan: Plan) -> float:
        """Drop expected of a plan after tuning, in points."""
        return self.drop_by_damage(_log(self.damage(plan)))

    def steadied(self, seen: Observation) -> float:
        """The drop of one of the observations, steadied by what its divergence says: the mean of both."""
        return 0.5 * (seen.drop + self.drop_by_divergence[seen.tuned](_log(seen.divergence)))


def _log(figure: float) -> float:
    return math.log(max(FLOOR, figure))


def fit_weights(space: Space, seen: Sequence[Observation], *, sweeps: int = 30) -> dict[str, float]:
    """Each layer's factor on its calibrated damage, learned from where the measured divergences depart from it.

    What all layers share is taken out first: divergence follows damage by a power law, and shrinks with the epochs
    of tuning. The remaining factor of each trial is explained by the layers' shares of its damage: maximum a
    posteriori of a Poisson-like model with a gamma prior of mean 1 on every weight, by the usual multiplicative
    updates (Lee and Seung 2000). Weights stay positive, and a layer that the trials say nothing about stays at 1.
    """
    names = [layer.spec.name for layer in space.layers]
    rows = np.array([space.damages(o.plan) for o in seen], dtype=np.float64).reshape(len(seen), len(names))
    sums = rows.sum(axis=1)
    useful = sums > FLOOR
    weights = np.ones(len(names))
    if useful.sum() >= LEAST_TRIALS:
        rows, sums = rows[useful], sums[useful]
        divergence = np.array([max(FLOOR, o.divergence) for o in seen])[useful]
        epochs = np.array([o.epochs for o in seen])[useful]
        trend = np.stack([np.ones(len(sums)), np.log(sums), np.log1p(epochs)], axis=1)
        residual = np.log(divergence) - trend @ np.linalg.lstsq(trend, np.log(divergence), rcond=None)[0]
        target = np.exp(np.clip(residual, -math.log(CLIP), math.log(CLIP)))
        shares, prior = rows / sums[:, None], PRIOR / len(names)
        for _ in range(sweeps):
            expected = np.maximum(shares @ weights, FLOOR)
            weights = (weights * (shares.T @ (target / expected)) + prior) / (shares.sum(axis=0) + prior)
    return dict(zip(names, weights.tolist(), strict=True))
