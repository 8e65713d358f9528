"""What each form of a layer harms: measured at a few ranks, interpolated at all others.

Truncate one layer, re-estimate BatchNorm (in closed form where the factors tell the statistics of all that comes
after), and take the KL divergence to the original. Measured at a few rungs of
each format's ladder, and carried to the others by a monotone curve of damage over dropped energy.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from diminuendo.engine import surgery, tree
from diminuendo.engine.formats import FORMATS, Factors, Format
from diminuendo.engine.formats.layers import kernel_of
from diminuendo.engine.modules import unwrapped
from diminuendo.engine.plan import Choice, LayerSpec, Plan
from diminuendo.engine.score import divergence, outputs_of
from diminuendo.engine.search.work import Option
from diminuendo.engine.survey.norms import Norms, follow

Measured = tuple[tuple[str, tuple[int, ...], float], ...]
"""(format, ranks, KL divergence in nats per sample)."""

_TINY_ENERGY = 1e-12
_TINY_DAMAGE = 1e-6
"""Below these, energy and damage are rounding; logarithms need a floor."""

_RUINED = 1e6
"""Damage of a form that gives no usable output: finite, so that it can be stored and compared."""


@dataclass
class Calibration:
    """Measures what forms of a network's layers harm.

    Attributes:
        model: The original network; not changed.
        inputs: (N, ...) training inputs, as `tree` has them, on which the damage is measured.
        reference: (N, C, ...) the original's logits on `inputs`.
        bn_inputs: (M, ...) training inputs from which BatchNorm is re-estimated.
        logits: The outputs' part that is compared.
        batch_size: Samples in one forward.
    """

    model: nn.Module
    inputs: Any
    reference: Tensor
    bn_inputs: Any
    logits: Callable[[Any], Tensor] = lambda outputs: outputs
    batch_size: int = 250

    def options(
        self, spec: LayerSpec, factors: Mapping[str, Factors], *, points: int = 4, multiple: int = 1
    ) -> tuple[tuple[Option, ...], Measured]:
        """Every form of a layer with its cost and its damage.

        Args:
            spec: The layer.
            factors: Of this layer, by format.
            points: Measurements for each format, at least 1.
            multiple: What ranks between a ladder's ends are multiples of.

        Returns:
            Options by format and then by params, damage non-increasing within a format; and what was measured. The
            options' damage is what exceeds that of re-estimating BatchNorm alone, which is no fault of the form's.
        """
        norms = follow(self.model, [spec], tree.take(self.inputs, slice(0, 2)))
        item_bytes = kernel_of(unwrapped(self.model).get_submodule(spec.name)).element_size()
        found: list[Option] = []
        measured: list[tuple[str, tuple[int, ...], float]] = []
        for name, form in FORMATS.items():
            if name not in factors:
                continue
            own = factors[name]
            ladder = form.snapped(spec, form.ladder(spec, own), multiple)
            energies = [form.energy(own, ranks) for ranks in ladder]
            known: list[tuple[float, float]] = []
            for rung in rungs_to_measure(len(ladder), points):
                damage, floor = self._damage(spec, Choice(name, ladder[rung]), own, norms)
                measured.append((name, ladder[rung], damage))
                known.append((energies[rung], max(0.0, damage - floor)))
            found += _options_of(form, spec, ladder, energies, known, item_bytes)
        return tuple(found), tuple(measured)

    @cached_property
    def _floor(self) -> float:
        """What re-estimating BatchNorm alone does."""
        return self._divergence(self._reestimated(surgery.build(self.model, Plan(()))))

    def _damage(self, spec: LayerSpec, choice: Choice, factors: Factors, norms: Norms) -> tuple[float, float]:
        """Divergence of the original with one layer in another form, and what of it is not the form's fault."""
        plan = Plan.of({spec.name: choice})
        candidate = surgery.build(self.model, plan)
        surgery.load_factors(candidate, self.model, plan, {spec.name: factors})
        done = surgery.batchnorm_in_closed_form(candidate, plan, {spec.name: factors}, norms.follower)
        if done >= set(norms.after[spec.name]):  # nothing after the layer is left to be estimated
            return self._divergence(candidate), 0.0
        return self._divergence(self._reestimated(candidate)), self._floor

    def _reestimated(self, candidate: nn.Module) -> nn.Module:
        surgery.reestimate_batchnorm(candidate, self.bn_inputs, self.batch_size)
        return candidate

    def _divergence(self, candidate: nn.Module) -> float:
        """From the original, at most `_RUINED`, as where an output is not finite."""
        outputs = outputs_of(candidate, self.inputs, batch_size=self.batch_size, part=self.logits)
        found = divergence(self.reference, outputs)
        return min(found, _RUINED) if math.isfinite(found) else _RUINED


def rungs_to_measure(count: int, points: int) -> list[int]:
    """Indices of rungs spread evenly over a ladder of `count`, both ends among them.

    A ladder's rungs are even on a log scale of params. Spread like that, four points tell the damage at the rest
    nearer than when spread evenly over the logarithm of the energy, which crowds them where hardly anything is
    lost.
    """
    if count == 0:
        return []
    if points == 1:
        return [count // 2]
    return sorted({round(i * (count - 1) / (points - 1)) for i in range(points)})


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


def _options_of(
    form: Format,
    spec: LayerSpec,
    ladder: Sequence[tuple[int, ...]],
    energies: Sequence[float],
    known: Sequence[tuple[float, float]],
    item_bytes: int,
) -> list[Option]:
    """One option for each rung."""
    if not ladder:
        return []
    curve = DamageCurve(known)
    found: list[Option] = []
    ceiling = math.inf
    for ranks, energy in zip(ladder, energies, strict=True):
        ceiling = min(ceiling, curve(energy))
        found.append(Option(Choice(form.name, ranks), form.cost(spec, ranks, item_bytes=item_bytes), energy, ceiling))
    return found
