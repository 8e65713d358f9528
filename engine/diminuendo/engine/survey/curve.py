"""Damage over dropped energy: a monotone curve through what was measured."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

_TINY_ENERGY = 1e-12
_TINY_DAMAGE = 1e-6
"""Below these, energy and damage are rounding; logarithms need a floor."""


class DamageCurve:
    """Damage over energy: straight between the measured points on log-log axes, never falling.

    Beyond the measured points damage is proportional to energy, which is what a small error does to a KL
    divergence; no energy is no damage.
    """

    def __init__(self, known: Sequence[tuple[float, float]]) -> None:
        """From (energy, damage) as measured, at least one; violations of the order are pooled."""
        points = sorted((max(energy, _TINY_ENERGY), damage) for energy, damage in known)
        self._x = [math.log(energy) for energy, _ in points]
        self._y = _pooled([math.log(max(damage, _TINY_DAMAGE)) for _, damage in points])

    def __call__(self, energy: float) -> float:
        """Damage in nats per sample."""
        if energy <= 0:
            return 0.0
        x = math.log(max(energy, _TINY_ENERGY))
        if x <= self._x[0]:
            return math.exp(self._y[0] + x - self._x[0])
        if x >= self._x[-1]:
            return math.exp(self._y[-1] + x - self._x[-1])
        right = bisect_left(self._x, x)
        x0, x1, y0, y1 = self._x[right - 1], self._x[right], self._y[right - 1], self._y[right]
        return math.exp(y0 + (y1 - y0) * (x - x0) / (x1 - x0))


def _pooled(values: Sequence[float]) -> list[float]:
    """The nearest non-decreasing values in least squares (pool adjacent violators)."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        blocks.append((value, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, n), (b, m) = blocks[-2:]
            blocks[-2:] = [((a * n + b * m) / (n + m), n + m)]
    return [mean for mean, count in blocks for _ in range(count)]
