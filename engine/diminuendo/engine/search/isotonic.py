"""Monotone fits: pool adjacent violators, and interpolation between what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Monotone:
    """A non-decreasing piecewise linear function through its knots.

    Attributes:
        x: Positions of the knots, strictly ascending.
        y: Values at the knots, non-decreasing.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]

    def __call__(self, at: float) -> float:
        """Value at a position: constant below the first knot, above the last one with the overall slope."""
        if at > self.x[-1] and len(self.x) > 1:
            slope = (self.y[-1] - self.y[0]) / (self.x[-1] - self.x[0])
            return self.y[-1] + slope * (at - self.x[-1])
        return float(np.interp(at, self.x, self.y))

    def crossing(self, level: float) -> float | None:
        """Largest position at which the function is at most `level`; None when it is above it everywhere.

        Beyond the last knot the overall slope is followed; infinite when that is flat.
        """
        if self.y[0] > level:
            return None
        if self.y[-1] <= level:
            slope = (self.y[-1] - self.y[0]) / (self.x[-1] - self.x[0]) if len(self.x) > 1 else 0.0
            return self.x[-1] + (level - self.y[-1]) / slope if slope > 0 else float("inf")
        last = max(i for i, value in enumerate(self.y) if value <= level)
        rise = self.y[last + 1] - self.y[last]
        return self.x[last] + (level - self.y[last]) / rise * (self.x[last + 1] - self.x[last])


def fit(x: Sequence[float], y: Sequence[float], weights: Sequence[float] | None = None) -> Monotone:
    """Least-squares non-decreasing fit by pool adjacent violators (Ayer et al. 1955).

    Args:
        x: Positions, in any order; at least one. Equal positions are averaged.
        y: Observations.
        weights: Positive weights; all 1 when absent.

    Raises:
        ValueError: No observations, or lengths that differ.
    """
    if not x or len(x) != len(y) or (weights is not None and len(weights) != len(x)):
        raise ValueError(f"a monotone fit needs as many positions as observations, got {len(x)} and {len(y)}")
    weight = [1.0] * len(x) if weights is None else list(weights)
    merged: dict[float, tuple[float, float]] = {}
    for at, value, w in zip(x, y, weight, strict=True):
        mass, total = merged.get(at, (0.0, 0.0))
        merged[at] = (mass + w, total + w * value)
    # A block: its mass, its total, the mass-weighted sum of positions.
    blocks: list[tuple[float, float, float]] = []
    for at in sorted(merged):
        mass, total = merged[at]
        blocks.append((mass, total, mass * at))
        while len(blocks) > 1 and blocks[-2][1] * blocks[-1][0] >= blocks[-1][1] * blocks[-2][0]:
            (m1, t1, p1), (m2, t2, p2) = blocks[-2:]
            blocks[-2:] = [(m1 + m2, t1 + t2, p1 + p2)]
    return Monotone(tuple(p / m for m, _, p in blocks), tuple(t / m for m, t, _ in blocks))
